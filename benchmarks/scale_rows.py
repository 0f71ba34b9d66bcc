"""A table of a million tasks: what a poll costs then, what a sweep of half of them costs the polls, HOT updates."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager

import asyncpg

from benchmarks.load import Connection, request
from benchmarks.load import run as drive
from benchmarks.scale_site import Figure, Site, execute, percentile, run
from taskengine.server.caller import ANONYMOUS
from taskengine.store.upkeep import SWEEPING

__all__ = ["hot", "polls", "sweep"]

MANY, FEW = 1_000_000, 1_000
ROUNDS, ROUND_S = 5, 4.0
CONNECTIONS = 16
EXPIRED = 500_000
"""Of `MANY`."""
POLL_RATE = 200
CALM_S, SWEEP_LIMIT_S = 30.0, 1800.0
"""`CALM_S` before the sweep and after it."""
WINDOW_S = 10.0
"""The p99 is the median of those of such times, so that a noisy moment of the machine is none of the sweep's."""
SETTLE_S = 4.0
"""By then a worker has started its spare process."""
PROGRESS_TASKS, PROGRESS_S = 20, 10.0

ENDED_OF_100 = 97
# What a day leaves behind: mostly results of some hundred bytes, some failures and cancels, some that wait. Nothing is
# due, so a worker beside it has nothing to do. What ended among the first `$2` has expired in the course of a day.
_FILL = f"""
    INSERT INTO tasks (id, owner, tool, queue, status, phase, attempt, arguments, capabilities, status_message, result,
        error, ran_ms, base_ttl_ms, ttl_ms, expires_at, poll_interval_ms, created_at, updated_at, claimed_at, rung_at,
        ended_at, wake_at, stopped_at)
    SELECT 'tsk_' || md5(n::text), '{ANONYMOUS.owner}', 'nothing', 'default',
        CASE kind WHEN 'asks' THEN 'input_required' WHEN 'sleeps' THEN 'working' ELSE kind END,
        CASE WHEN ended THEN 'done' ELSE 'waiting' END, 1,
        '{{"path": "' || repeat(md5(n::text), 1 + n % 5) || '"}}', '{{}}', 'Completed',
        CASE WHEN kind = 'completed' THEN
            '{{"content":[{{"type":"text","text":"' || repeat(md5((n + 1)::text), 1 + (n * 7) % 20) || '"}}]}}' END,
        CASE WHEN kind = 'failed' THEN '{{"code": -32000, "message": "It failed"}}' END,
        n % 1000, 86400000, 86400000,
        CASE WHEN n <= $2::int AND ended THEN now() - interval '1 day' * n / $2::int
            ELSE now() + interval '1 day' END,
        1000, moment, moment + interval '2 s', moment, moment,
        CASE WHEN ended THEN moment + interval '2 s' END,
        CASE WHEN kind = 'sleeps' THEN now() + interval '1 day' END,
        CASE WHEN kind = 'cancelled' THEN moment END
    FROM (SELECT n, now() - interval '1 day' * (1 - n::float / $1::int) AS moment,
            CASE WHEN n % 100 < 90 THEN 'completed' WHEN n % 100 < 94 THEN 'failed' WHEN n % 100 < 97 THEN 'cancelled'
                WHEN n % 100 < 99 THEN 'asks' ELSE 'sleeps' END AS kind,
            n % 100 < 97 AS ended
        FROM generate_series(1, $1::int) AS n) AS made
"""
_LEFT = "SELECT EXISTS (SELECT FROM tasks WHERE phase = 'done' AND expires_at <= now())"
_FIRST = "SELECT id FROM tasks WHERE phase = 'done' ORDER BY expires_at LIMIT 1"
_THERE = "SELECT EXISTS (SELECT FROM tasks WHERE id = $1)"
SWEPT_LOOK_S, BEGUN_LOOK_S, BEGIN_LIMIT_S = 1.0, 0.1, 30.0
_ASK = """
    INSERT INTO inputs (task_id, key, position, attempt, method, params)
    SELECT id, 'name', 0, 1, 'elicitation/create',
        '{"mode": "form", "message": "Which?", "requestedSchema": {"type": "object", "properties": {}}}'
    FROM tasks WHERE status = 'input_required'
"""


def _task_id(n: int) -> str:
    return f"tsk_{hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest()}"


