"""What `taskengine show` prints of a task that was lost, and of one that was cancelled."""

from __future__ import annotations

import pytest

from taskengine.cli.show import _print
from taskengine.losses import Loss
from taskengine.store import Store
from tests.store.calls import OWNER, claimed, take


async def test_each_lost_attempt_is_shown_with_its_worker(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    claim = await claimed(store, "host-1")
    doorbell = await store.attempts.lose(claim, Loss("killed by SIGKILL", "SIGKILL", peak_bytes=812_000_000), 2)
    assert doorbell is not None
    again = await take(store, doorbell, "host-2")
    assert again is not None
    await store.attempts.lose(again, Loss("it exited with code 7", exit_code=7), 2)
    _print(await store.inspection.show(claim.task_id), [])
    shown = " ".join(capsys.readouterr().out.split())
    assert "on host-1: killed by SIGKILL, peak memory 812 MB" in shown
    assert "on host-2: it exited with code 7, peak memory unknown" in shown
    assert "Gave up after 2 lost attempts" in shown


async def test_how_a_cancelled_run_ended_is_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    claim = await claimed(store)
    await store.tasks.cancel(claim.task_id, OWNER)
    await store.stops.note(claim.task_id, 1, "the tool stopped")
    _print(await store.inspection.show(claim.task_id), [])
    assert "Cancelled; the tool stopped after 0." in " ".join(capsys.readouterr().out.split())
