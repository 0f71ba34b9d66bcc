"""The short form of `make chaos`: one seed, the main kinds of faults. Times are not judged: the machine is shared."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.chaos.audit import SELECT, Row, audit
from tests.chaos.journals import SELECT_JOURNAL, Record
from tests.chaos.program import Plan, perform
from tests.chaos.run import FAULTS, Run

SEED = 20261122
FAULTS_IN_SHORT = (
    "child killed",
    "worker killed",
    "call.committed: killed",
    "cancel.committed: answer lost",
    "claim.committed: killed",
    "write.committed: answer lost",
    "front end killed",
    "broker emptied",
    "doorbells doubled, late and wrong",
    "cancel races the end",
    "answers race",
    "an answer of Postgres lost",
    "all sessions ended",
    "frozen with a result in its hands",
    "Postgres restarted",
)


async def _planted(run: Run) -> None:
    """The same audit of the same run finds what is changed behind the engine's back."""

    async def found() -> tuple[list[str], list[str]]:
        records = [Record.of(row) for row in await run.site.sql(SELECT_JOURNAL)]
        verdict = audit([Row.of(row) for row in await run.site.sql(SELECT)], run.load.views, run.ledger, records)
        return verdict.lost, verdict.wrong

    (done, other) = [
        view for view in run.load.views if view.tool == "doze" and view.task_id and view.statuses[-1] == "completed"
    ][:2]
    await run.site.sql(
        "UPDATE tasks SET result = (SELECT result FROM tasks WHERE id = $1) WHERE id = $2", other.task_id, done.task_id
    )
    assert any(done.label in each for each in (await found())[1]), "an overwritten result went unnoticed"
    (step,) = await run.site.sql(
        "UPDATE journal SET value = '\"else\"' WHERE (task_id, path) = (SELECT task_id, path FROM journal j"
        " JOIN tasks t ON t.id = j.task_id WHERE kind = 'step' AND t.status = 'completed' LIMIT 1) RETURNING task_id"
    )
    label = next(view.label for view in run.load.views if view.task_id == step["task_id"])
    assert any(label in each for each in (await found())[1]), "a step that was changed went unnoticed"
    await run.site.sql("DELETE FROM tasks WHERE id = $1", done.task_id)
    assert any(done.label in each for each in (await found())[0]), "a lost task went unnoticed"


@pytest.mark.timeout(300)
async def test_no_fault_loses_or_spoils_a_call(tmp_path: Path) -> None:
    plan = Plan(
        SEED,
        [FAULTS[name] for name in FAULTS_IN_SHORT],
        length=0.01,
        clients=12,
        messages_too=False,
        options={"lease": timedelta(seconds=4), "sync_slots": 2},
    )
    verdict = await perform(plan, tmp_path, say=print, afterwards=_planted)
    assert verdict.sound, verdict.text()
    assert len(verdict.injections) == len(FAULTS_IN_SHORT)
    assert verdict.audit.tasks > 100
