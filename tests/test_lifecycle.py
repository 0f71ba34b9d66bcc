from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from taskengine.lifecycle import (
    STATES,
    TERMINAL,
    Event,
    IllegalTransition,
    Phase,
    State,
    Status,
    poll_interval,
    sources,
    target,
    transition,
)


@pytest.mark.parametrize("event", Event)
def test_a_terminal_state_never_changes(event: Event) -> None:
    for state in STATES:
        if state.status in TERMINAL:
            with pytest.raises(IllegalTransition):
                transition(state, event)


def test_statuses_move_only_along_the_diagram_of_the_specification() -> None:
    allowed = {(Status.WORKING, Status.INPUT_REQUIRED), (Status.INPUT_REQUIRED, Status.WORKING)}
    allowed |= set(product((Status.WORKING, Status.INPUT_REQUIRED), TERMINAL))
    for state, event in product(STATES, Event):
        if not _legal(state, event):
            continue
        after = transition(state, event)
        assert after.status is state.status or (state.status, after.status) in allowed


@pytest.mark.parametrize("event", Event)
def test_sources_and_target_say_the_same_as_the_table(event: Event) -> None:
    legal = {state.phase: transition(state, event) for state in STATES if _legal(state, event)}
    assert set(sources(event)) == set(legal)
    assert set(legal.values()) == {target(event)}


def _legal(state: State, event: Event) -> bool:
    try:
        transition(state, event)
    except IllegalTransition:
        return False
    return True


def test_every_live_task_can_be_cancelled() -> None:
    assert set(sources(Event.CANCEL)) == set(Phase) - {Phase.DONE}


@pytest.mark.parametrize(
    ("age_s", "interval_ms"),
    [(0, 20), (0.1, 20), (1, 100), (60, 6_000), (299, 29_900), (300, 30_000), (86_400, 30_000)],
)
def test_the_poll_interval_is_a_tenth_of_the_age_up_to_half_a_minute(age_s: float, interval_ms: int) -> None:
    assert poll_interval(timedelta(seconds=age_s)) == timedelta(milliseconds=interval_ms)


def test_a_tool_may_lower_the_longest_poll_interval() -> None:
    assert poll_interval(timedelta(hours=1), timedelta(seconds=5)) == timedelta(seconds=5)
