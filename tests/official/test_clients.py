"""What the official clients see. Each runs once per transport; the tests look at what it has printed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.official.conftest import Target

HERE = Path(__file__).parent
ALL_TOOLS = {"add", "add_sync", "quick", "greet", "walk", "tool_error", "task_wait", "task_answer", "task_list"}

Node = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def python_1_seen(target: Target, python_1: str) -> dict[str, Any]:
    return target.run(python_1, str(HERE / "python_1.py"))


@pytest.fixture(scope="module", params=["legacy", "auto"])
def python_2_seen(request: pytest.FixtureRequest, target: Target) -> tuple[str, dict[str, Any]]:
    return request.param, target.run(sys.executable, str(HERE / "python_2.py"), request.param)


@pytest.fixture(scope="module")
def typescript_1_seen(target: Target, node: Node) -> dict[str, Any]:
    return target.run(*node("typescript_1.mjs"))


@pytest.fixture(scope="module", params=["legacy", "auto"])
def typescript_2_seen(request: pytest.FixtureRequest, target: Target, node: Node) -> tuple[str, dict[str, Any]]:
    return request.param, target.run(*node("typescript_2.mjs"), request.param)


def check_plain(seen: dict[str, Any]) -> None:
    """What every client sees of calls without tasks: results, errors, progress, a question in the middle."""
    assert seen["structured"] == {"total": 3, "attempt": 1}
    assert seen["walked"] == "walked in attempt 1"
    assert seen["error"] == [True, "there is no such report: choose another"]
    assert seen["protocol_error"]["code"] == -31999
    assert "out of paper" in seen["protocol_error"]["message"]
    assert seen["greeted"] == "Hello, Ann! (attempt 2)"
    assert len(seen["asked"]) == 1


def check_progress(values: list[float], totals: set[float | None]) -> None:
    assert values
    assert values == sorted(set(values))
    assert totals == {8}


def test_python_1_30_makes_the_handshake_and_lists_tools(python_1_seen: dict[str, Any]) -> None:
    assert (python_1_seen["version"], python_1_seen["server"]) == ("2025-11-25", "tests")
    assert python_1_seen["tasks_capability"]
    assert python_1_seen["support"].keys() >= ALL_TOOLS
    assert python_1_seen["support"]["add"] == "optional"
    assert python_1_seen["support"]["greet_later"] == "optional"  # always a task, but bridged
    assert python_1_seen["support"]["tasks_only"] == "required"
    assert python_1_seen["ping"] == {}


def test_python_1_30_calls_without_tasks(python_1_seen: dict[str, Any]) -> None:
    seen = python_1_seen["plain"]
    check_plain(seen)
    check_progress([value for value, _, _ in seen["progress"]], {total for _, total, _ in seen["progress"]})
    assert seen["asked"][0]["message"] == "Who are you?"


def test_python_1_30_creates_polls_and_lists_a_task(python_1_seen: dict[str, Any]) -> None:
    seen = python_1_seen["tasks"]
    assert seen["created"]["status"] == "working"
    assert seen["created"]["ttl"] == 600_000
    assert seen["statuses"][-1] == "completed"
    assert seen["structured"] == {"total": 5, "attempt": 1}
    assert seen["related"] == {"taskId": seen["created"]["taskId"]}
    assert seen["listed"]


def test_python_1_30_is_asked_through_tasks_result(python_1_seen: dict[str, Any]) -> None:
    seen = python_1_seen["tasks"]
    assert seen["greeted"] == "Hello, Ann! (attempt 2)"
    (question,) = seen["asked"]
    assert question["message"] == "Who are you?"
    assert question["_meta"]["io.modelcontextprotocol/related-task"] == {"taskId": seen["asking"]}


def test_python_1_30_cancels_a_task(python_1_seen: dict[str, Any]) -> None:
    seen = python_1_seen["tasks"]
    assert seen["cancelled"] == ["cancelled", "cancelled"]
    assert seen["cancelled_result"]["code"] < 0
    assert seen["cancelled_again"]["code"] == -32602
    assert seen["unknown"]["code"] == -32602


def test_python_2_calls_in_both_revisions(python_2_seen: tuple[str, dict[str, Any]]) -> None:
    mode, seen = python_2_seen
    assert seen["version"] == {"legacy": "2025-11-25", "auto": "2026-07-28"}[mode]
    assert set(seen["tools"]) >= ALL_TOOLS
    check_plain(seen)
    check_progress([value for value, _, _ in seen["progress"]], {total for _, total, _ in seen["progress"]})


def test_typescript_1_calls_without_tasks(typescript_1_seen: dict[str, Any]) -> None:
    assert typescript_1_seen["server"] == "tests"
    seen = typescript_1_seen["plain"]
    check_plain(seen)
    check_progress([each["progress"] for each in seen["progress"]], {each["total"] for each in seen["progress"]})


def test_typescript_1_follows_tasks_and_is_asked_through_their_results(typescript_1_seen: dict[str, Any]) -> None:
    assert typescript_1_seen["tasks_capability"]
    assert typescript_1_seen["support"]["add"] == "optional"
    seen = typescript_1_seen["tasks"]
    assert seen["added"]["created"]["status"] == "working"
    assert seen["added"]["result"]["structuredContent"] == {"total": 5, "attempt": 1}
    assert "error" not in seen["added"]
    assert seen["greeted"]["result"]["content"][0]["text"] == "Hello, Ann! (attempt 2)"
    assert [question["message"] for question in seen["asked"]] == ["Who are you?"]
    assert {seen["added"]["created"]["taskId"], seen["greeted"]["created"]["taskId"]} <= set(seen["listed"])
    assert seen["cancelled"] == ["cancelled", "cancelled"]
    assert seen["unknown"]["code"] == -32602


def test_typescript_2_calls_in_both_revisions(typescript_2_seen: tuple[str, dict[str, Any]]) -> None:
    mode, seen = typescript_2_seen
    assert seen["version"] == {"legacy": "2025-11-25", "auto": "2026-07-28"}[mode]
    assert set(seen["tools"]) >= ALL_TOOLS
    check_plain(seen)
    check_progress([each["progress"] for each in seen["progress"]], {each["total"] for each in seen["progress"]})