def _filled(site: Site, count: int, expired: int = 0) -> str:
    """A database with so many tasks, as it is after a while: vacuumed and analysed."""
    first = expired // ENDED_OF_100 * 100 + expired % ENDED_OF_100
    url = site.database()
    begun = time.monotonic()
    site.sql(_FILL, count, first, url=url)
    site.sql(_ASK, url=url)
    site.sql("VACUUM (ANALYZE) tasks", url=url)
    site.sql("VACUUM (ANALYZE) inputs", url=url)
    size = site.sql("SELECT pg_size_pretty(pg_total_relation_size('tasks'))", url=url)[0][0]
    print(f"  {count:,} tasks in {time.monotonic() - begun:.0f} s ({size})", flush=True)
    return url


def polls(site: Site) -> list[Figure]:
    """The same polls of random tasks at both sizes, rounds in turn on one server."""
    counts = (site.scaled(FEW), site.scaled(MANY))
    few, many = (_filled(site, count) for count in counts)
    took: dict[int, list[float]] = {count: [] for count in counts}
    with site.front_end(few) as first, site.front_end(many) as second:
        sides = tuple(zip(counts, (first, second), strict=True))
        for _, front in sides:
            run(drive(front.url, CONNECTIONS, 1.0, _polling(front.url, counts[0])))
        for turn in range(ROUNDS):
            for count, front in sides if turn % 2 else sides[::-1]:
                load = run(drive(front.url, CONNECTIONS, ROUND_S, _polling(front.url, count)))
                took[count].append(1000 / load.rate)
                print(f"  {count:,} tasks: {load.rate:,.0f} polls/s", flush=True)
    for url in (few, many):
        site.drop(url)
    small, large = (statistics.median(took[count]) for count in counts)
    figure = f"{large / small:.2f} times the time ({large:.2f} ms of the machine a poll against {small:.2f} ms)"
    what = f"polls at {counts[1]:,} retained tasks against {counts[0]:,}"
    return [Figure(what, "at most 1.2 times the time", figure, large / small <= 1.2)]


def _polling(url: str, count: int) -> Callable[[Connection], Awaitable[object]]:
    chosen = [_task_id(random.randint(1, count)) for _ in range(min(count, 50_000))]
    messages = itertools.cycle([request(url, "tasks/get", each, {"taskId": each}) for each in chosen])
    return lambda connection: connection.send(next(messages))


def sweep(site: Site) -> list[Figure]:
    """A worker deletes half a million expired tasks of a million, to the last, while clients poll those that stay.

    Compared with the same polls before it, when the worker is there and may not sweep yet, and after it.
    """
    count, expired = site.scaled(MANY), site.scaled(EXPIRED)
    url = _filled(site, count, expired)
    kept = [row[0] for row in site.sql("SELECT id FROM tasks WHERE expires_at > now() LIMIT 1000", url=url)]
    ((due,),) = site.sql("SELECT count(*) FROM tasks WHERE expires_at <= now()", url=url)
    assert due == expired, f"{due:,} tasks have expired, not {expired:,}"

    ((first,),) = site.sql(_FIRST, url=url)

    async def until_swept() -> float:
        """Seconds it took."""
        begun = time.monotonic()
        passed, left = 0.0, True
        while left and passed < SWEEP_LIMIT_S:
            await asyncio.sleep(SWEPT_LOOK_S)
            ((left,),) = await execute(url, _LEFT)
            passed = time.monotonic() - begun
        return passed

    async def swept() -> tuple[list[float], float]:
        for _ in range(round(BEGIN_LIMIT_S / BEGUN_LOOK_S)):
            if not (await execute(url, _THERE, first))[0][0]:
                break
            await asyncio.sleep(BEGUN_LOOK_S)
        else:
            raise SystemExit(f"no sweep has begun within {BEGIN_LIMIT_S:.0f} s")
        over = asyncio.create_task(until_swept())
        return await _steadily(front.url, kept, over.done), await over

    calm_s = max(WINDOW_S, CALM_S * site.size)
    with site.front_end(url) as front, ExitStack() as stack:
        # The same processes in both phases, and the start of neither.
        with _kept_from_sweeping(url):
            stack.enter_context(site.worker(url))
            run(_steadily(front.url, kept, _for(SETTLE_S)))
            calm = run(_steadily(front.url, kept, _for(calm_s)))
        times, passed = run(swept())
        calm += run(_steadily(front.url, kept, _for(calm_s)))
    ((left,),) = site.sql("SELECT count(*) FROM tasks WHERE expires_at <= now()", url=url)
    ((stayed,),) = site.sql("SELECT count(*) FROM tasks WHERE expires_at > now()", url=url)
    site.drop(url)
    without, during = _p99_ms(calm), _p99_ms(times)
    in_all = f"of all polls {percentile(times, 0.99) * 1000:.2f} against {percentile(calm, 0.99) * 1000:.2f}"
    print(f"  {expired - left:,} of {expired:,} tasks swept in {passed:.0f} s, {stayed:,} stayed", flush=True)
    return [
        Figure(
            f"sweeping {expired:,} expired tasks of {count:,} while {POLL_RATE} polls a second run: poll p99",
            "at most doubled",
            f"{during:.2f} ms against {without:.2f} ms ({in_all}), over {passed:.0f} s to the last of them"
            f" ({(expired - left) / passed:,.0f} a second){f'; {left:,} were left' if left else ''}",
            during <= 2 * without and left == 0 and stayed == count - expired,
        )
    ]


