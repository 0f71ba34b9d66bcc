"""What the documentation shows is there, and runs as it says."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from taskengine import SyncContext
from taskengine.testing import call
from tests.processes import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def module_of(source: str, folder: Path, name: str) -> ModuleType:
    """The module `name` with this source, imported as a reader would import it."""
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_the_tests_that_hold_the_guarantees_exist() -> None:
    pages = ("concepts.md", "durability.md", "security.md")
    named = {name for page in pages for name in re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text())}
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)", code))
    assert named
    assert named <= there, f"no longer there: {', '.join(sorted(named - there))}"


def test_the_modules_on_the_map_are_those_there_are() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in sorted((ROOT / "taskengine").rglob("*.py")):
        if path.parent.name not in {"cli", "client"} and not path.stem.startswith("__"):
            assert f"`{path.stem}`" in text or f"{path.stem}.py" in text, f"{path.relative_to(ROOT)} is not on the map"


async def test_the_tool_on_the_first_screen_runs(tmp_path: Path) -> None:
    engine = module_of(blocks(ROOT / "README.md", "python")[0], tmp_path, "readme_survey").engine
    run = await call(
        engine,
        "survey",
        {"topic": "tea"},
        answers={
            "Person 1: are you for tea?": {"agree": True},
            "Person 2: are you for tea?": "decline",
            "Person 3: are you for tea?": {"agree": True},
        },
    )
    assert run.structured == {"yes": 2, "no": 1}


async def test_the_examples_of_durability_run_and_so_do_their_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, pages, tests = blocks(ROOT / "docs" / "durability.md", "python")
    monkeypatch.setitem(sys.modules, "app", None)  # taken away again afterwards
    module_of(order, tmp_path, "app")
    module = module_of(tests, tmp_path, "durability_test")
    for name in [name for name in vars(module) if name.startswith("test_")]:
        await getattr(module, name)()
    digest = module_of(pages, tmp_path, "durability_pages").engine
    run = await call(digest, "digest", {"pages": 3})
    assert run.text == "page page page"
    assert len(run.calls) == 3


async def test_the_quickstart_runs_and_so_does_its_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_time(_: float) -> None:
        pass

    tool, client, test = blocks(ROOT / "docs" / "quickstart.md", "python")
    monkeypatch.setitem(sys.modules, "app", None)  # taken away again afterwards
    module_of(tool, tmp_path, "app")
    compile(client, "call.py", "exec")
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "sleep", no_time)
        await module_of(test, tmp_path, "quickstart_test").test_the_report_has_the_style_that_was_chosen()


TUTORIAL = ROOT / "docs" / "tutorial.md"


def tutorial(folder: Path, monkeypatch: pytest.MonkeyPatch, *, kept: bool) -> ModuleType:
    """The tutorial's module as it stands after its second step, or with what the third adds."""
    first, second, third, fourth = blocks(TUTORIAL, "python")[:4]
    source = first + second + (third + fourth if kept else "")
    if kept:
        source = source.replace(
            "groups = find_duplicates(folder, ctx).groups\n    copies", "groups = decided_once(folder, ctx)\n    copies"
        )
        assert source.count("groups = decided_once(folder, ctx)\n") == 1
    monkeypatch.setenv("DUPLICATES_STATE", str(folder / "state"))
    monkeypatch.setitem(sys.modules, "duplicates", None)  # taken away again afterwards
    return module_of(source, folder, "duplicates")


def copies(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("kept", [False, True])
async def test_the_tutorial_runs_and_so_does_its_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    tutorial(tmp_path, monkeypatch, kept=kept)
    test, client = blocks(TUTORIAL, "python")[4:]
    await module_of(test, tmp_path, "tutorial_test").test_only_agreed_copies_go(copies(tmp_path / "files"))
    compile(client, "client.py", "exec")


@pytest.mark.parametrize(("kept", "removed"), [(False, None), (True, ["b"])])
async def test_the_tutorials_cure_cures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool, removed: list[str] | None
) -> None:
    """What appears between question and answer fails the one tool and is left alone by the other."""
    engine = tutorial(tmp_path, monkeypatch, kept=kept).engine
    files = copies(tmp_path / "files", a="same", b="same")
    run = await call(engine, "remove_duplicates", {"folder": str(files)})
    (files / "c").write_text("same")
    await run.answer({run.questions[0].key: {"delete": True}})
    assert (files / "c").exists()
    if removed is None:
        assert run.is_error or run.error is not None
    else:
        assert run.structured["removed"] == [str(files / name) for name in removed]


async def test_the_tutorial_asks_for_each_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tutorial(tmp_path, monkeypatch, kept=True)

    def pick(ctx: SyncContext) -> list[list[str]]:
        """Choose."""
        chosen: list[list[str]] = module.choose([["a", "b"], ["c", "d"]], ctx)
        return chosen

    module.engine.add_tool(pick)
    run = await call(module.engine, "pick", {}, answers={"group-1": {"keep_copies": True}, "group-2": {}})
    assert run.structured == [["c", "d"]]
