from __future__ import annotations

from pathlib import Path

import pytest

from taskengine.cli import main
from taskengine.cli.settings import settings_page
from taskengine.settings import Settings

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "settings.md"


def test_the_page_in_docs_is_current() -> None:
    assert PAGE.read_text() == settings_page(), "run `make docs`"


def test_every_setting_has_a_meaning_and_stands_on_the_page() -> None:
    page = settings_page()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"`TASKENGINE_{name.upper()}`" in page


def test_the_page_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings_page()
    monkeypatch.setenv("TASKENGINE_PORT", "9999")
    monkeypatch.setattr("os.cpu_count", lambda: 97)
    assert settings_page() == before


def test_the_table_shows_variables_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings"]) == 0
    out = capsys.readouterr().out
    assert "TASKENGINE_QUICK_WAIT" in out
    assert "300ms" in out
