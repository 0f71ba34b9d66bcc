from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taskengine.testing import call
from workers import demo


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree the demo may read: it lies where the worker was started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop" / "tests").mkdir(parents=True)
    (tmp_path / "shop" / "stock.py").write_text("def take(n):\n    return n if n else 0\n")
    (tmp_path / "shop" / "tests" / "test_stock.py").write_text("def test():\n    pass\n")
    return tmp_path / "shop"


async def test_the_audit_asks_about_the_tests_and_reports_in_text_and_structure(tree: Path) -> None:
    answers = {"include-tests": {"include_tests": True}}
    run = await call(demo.engine, "audit_source", {"path": str(tree)}, answers=answers)
    assert run.status == "completed"
    assert not run.is_error
    assert run.attempts == 2  # the attempt that asks ends
    assert run.structured["files"] == 2
    assert run.structured["tests_included"]
    assert "take" in run.text
    assert run.progress[-1].progress == run.progress[-1].total == 2


async def test_the_question_names_how_much_there_is(tree: Path) -> None:
    run = await call(demo.engine, "audit_source", {"path": str(tree)})
    assert run.status == "input_required"
    assert "2 Python files, 1 of them tests" in run.questions[0].params["message"]


@pytest.mark.parametrize("answer", [{"include_tests": False}, {"action": "decline"}, {"action": "cancel"}])
async def test_tests_are_left_out_unless_somebody_wants_them(tree: Path, answer: dict[str, Any]) -> None:
    run = await call(demo.engine, "audit_source", {"path": str(tree)}, answers={"include-tests": answer})
    assert run.structured["files"] == 1
    assert run.structured["tests_left_out"] == 1


async def test_a_client_that_cannot_be_asked_gets_everything(tree: Path) -> None:
    run = await call(demo.engine, "audit_source", {"path": str(tree)}, capabilities={})
    assert run.structured["files"] == 2


async def test_no_question_is_asked_when_the_call_says_it(tree: Path) -> None:
    run = await call(demo.engine, "audit_source", {"path": str(tree), "include_tests": False})
    assert run.attempts == 1
    assert run.structured["files"] == 1


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc", "outside of what this server may read"),
        ("../..", "outside of what this server may read"),
        ("escape", "outside of what this server may read"),
        ("no/such/folder", "is not a folder"),
        ("nul\0byte", "no file name has"),
        ("empty", "no Python file below"),
    ],
)
async def test_a_bad_path_is_an_error_that_says_what_to_do(tree: Path, path: str, said: str) -> None:
    (tree.parent / "escape").symlink_to("/etc")
    (tree.parent / "empty").mkdir()
    run = await call(demo.engine, "audit_source", {"path": path})
    assert run.is_error
    assert said in run.text


async def test_lunch_is_ordered_when_both_questions_are_answered() -> None:
    run = await call(demo.engine, "order_lunch", {}, answers={"meal": {"dish": "soup", "portions": 2}})
    assert run.status == "input_required"
    await run.answer({"delivery": {"room": "Blue"}})
    assert run.text == "2 × soup will come to Blue."


async def test_nothing_is_ordered_when_somebody_declines() -> None:
    run = await call(
        demo.engine, "order_lunch", {}, answers={"meal": {"action": "decline"}, "delivery": {"room": "Blue"}}
    )
    assert run.text == "No lunch was ordered."


async def test_the_countdown_says_how_much_is_left() -> None:
    run = await call(demo.engine, "countdown", {"seconds": 1})
    assert [told.message for told in run.progress] == ["1 s left"]


async def test_words_are_counted_without_a_task() -> None:
    run = await call(demo.engine, "count_words", {"text": "one two  three"})
    assert run.text == "3"


def test_every_tool_of_the_demo_is_described_for_a_model() -> None:
    for tool in demo.engine.tools.values():
        assert tool.title
        assert tool.description
        for name, schema in tool.input_schema.get("properties", {}).items():
            assert schema.get("description"), f"{tool.name}: {name}"
