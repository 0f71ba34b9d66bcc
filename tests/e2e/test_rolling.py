"""A rolling deploy from the code before durable functions: its processes go on while the schema and the workers change.

The code before is taken from the history of this repository.
"""

from __future__ import annotations

import asyncio
import io
import secrets
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from taskengine.client import Client
from taskengine.errors import StoreUnavailable
from taskengine.lifecycle import Status
from taskengine.settings import Settings
from taskengine.store import migrate
from tests.e2e.test_life import HELLO, submit, text, until
from tests.jobs.test_worker import appears
from tests.processes import ROOT, Processes
from tests.services import Services, broken_invariants

APP = "tests/apps/app.py:engine"
FIRST_STEP = "0003"
BEFORE = "0002"


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


@pytest.fixture(scope="module")
def code_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the last code whose newest migration is `BEFORE`."""
    step = next((ROOT / "migrations" / "versions").glob(f"{FIRST_STEP}_*.py")).relative_to(ROOT)
    added = _git("log", "--format=%H", "--diff-filter=A", "--", str(step)).decode().split()
    archive = _git("archive", f"{added[-1]}^", "taskengine", "migrations", "tests/apps") if added else b""
    if not archive:
        pytest.skip("the history of the repository is not at hand")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        # Ours, by `git archive`; Python before 3.11.4 knows no filters.
        packed.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # type: ignore[arg-type]
    assert [path.name[:4] for path in sorted((folder / "migrations" / "versions").glob("0*.py"))][-1] == BEFORE
    return folder


@pytest.fixture
def old(empty_database_url: str, services: Services, tmp_path: Path, code_before: Path) -> Iterator[Processes]:
    settings = Settings(
        database_url=SecretStr(empty_database_url),
        broker_url=SecretStr(services.broker_url),
        namespace=f"t{secrets.token_hex(6)}",
    )
    (tmp_path / "old").mkdir()
    started = Processes(settings, tmp_path / "old", code_before)
    yield started
    started.kill_all()


@pytest.fixture
def new(old: Processes, tmp_path: Path) -> Iterator[Processes]:
    started = Processes(old.settings, tmp_path)
    yield started
    started.kill_all()


async def migrated(url: str, revision: str) -> None:
    """As an operator does it: a run that met a busy table is run again."""
    for _ in range(5):
        try:
            return await asyncio.to_thread(migrate.upgrade, url, revision)
        except StoreUnavailable:
            await asyncio.sleep(0.5)
    raise AssertionError(f"the database never got to {revision}")


async def test_processes_of_the_code_before_go_on_over_each_step_and_beside_the_new_ones(
    old: Processes, new: Processes, empty_database_url: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    await migrated(empty_database_url, BEFORE)
    (old_front, old_url), old_worker = old.serve(APP), old.worker(APP, drain_grace=timedelta(seconds=1))
    calls: list[str] = []
    over = asyncio.Event()

    async with Client(old_url) as client:

        async def go_on_calling() -> None:
            while not over.is_set():
                for tool in ("add", "add_sync"):
                    calls.append(await submit(client, tool, a=len(calls), b=1))
                await until(client, calls[-1], Status.COMPLETED)

        asking = await submit(client, "two_questions")
        forgotten = await submit(client, "two_questions")
        await until(client, asking, Status.INPUT_REQUIRED)
        await until(client, forgotten, Status.INPUT_REQUIRED)
        calling = asyncio.create_task(go_on_calling())
        for revision in (FIRST_STEP, "0004", "head"):
            await migrated(empty_database_url, revision)
            seen = len(calls)
            async with asyncio.timeout(60):  # it goes on under this schema
                while len(calls) < seen + 6 and not calling.done():
                    await asyncio.sleep(0.05)
        await client.cancel(forgotten)
        long = await submit(client, "outlast", ledger=str(ledger))
        await appears(ledger, "start")

        (_, new_url), _ = new.serve(APP), new.worker(APP)
        seen = len(calls)
        async with asyncio.timeout(60):  # both serve the same tasks
            while len(calls) < seen + 6 and not calling.done():
                await asyncio.sleep(0.05)
        old_worker.send(signal.SIGTERM)
        assert await asyncio.to_thread(old_worker.wait, 60) == 0
        over.set()
        await calling

    old_front.send(signal.SIGTERM)
    assert await asyncio.to_thread(old_front.wait, 60) == 0
    async with Client(new_url) as client:
        await client.answer(asking, {"name": HELLO})
        await client.answer(asking, {"sure": {"action": "decline"}})
        assert text(await until(client, asking, Status.COMPLETED)) == "name='Ann' None"
        assert (await client.get(forgotten)).status is Status.CANCELLED
        assert text(await until(client, long, Status.COMPLETED)) == "done in attempt 2"
        for n, task_id in enumerate(calls):
            assert f'"total":{n + 1},' in text(await until(client, task_id, Status.COMPLETED)).replace(" ", "")
    assert await broken_invariants(empty_database_url) == []
