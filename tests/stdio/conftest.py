from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, Processes, deployed, environment
from tests.services import Services
from tests.stdio.host import Host

APP = str(ROOT / "tests" / "apps" / "app.py") + ":engine"
NOISY = str(ROOT / "tests" / "stdio" / "tools.py") + ":engine"
Start = Callable[..., Host]


@pytest.fixture(scope="module")
def deployment(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Configured services and a worker, shared by the tests of a module."""
    with deployed(services, tmp_path_factory.mktemp("stdio"), APP) as started:
        yield started


@pytest.fixture
def start_host(deployment: Processes, tmp_path: Path) -> Iterator[Start]:
    """Starts stdio processes on these services, with settings of their own; none is left afterwards."""
    hosts: list[Host] = []

    def start(target: str = APP, **variables: str) -> Host:
        hosts.append(Host([target], environment(deployment.settings) | variables, tmp_path / "stdio.log"))
        return hosts[-1]

    yield start
    for host in hosts:
        host.kill()


@pytest.fixture
def host(start_host: Start) -> Host:
    return start_host()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"
