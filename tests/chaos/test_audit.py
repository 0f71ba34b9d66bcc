"""The audit finds what it is there to find: each test plants one fault into a run that is otherwise right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.audit import Audit, Row, audit
from tests.chaos.client import View
from tests.chaos.journals import Record
from tests.chaos.ledger import Entry, Ledger

Story = tuple[list[Row], list[View], Ledger, list[Record]]


def _task(label: str, tool: str, value: str, *, attempt: int = 1, **arguments: Any) -> tuple[Row, View]:
    """A call that went well, as the database and its client have it."""
    arguments = {"label": label, **arguments}
    given = {"label": label, "value": value, "attempt": attempt, "run": f"run-{label}"}
    result = {"content": [], "structuredContent": given}
    row = Row(
        f"tsk_{label}", tool, "completed", "done", attempt, 0, None, arguments, result, is_error=False, error=None
    )
    view = View(label, tool, arguments, task_id=row.id, asked_at_s=1.0)
    view.saw("working")
    view.saw("completed", {"content": [], "structuredContent": dict(given)})
    return row, view


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """Three calls: a number, two steps of which the first was run again, and a question that was asked."""
    tasks = [
        _task("a", "instant", "9", x=3),
        _task("b", "steps", "w1 w2", attempt=2, n=2),
        _task("c", "ask", "one two", attempt=2),
    ]
    ledger = Ledger(tmp_path / "ledger")
    for row, _ in tasks:
        ledger.add(Entry("start", row.id, attempt, 7, float(attempt)) for attempt in range(1, row.attempt + 1))
        ledger.add([Entry("end", row.id, row.attempt, 7, 9.0, f"run-{row.label}")])
    ledger.add(
        Entry("step", "tsk_b", attempt, 7, 3.0, note) for attempt, note in ((1, "0 w0"), (2, "0 w1"), (2, "1 w2"))
    )
    tasks[2][1].answers = {"first": {"one", "uno"}, "second": {"two"}}
    records = [
        Record("tsk_b", str(number), "step", f"draw-{number}", 2, True, f'"w{number}"', None, None, 3.0)
        for number in (1, 2)
    ]
    return [row for row, _ in tasks], [view for _, view in tasks], ledger, records


def _changed(story: Story, number: int, **values: Any) -> Audit:
    rows, views, ledger, records = story
    rows[number] = replace(rows[number], **values)
    return audit(rows, views, ledger, records)


def _given(story: Story, number: int, **values: Any) -> dict[str, Any]:
    """A result like that of the task, with other values; its client saw the same."""
    rows, views, _, _ = story
    given = {**rows[number].given, **values}
    views[number].outcome["structuredContent"] = given
    return {"content": [], "structuredContent": given}


def test_a_run_without_faults_is_clean(story: Story) -> None:
    found = audit(*story)
    assert found.clean, (found.lost, found.wrong)
    assert found.tasks == 3


def test_a_lost_task_is_found(story: Story) -> None:
    rows, views, ledger, records = story
    found = audit(rows[1:], views, ledger, records)
    assert found.lost == ["a (instant): accepted, and not in the database"]


def test_a_task_that_hangs_is_found(story: Story) -> None:
    found = _changed(story, 0, status="working", phase="queued", result=None, is_error=None)
    assert any("working, queued" in each for each in found.lost)


def test_a_call_that_nobody_took_is_found(story: Story) -> None:
    story[1].append(View("d", "instant", {"label": "d", "x": 1}, asked_at_s=1.0))
    assert audit(*story).lost == ["d (instant): no front end took it"]


def test_a_call_that_made_two_tasks_is_found(story: Story) -> None:
    story[0].append(replace(story[0][0], id="tsk_again"))
    assert any("one call made 2 tasks" in each for each in audit(*story).wrong)


def test_a_wrong_value_is_found(story: Story) -> None:
    found = _changed(story, 0, result=_given(story, 0, value="10"))
    assert any("the value is 10, not 9" in each for each in found.wrong)


def test_an_overwritten_result_is_found(story: Story) -> None:
    """A frozen worker came back and stored its own result after the client had read the first one."""
    found = _changed(story, 0, result={"content": [], "structuredContent": {**story[0][0].given, "run": "late"}})
    assert any("its client saw" in each for each in found.wrong)
    assert any("run that ended 0 times" in each for each in found.wrong)


def test_the_result_of_an_old_attempt_is_found(story: Story) -> None:
    found = _changed(story, 2, result=_given(story, 2, attempt=1))
    assert any("of attempt 1, the task is at 2" in each for each in found.wrong)


def test_a_result_that_was_made_twice_is_found(story: Story) -> None:
    story[2].add([Entry("end", "tsk_a", 1, 8, 9.5, "run-a")])
    assert any("ended 2 times" in each for each in audit(*story).wrong)


def test_an_attempt_that_ran_twice_is_found(story: Story) -> None:
    story[2].add([Entry("start", "tsk_a", 1, 8, 9.5)])
    assert any("attempt 1 was run 2 times" in each for each in audit(*story).wrong)


def test_an_attempt_that_the_database_does_not_know_is_found(story: Story) -> None:
    story[2].add([Entry("start", "tsk_a", 2, 8, 9.5)])
    assert any("attempts [2] were run, the database knows 1" in each for each in audit(*story).wrong)


def test_a_task_that_still_has_a_holder_is_found(story: Story) -> None:
    assert any("held by w1" in each for each in _changed(story, 0, worker_id="w1").wrong)


def test_an_end_that_changes_before_the_clients_eyes_is_found(story: Story) -> None:
    story[1][0].saw("working")
    assert any("completed became working" in each for each in audit(*story).wrong)


def test_a_cancel_that_nobody_asked_for_is_found(story: Story) -> None:
    found = _changed(story, 0, status="cancelled", result=None, is_error=None)
    assert any("nobody asked for it" in each for each in found.wrong)


def test_an_answer_that_nobody_gave_is_found(story: Story) -> None:
    found = _changed(story, 2, result=_given(story, 2, value="three two"))
    assert any("the answer to first is three" in each for each in found.wrong)


def test_a_committed_step_that_ran_again_is_found(story: Story) -> None:
    story[2].add([Entry("step", "tsk_b", 2, 7, 5.0, "0 w9")])
    assert any("step 0 ran again" in each for each in audit(*story).wrong)


def test_a_step_with_another_result_than_it_had_is_found(story: Story) -> None:
    found = _changed(story, 1, result=_given(story, 1, value="w0 w2"))
    assert any("recorded as w0 and drawn once more" in each for each in found.wrong)


def test_giving_up_too_early_is_found(story: Story) -> None:
    failed = {"status": "failed", "result": None, "is_error": None, "error": {"code": -32603, "message": "died"}}
    found = _changed(story, 0, crashes=3, attempt=3, **failed)
    assert any("only 2 of its attempts died" in each for each in found.wrong)
    assert not found.given_up


def test_a_task_whose_attempts_died_three_times_may_fail(story: Story) -> None:
    rows, views, ledger, records = story
    failed = {"status": "failed", "result": None, "is_error": None, "error": {"code": -32603, "message": "died"}}
    view = View("e", "instant", {"label": "e", "x": 3}, task_id="tsk_e", asked_at_s=1.0)
    view.saw("failed", failed["error"])
    rows.append(replace(rows[0], id="tsk_e", arguments=view.arguments, crashes=3, attempt=3, **failed))
    found = audit(rows, [*views, view], ledger, records)
    assert (found.wrong, found.given_up) == ([], ["e (instant)"])


def test_a_step_that_is_stored_otherwise_than_it_was_given_is_found(story: Story) -> None:
    story[3][1] = replace(story[3][1], value='"w3"')
    assert any("its steps are stored as 'w1 w3'" in each for each in audit(*story).wrong)


def test_a_step_that_is_missing_in_the_journal_is_found(story: Story) -> None:
    del story[3][1]
    assert any("its journal has {'step': 1}, not {'step': 2}" in each for each in audit(*story).wrong)


def test_two_entries_for_one_place_are_found(story: Story) -> None:
    story[3].append(replace(story[3][0], value='"w9"'))
    assert any("2 entries for its place 1" in each for each in audit(*story).wrong)


def test_a_tool_that_has_no_steps_has_no_journal(story: Story) -> None:
    story[3].append(replace(story[3][0], task_id="tsk_a"))
    assert any("its journal has {'step': 1}, not {}" in each for each in audit(*story).wrong)


def test_a_parent_whose_child_gave_something_else_is_found(story: Story) -> None:
    rows, views, ledger, records = story
    for row, view in (_task("z", "instant", "0", x=0), _task("p", "parent", "0", children=1)):
        rows.append(row)
        views.append(view)
        ledger.add([Entry("start", row.id, 1, 7, 1.0), Entry("end", row.id, 1, 7, 9.0, f"run-{row.label}")])
    records.append(Record("tsk_p", "1.0.1", "call", "instant", 1, True, None, "tsk_z", None, 3.0))
    assert audit(*story).clean
    for child_id, given in {"tsk_a": "9", "tsk_gone": None}.items():
        records[-1] = replace(records[-1], child_id=child_id)
        assert any(f"its children gave {[given]}, its result is 0" in each for each in audit(*story).wrong)


def test_how_late_a_sleeper_woke_is_measured_from_when_it_was_due(story: Story) -> None:
    rows, views, ledger, records = story
    row, view = _task("s", "slumber", "slept", attempt=2, seconds=5.0)
    rows.append(row)
    views.append(view)
    ledger.add([Entry("start", row.id, 1, 7, 1.0), Entry("start", row.id, 2, 7, 6.3)])
    ledger.add([Entry("end", row.id, 2, 7, 6.4, "run-s")])
    records.append(Record(row.id, "1", "sleep", "", 1, True, None, None, 6.0, 0.9))
    found = audit(*story)
    assert found.clean, found.wrong
    assert [round(wake.late_s, 3) for wake in found.wakes] == [0.3]
    records[-1] = replace(records[-1], due_s=2.0)  # short enough to be waited for in the attempt
    assert audit(*story).wakes == []
