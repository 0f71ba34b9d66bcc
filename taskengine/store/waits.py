"""Tasks that wait: how an attempt ends to wait, and how the time, the answers and the children start the next.

A waiting task holds no worker. What starts it again stands in its row: open questions (`inputs`), a time (`wake_at`),
or how few of its children may still be alive (`wake_open`). The first to come counts; one that comes too early costs
an attempt that waits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    DateTime,
    Float,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    extract,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from taskengine.errors import ClaimLost
from taskengine.lifecycle import Event, Phase, sources, target
from taskengine.records import Answered, Claim, Doorbell, Entry, Question
from taskengine.store import channels, turns
from taskengine.store.database import Database
from taskengine.store.endings import touched, withdraw
from taskengine.store.fence import fence, holding, ran_ms
from taskengine.store.journal import columns_of, writing
from taskengine.store.payload import dump, load, questions_of
from taskengine.store.statements import Prepared, prepared
from taskengine.store.tables import inputs, journal, tasks, workers

__all__ = ["Waits"]

WAKE_BATCH = 500
_SECOND: ColumnElement[timedelta] = literal_column("interval '1 second'")

_QUESTIONS = (
    func.unnest(
        *(bindparam(f"q_{name}", type_=ARRAY(Text)) for name in ("key", "method", "params")),
        bindparam("q_position", type_=ARRAY(Integer)),
    )
    .table_valued("key", "method", "params", "position", name="questions")
    .render_derived()
)
_open = inputs.alias("open")
_asked_before = exists().where(_open.c.task_id == tasks.c.id, _open.c.response.is_(None))
_PARKED = (
    update(tasks)
    .where(holding(), tasks.c.phase.in_(sources(Event.PARK)))
    .values(
        status=case(
            (or_(bindparam("asks", type_=Boolean), _asked_before), target(Event.ASK).status.value),
            else_=target(Event.PARK).status.value,
        ),
        phase=Phase.WAITING,
        worker_id=None,
        ran_ms=ran_ms(),
        status_message=bindparam("message"),
        wake_at=bindparam("wake_at", type_=DateTime(timezone=True)),
        wake_open=bindparam("wake_open", type_=Integer),
        kept_until=case(
            (bindparam("linger_s", type_=Float) > 0, func.clock_timestamp() + bindparam("linger_s") * _SECOND)
        ),
        failures=tasks.c.failures + cast(bindparam("failed"), Integer),
        **touched(),
    )
    .returning(tasks.c.id, tasks.c.attempt)
    .cte("parked")
)
_ASKED = (
    insert(inputs)
    .from_select(
        ["task_id", "attempt", "key", "method", "params", "position"],
        select(
            _PARKED.c.id,
            _PARKED.c.attempt,
            _QUESTIONS.c.key,
            _QUESTIONS.c.method,
            _QUESTIONS.c.params,
            _QUESTIONS.c.position,
        ).select_from(_PARKED.join(_QUESTIONS, true())),
    )
    .on_conflict_do_nothing()  # it is open since an earlier attempt, which waited for something else beside it
    .returning(inputs.c.key)
    .cte("asked")
)
_NOTED = writing(_PARKED).returning(journal.c.path).cte("written")
_PARK = prepared(channels.telling(_PARKED, _PARKED.c.id).add_cte(_ASKED).add_cte(_NOTED))

_child = tasks.alias("child")
_mirrored = inputs.alias("mirrored")


def _alive() -> ColumnElement[int]:
    """How many children of the task are alive; counting stops where more decide nothing."""
    counted = (
        select(literal(1).label("one"))
        .where(_child.c.parent == tasks.c.id, _child.c.phase != Phase.DONE)
        .limit(tasks.c.wake_open + 1)
        .correlate(tasks)
        .subquery()
    )
    return select(func.count()).select_from(counted).correlate(tasks).scalar_subquery()


def _child_asks() -> ColumnElement[bool]:
    """A child asks what its parent does not ask for it yet."""
    return exists(
        select(literal(1))
        .select_from(_child.join(_open, and_(_open.c.task_id == _child.c.id, _open.c.response.is_(None))))
        .where(_child.c.parent == tasks.c.id, _child.c.phase == Phase.WAITING)
        .where(~exists().where(_mirrored.c.task_id == tasks.c.id, _mirrored.c.key == _child.c.id + ":" + _open.c.key))
        .correlate(tasks)
    )


def _resuming(
    which: ColumnElement[bool], nth: ColumnElement[int] | None = None, many: ColumnElement[int] | None = None
) -> Select[Any]:
    """Those are due again; `nth` and `many` as of `turns.of_entry`."""
    status, phase = target(Event.RESUME)
    resumed = (
        update(tasks)
        .where(which, tasks.c.phase.in_(sources(Event.RESUME)))
        .values(
            status=status,
            phase=phase,
            wake_at=None,
            wake_open=None,
            turn=turns.again(nth, many),
            rung_at=func.now(),
            status_message="Waiting for a worker",
            **touched(),
        )
        .returning(tasks.c.id, tasks.c.attempt, tasks.c.queue)
        .cte("resumed")
    )
    return channels.telling(resumed, resumed.c.id, resumed.c.attempt, resumed.c.queue)


def _parents() -> ColumnElement[bool]:
    return and_(tasks.c.wake_open.is_not(None), or_(_alive() <= tasks.c.wake_open, _child_asks()))


def _resuming_batch(which: ColumnElement[bool]) -> Select[Any]:
    taken = (
        select(tasks.c.id, tasks.c.owner, tasks.c.queue, tasks.c.priority)
        .where(which, tasks.c.phase == Phase.WAITING)
        .limit(WAKE_BATCH)
        .with_for_update(skip_locked=True)
        .cte("taken")
    )
    nth = func.row_number().over(partition_by=[taken.c.owner, taken.c.queue, taken.c.priority], order_by=taken.c.id)
    numbered = select(taken.c.id, nth.label("nth")).cte("numbered")
    many = select(func.count()).select_from(taken).scalar_subquery()
    return _resuming(tasks.c.id == numbered.c.id, numbered.c.nth - 1, many)


_NAMED = tasks.c.id == bindparam("named")
_ANSWERED = and_(tasks.c.status == target(Event.ASK).status.value, ~_asked_before)
_READY = or_(_ANSWERED, _parents(), tasks.c.wake_at <= func.clock_timestamp())
_RESUME_READY = prepared(_resuming(and_(_NAMED, _READY)))
_RESUME_PARENT = prepared(_resuming(and_(_NAMED, _parents())))
_RESUME_PARENTS = prepared(_resuming_batch(_parents()))
# `statement_timestamp`, for an index is of no use against a clock that is another at every row.
_RESUME_DUE = prepared(_resuming_batch(tasks.c.wake_at <= func.statement_timestamp()))
_NEXT_DUE = prepared(
    select(extract("epoch", func.min(tasks.c.wake_at) - func.clock_timestamp())).where(
        tasks.c.phase == Phase.WAITING, tasks.c.wake_at.is_not(None)
    )
)
_ANSWERS = prepared(
    select(inputs.c.key, inputs.c.method, inputs.c.params, inputs.c.response)
    .where(inputs.c.task_id == bindparam("task", type_=Text), inputs.c.response.is_not(None))
    .order_by(inputs.c.attempt, inputs.c.position)
)
_FORGET = prepared(withdraw(_NAMED))
_status, _phase = target(Event.CLAIM)
_TAKE_BACK = (
    update(tasks)
    .where(tasks.c.id == bindparam("task"), tasks.c.attempt == bindparam("current"))
    .where(tasks.c.phase.in_(sources(Event.CLAIM)), tasks.c.kept_until.is_not(None))
    # The place of one with limits is kept no longer than it lingers (`limits`): others have been counted since.
    .where(or_(tasks.c.limit_keys.is_(None), tasks.c.kept_until > func.clock_timestamp()))
    .where(exists().where(workers.c.id == bindparam("holder")))
    .values(
        status=_status,
        phase=_phase,
        worker_id=bindparam("holder"),
        claimed_at=func.clock_timestamp(),
        kept_until=None,
        blocked_by=None,
        wake_at=None,
        wake_open=None,
        status_message="Running",
        **touched(),
    )
    .returning(tasks.c.id, tasks.c.ran_ms)
    .cte("taken")
)
_TAKE_BACK_TOLD = prepared(channels.telling(_TAKE_BACK, _TAKE_BACK.c.ran_ms))


class Waits:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._sealing = database.sealing

    async def park(
        self,
        claim: Claim,
        *,
        message: str,
        entries: Sequence[Entry] = (),
        questions: Sequence[Question] = (),
        wake_at: Any = None,
        wake_open: int | None = None,
        linger_s: float = 0,
        failed: bool = False,
        forget: Sequence[str] = (),
    ) -> Doorbell | None:
        """End the attempt: the task waits and holds no worker. Raises ClaimLost.

        A doorbell is returned when what it waits for has come meanwhile. For `linger_s` only `take_back` can claim
        the task. `failed` counts towards the tool's retries; `forget` names entries that are to be tried again, and
        goes with it.
        """
        values = {
            **fence(claim),
            **columns_of(self._sealing, claim.task_id, entries),
            "q_key": [question.key for question in questions],
            "q_method": [question.method for question in questions],
            "q_params": [
                self._sealing.seal(claim.task_id, f"question {question.key}", dump(question.params))
                for question in questions
            ],
            "q_position": list(range(len(questions))),
            "asks": bool(questions),
            "message": self._sealing.seal(claim.task_id, "status_message", message),
            "wake_at": wake_at,
            "wake_open": wake_open,
            "linger_s": linger_s,
            "failed": int(failed),
        }
        # An answer may have come to a question that an earlier attempt had asked, or a child ended: looked at behind
        # the lock of the row, which the answer takes as well.
        may_be_ready = wake_open is not None or (claim.attempt > 1 and bool(questions))
        if not may_be_ready and not failed:
            if (await self._database.run(_PARK, values)).one_or_none() is None:
                raise ClaimLost(claim.task_id, claim.attempt)
            return None
        async with self._database.transaction() as connection:
            if (await connection.execute(_PARK, values)).one_or_none() is None:
                raise ClaimLost(claim.task_id, claim.attempt)
            if failed:
                await connection.execute(
                    delete(journal)
                    .where(journal.c.task_id == claim.task_id)
                    .where(
                        or_(
                            journal.c.path == any_(literal(list(forget), ARRAY(Text))),
                            and_(journal.c.kind == "step", ~journal.c.done),
                        )
                    )
                )
            if not may_be_ready:
                return None
            row = (await connection.execute(_RESUME_READY, {"named": claim.task_id})).one_or_none()
            return None if row is None else Doorbell(row.id, row.attempt + 1, row.queue)

    async def take_back(self, claim: Claim) -> int | None:
        """Go on with the attempt that `park` had ended, since what it waited for is there.

        Its running time so far in milliseconds; None when there is nothing to go on with yet, or somebody else has it.
        """
        row = (await self._database.run(_TAKE_BACK_TOLD, fence(claim))).one_or_none()
        return None if row is None else int(row.ran_ms)

    async def answers(self, task_id: str) -> dict[str, Answered]:
        """Every answered question, by key."""
        rows = await self._database.run(_ANSWERS, {"task": task_id})
        return {row.key: self._answered(task_id, row) for row in rows}

    async def give_up(self, claim: Claim, entry: Entry, keys: Sequence[str]) -> dict[str, Answered]:
        """Withdraw those of these questions that are open, and record with `entry` that the time for answers is over.

        The answers of those that got one after all: they count, since whoever reads the entry looks at them first.
        Raises ClaimLost.
        """
        named = and_(inputs.c.task_id == claim.task_id, inputs.c.key == any_(literal(list(keys), ARRAY(Text))))
        async with self._database.transaction() as connection:
            locked = await connection.execute(select(tasks.c.id).where(holding()).with_for_update(), fence(claim))
            if locked.one_or_none() is None:
                raise ClaimLost(claim.task_id, claim.attempt)
            rows = await connection.execute(
                select(inputs.c.key, inputs.c.method, inputs.c.params, inputs.c.response).where(
                    named, inputs.c.response.is_not(None)
                )
            )
            answered = {row.key: self._answered(claim.task_id, row) for row in rows}
            await connection.execute(delete(inputs).where(named, inputs.c.response.is_(None)))
            held = select(tasks.c.id, tasks.c.attempt).where(holding()).cte("held")
            written = writing(held).returning(journal.c.path).cte("written")
            await connection.execute(
                select(held.c.id).add_cte(written), fence(claim) | columns_of(self._sealing, claim.task_id, [entry])
            )
            return answered

    def _answered(self, task_id: str, row: Any) -> Answered:
        (question,) = questions_of(self._sealing, task_id, [(row.key, row.method, row.params)])
        return Answered(question, load(self._sealing.open(task_id, f"answer {row.key}", row.response)))

    async def withdraw(self, claim: Claim, child_id: str) -> None:
        """Take back the open questions that this task asks for a child, which has ended. Raises ClaimLost."""
        async with self._database.transaction() as connection:
            locked = await connection.execute(select(tasks.c.id).where(holding()).with_for_update(), fence(claim))
            if locked.one_or_none() is None:
                raise ClaimLost(claim.task_id, claim.attempt)
            await connection.execute(
                delete(inputs)
                .where(inputs.c.task_id == claim.task_id, inputs.c.response.is_(None))
                .where(inputs.c.key.startswith(f"{child_id}:", autoescape=True))
            )

    async def forget_questions(self, task_id: str) -> None:
        """Take back what a task still asks that has ended: nobody waits for an answer any more."""
        await self._database.run(_FORGET, {"named": task_id})

    async def due_in_s(self) -> float | None:
        """Seconds until the next timer, by the database's clock; not positive when one is due, None without any."""
        seconds = (await self._database.run(_NEXT_DUE)).scalar_one()
        return None if seconds is None else float(seconds)

    async def wake_due(self) -> list[Doorbell]:
        """Make up to `WAKE_BATCH` tasks due whose time has come; their doorbells are for the caller to ring."""
        return await self._wake(_RESUME_DUE, {})

    async def wake_parents(self) -> list[Doorbell]:
        """The same for tasks whose children have ended, or ask something."""
        return await self._wake(_RESUME_PARENTS, {})

    async def wake_parent(self, task_id: str) -> list[Doorbell]:
        """The same for one of these, after one of its children has changed."""
        return await self._wake(_RESUME_PARENT, {"named": task_id})

    async def _wake(self, statement: Prepared, values: dict[str, Any]) -> list[Doorbell]:
        rows = await self._database.run(statement, values)
        return [Doorbell(row.id, row.attempt + 1, row.queue) for row in rows]
