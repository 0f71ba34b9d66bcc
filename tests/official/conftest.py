"""The official clients, each a program in an environment of its own, against real processes over both transports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT, Processes, deployed, environment
from tests.services import Services

APP = str(ROOT / "tests" / "apps" / "app.py") + ":engine"
HERE = Path(__file__).parent
INSTALLED = ROOT / ".cache" / "official"
LEAST_NODE = 20
LONGEST_S = 100


@dataclass(frozen=True)
class Target:
    """Where a client finds the server: an address, or a command."""

    where: list[str]
    env: dict[str, str]
    errors: Path

    def run(self, *command: str) -> dict[str, Any]:
        """What the client program has seen."""
        with self.errors.open("ab") as log:
            done = subprocess.run(
                [*command, *self.where],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.env,
                timeout=LONGEST_S,
                check=False,
            )
        assert done.returncode == 0, self.errors.read_text()[-5000:]
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen


@pytest.fixture(scope="module")
def deployment(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A worker and a database; the front ends come with the transports."""
    with deployed(services, tmp_path_factory.mktemp("official"), APP) as started:
        yield started


@pytest.fixture(scope="module", params=["http", "stdio"])
def target(request: pytest.FixtureRequest, deployment: Processes) -> Target:
    if request.param == "http":
        _, url = deployment.serve(APP)
        where = [url]
    else:
        where = [sys.executable, "-m", "taskengine", "stdio", APP]
    return Target(where, environment(deployment.settings), deployment.folder / "client.log")


@pytest.fixture(scope="session")
def python_1() -> str:
    """The Python that has `mcp` 1.30."""
    if not (INSTALLED / "python-1" / ".ready").exists():
        pytest.skip("`make official` installs the official Python client 1.30")
    return str(INSTALLED / "python-1" / "bin" / "python")


@pytest.fixture(scope="session")
def node() -> Callable[[str], list[str]]:
    """From a program's name to the command that runs it, beside the packages it imports."""
    program = shutil.which("node")
    if program is None:
        pytest.skip(
            f"the TypeScript clients need Node.js {LEAST_NODE} or later: install it with npm, run `make official`"
        )
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)", version)
    if found is None or int(found[1]) < LEAST_NODE:
        pytest.skip(f"the TypeScript clients need Node.js {LEAST_NODE} or later, this is {version.strip()}")
    folder = INSTALLED / "typescript"
    if not (folder / ".ready").exists():
        pytest.skip("`make official` installs the official TypeScript clients; it needs npm")

    def command(name: str) -> list[str]:
        copy = folder / name  # Node.js looks for packages beside the program
        text = (HERE / name).read_text()
        if not copy.exists() or copy.read_text() != text:
            copy.write_text(text)
        return [program, str(copy)]

    return command
