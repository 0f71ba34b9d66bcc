"""The conformance run believes no scenario that it did not see checking something."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from conformance.suite import ALWAYS_SKIPPED, BY_THEMSELVES, EXPECTED, NOT_OURS, TARGET, judge
from taskengine.target import load_target


def check(status: str, name: str = "own") -> dict[str, Any]:
    return {"id": name, "status": status, "description": "what it looks at"}


def test_a_scenario_whose_checks_all_hold_is_as_expected() -> None:
    verdict = judge("tasks-lifecycle", [check("SUCCESS"), check("SUCCESS", "wire-schema-valid")], frozenset())
    assert (verdict.trouble, verdict.passed, verdict.failed) == ("", 2, 0)


@pytest.mark.parametrize("status", ["FAILURE", "WARNING"])
def test_a_failure_or_warning_that_is_not_expected_is_trouble(status: str) -> None:
    assert "own" in judge("caching", [check("SUCCESS", "other"), check(status)], frozenset()).trouble


@pytest.mark.parametrize("entry", ["caching", "caching:own"])
def test_an_expected_failure_is_no_trouble(entry: str) -> None:
    assert not judge("caching", [check("FAILURE")], frozenset({entry})).trouble


def test_an_expectation_of_one_check_excuses_no_other() -> None:
    assert judge("caching", [check("FAILURE", "another")], frozenset({"caching:own"})).trouble


@pytest.mark.parametrize(
    ("found", "trouble"),
    [
        ([], "did not run"),
        ([check("SUCCESS", "wire-schema-valid")], "checked nothing"),
        ([check("SKIPPED")], "checked nothing"),
        ([check("SUCCESS", "other"), check("SKIPPED")], "skipped"),
    ],
)
def test_a_scenario_that_did_not_look_is_trouble(found: list[dict[str, Any]], trouble: str) -> None:
    assert trouble in judge("tasks-lifecycle", found, frozenset()).trouble


def test_only_the_scenario_that_is_always_skipped_may_be_skipped() -> None:
    (scenario,) = ALWAYS_SKIPPED
    assert not judge(scenario, [check("SKIPPED")], frozenset()).trouble
    assert judge(scenario, [], frozenset()).trouble


def test_a_check_of_prompts_or_resources_may_be_skipped() -> None:
    for entry in NOT_OURS:
        scenario, _, name = entry.partition(":")
        assert not judge(scenario, [check("SUCCESS"), check("SKIPPED", name)], frozenset()).trouble


def test_nothing_of_the_tasks_extension_is_expected_to_fail() -> None:
    entries = [entry for path in EXPECTED.values() for entry in yaml.safe_load(path.read_text())["server"]]
    expected = {entry.partition(":")[0] for entry in entries}
    assert not expected & set(BY_THEMSELVES)


def test_the_first_fixture_is_the_one_that_headers_are_probed_with() -> None:
    assert next(iter(load_target(TARGET).tools)) == "test_simple_text"
