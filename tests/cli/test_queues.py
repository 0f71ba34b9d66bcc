"""`taskengine pause` and `resume`, and what `doctor` says of paused queues."""

from __future__ import annotations

import asyncio

import pytest

from taskengine.cli import main
from taskengine.settings import PREFIX, Settings
from taskengine.store import Store
from tests.processes import environment
from tests.store.calls import stored


@pytest.fixture(autouse=True)
def _configured(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(settings).items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)


def queue_one(settings: Settings) -> None:
    async def run() -> None:
        store = await Store.open(settings)
        await stored(store)
        await store.close()

    asyncio.run(run())


def test_a_paused_queue_is_named_by_doctor_until_it_is_resumed(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    queue_one(settings)
    assert main(["pause", "default", "--reason", "the tape is full"]) == 0
    assert main(["doctor"]) == 0
    assert "queue default is paused (the tape is full), 1 tasks wait in it" in capsys.readouterr().out
    assert main(["resume", "default"]) == 0
    assert main(["doctor"]) == 0
    assert "is paused" not in capsys.readouterr().out.rpartition("is run again")[2]


def test_resuming_what_is_not_paused_is_an_error_and_a_queue_of_nobody_is_noted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["resume", "default"]) == 2
    assert "default is not paused" in capsys.readouterr().err
    assert main(["pause", "elsewhere"]) == 0
    assert "nothing waits in elsewhere now" in capsys.readouterr().out
