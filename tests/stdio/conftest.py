from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskengine.settings import Settings
from tests.processes import ROOT, Processes, environment
from tests.stdio.host import Host

APP = str(ROOT / "tests" / "apps" / "app.py") + ":engine"
Start = Callable[[], Host]


@pytest.fixture
def start_host(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts stdio processes on the test's services; none is left afterwards."""
    hosts: list[Host] = []

    def start() -> Host:
        hosts.append(Host([APP], environment(settings), tmp_path / "stdio.log"))
        return hosts[-1]

    yield start
    for host in hosts:
        host.kill()


@pytest.fixture
def worker(processes: Processes) -> None:
    processes.worker(APP)


@pytest.fixture
def host(start_host: Start, worker: None) -> Host:
    return start_host()