def _p99_ms(times: list[float]) -> float:
    polls_each = round(WINDOW_S * POLL_RATE)
    windows = [times[start : start + polls_each] for start in range(0, len(times) - polls_each + 1, polls_each)]
    return statistics.median(percentile(each, 0.99) for each in windows or [times]) * 1000


@contextmanager
def _kept_from_sweeping(url: str) -> Iterator[None]:
    """As while another worker sweeps: one does at a time."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        runner.run(connection.execute("SELECT pg_advisory_lock($1)", SWEEPING))
        try:
            yield
        finally:
            runner.run(connection.close())


def _for(seconds: float) -> Callable[[], bool]:
    """Whether the time from now on is over."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


async def _steadily(url: str, task_ids: list[str], over: Callable[[], bool]) -> list[float]:
    """Seconds that each poll took from the moment it was due: one that had to wait for a connection counts it."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await Connection.open(url))
    messages = [request(url, "tasks/get", each, {"taskId": each}) for each in task_ids]
    times: list[float] = []

    async def poll(due: float, message: bytes) -> None:
        connection = await free.get()
        await connection.send(message)
        times.append(time.perf_counter() - due)
        free.put_nowait(connection)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for n in itertools.count():
            if over():
                break
            due = begun + n / POLL_RATE
            await asyncio.sleep(due - time.perf_counter())
            group.create_task(poll(due, messages[n % len(messages)]))
    while not free.empty():
        await free.get_nowait().close()
    return times


def hot(site: Site) -> list[Figure]:
    """How many updates of a task's row touch no index: of calls that say how far they are, and of calls that do not."""
    url = site.database()
    with site.front_end(url) as front, site.worker(url):
        empty = request(front.url, "tools/call", "nothing", {"name": "nothing", "arguments": {}})
        plain = _updates(site, url, empty, front.url, site.scaled(200))
        slow = {"name": "steps", "arguments": {"seconds": PROGRESS_S * site.size}}
        telling = _updates(site, url, request(front.url, "tools/call", "steps", slow), front.url, PROGRESS_TASKS)
    site.drop(url)
    return [
        Figure("updates of a task's row, no progress: all, and those in place (HOT)", "", plain, None),
        Figure(f"the same with progress told all the time for {PROGRESS_S * site.size:.0f} s", "", telling, None),
    ]


def _updates(site: Site, url: str, message: bytes, endpoint: str, count: int) -> str:
    def counted() -> tuple[int, int]:
        time.sleep(1.5)  # sessions report what they did a second later
        query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'tasks'"
        ((updated, in_place),) = site.sql(query, url=url)
        return updated, in_place

    async def call() -> None:
        connection = await Connection.open(endpoint)
        for _ in range(count):
            await connection.send(message)
        alive = 1
        while alive:
            (row,) = await execute(url, "SELECT count(*) FROM tasks WHERE phase <> 'done'")
            alive = row[0]
            await asyncio.sleep(0.2)
        await connection.close()

    before = counted()
    run(call())
    updated, in_place = (after - earlier for after, earlier in zip(counted(), before, strict=True))
    return f"{updated / count:.1f} a task, {in_place / updated:.0%} in place"
