from __future__ import annotations

import sys
from pathlib import Path

import pytest

from taskengine.errors import DeclarationError, SettingsError
from taskengine.target import load_target, source_folder

APP = """
from taskengine import TaskEngine
engine = TaskEngine("one")
other = TaskEngine("two")
number = 3
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "app.py"
    file.write_text(APP)
    return file


def test_a_file_and_a_name_give_the_engine(app: Path) -> None:
    assert load_target(f"{app}:other").name == "two"


def test_the_name_may_be_left_out_when_it_is_engine(app: Path) -> None:
    assert load_target(str(app)).name == "one"


def test_a_target_is_imported_once(app: Path) -> None:
    assert load_target(str(app)) is load_target(f"{app}:engine")


def test_a_module_on_the_current_folder_gives_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: Path
) -> None:
    (tmp_path / "shop_of_test").mkdir()
    (tmp_path / "shop_of_test" / "tools.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    assert load_target("shop_of_test.tools:engine").name == "one"


def test_a_file_may_import_its_neighbours(app: Path) -> None:
    (app.parent / "neighbour_of_test.py").write_text("NAME = 'three'")
    app.write_text("from taskengine import TaskEngine\nimport neighbour_of_test as n\nengine = TaskEngine(n.NAME)")
    assert load_target(str(app)).name == "three"


def test_a_file_named_like_a_module_hides_nothing(tmp_path: Path, app: Path) -> None:
    (tmp_path / "json.py").write_text(APP)
    assert load_target(f"{tmp_path / 'json.py'}:engine").name == "one"
    assert hasattr(sys.modules["json"], "dumps")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere/app.py:engine", "is not a file"),
        ("no_module_of_this_name:engine", "there is no module"),
        ("json:engine", "nothing named 'engine'; it has no TaskEngine"),
        ("a:b:c d", "is not a target"),
        (":engine", "is not a target"),
        ("app.py:not a name", "is not a target"),
    ],
)
def test_a_target_that_names_nothing_says_what_is_wrong(target: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_target(target)


def test_a_wrong_name_lists_the_engines_that_are_there(app: Path) -> None:
    with pytest.raises(SettingsError, match="it has engine, other"):
        load_target(f"{app}:enigne")


def test_something_else_than_an_engine_is_refused(app: Path) -> None:
    with pytest.raises(SettingsError, match="'number' is a int, not a TaskEngine"):
        load_target(f"{app}:number")


def test_code_that_raises_is_named_with_its_line(app: Path) -> None:
    app.write_text("\n\n1 / 0\n")
    with pytest.raises(DeclarationError, match=r"ZeroDivisionError: division by zero .*app\.py, line 3"):
        load_target(str(app))


def test_a_syntax_error_is_named_with_its_line(app: Path) -> None:
    app.write_text("x = 1\ndef (:\n")
    with pytest.raises(DeclarationError, match=r"SyntaxError.*app\.py, line 2"):
        load_target(str(app))


def test_a_missing_import_of_the_target_is_not_taken_for_a_missing_target(app: Path) -> None:
    app.write_text("import not_installed_anywhere")
    with pytest.raises(DeclarationError, match="not_installed_anywhere"):
        load_target(str(app))


def test_the_folder_to_watch_is_that_of_the_file(app: Path) -> None:
    assert source_folder(f"{app}:engine") == app.parent.resolve()
    assert source_folder("workers.demo:engine") == Path.cwd()
