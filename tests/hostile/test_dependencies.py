"""What can be audited of the dependencies without a network; `make audit` asks for known vulnerabilities where there is
one."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from tests.hostile.audit import LOCKED, read_report
from tests.processes import ROOT

PINNED = re.compile(r"^[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s;*]+( ; [^\\]+)?$")
UNPICKLING = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "_pickle"}


@pytest.mark.parametrize("name", LOCKED)
def test_every_package_is_locked_to_one_version_and_its_hashes(name: str) -> None:
    text = re.sub(r"\\\n\s*", " ", (ROOT / name).read_text())
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    packages = [line for line in lines if line]
    assert packages
    for package in packages:
        requirement, *hashes = re.split(r"\s+--hash=", package)
        assert PINNED.match(requirement.strip()), requirement
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each.strip()) for each in hashes), requirement


def test_the_javascript_clients_are_locked_too() -> None:
    packages = json.loads((ROOT / "tests" / "official" / "package-lock.json").read_text())["packages"]
    assert packages
    assert not [name for name, found in packages.items() if name and "integrity" not in found and not found.get("link")]


def test_a_package_that_nothing_is_known_of_does_not_pass_for_a_good_one() -> None:
    """An index that has no list of vulnerabilities says of every package that it has never heard of it."""
    report = {
        "dependencies": [
            {"name": "good", "version": "1", "vulns": []},
            {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "aliases": []}]},
            {"name": "unknown", "skip_reason": "Dependency not found on PyPI and could not be audited"},
        ],
        "fixes": [],
    }
    audited = read_report(json.dumps(report))
    assert (audited.looked_up, audited.skipped) == (2, 1)
    assert audited.vulnerable == ("bad 2: PYSEC-1, mended in 3",)


@pytest.mark.parametrize("folder", ["taskengine", "workers", "migrations"])
def test_nothing_of_ours_can_be_made_to_run_what_it_reads(folder: str) -> None:
    """No pickles, no evaluation of text; what comes from outside is JSON or TOML."""
    for path in sorted(Path(ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, f"{path}:{node.lineno}"
            elif isinstance(node, ast.keyword) and node.arg == "shell":
                assert isinstance(node.value, ast.Constant), f"{path}:{node.value.lineno}"
                assert not node.value.value, f"{path}:{node.value.lineno}"
            assert names.isdisjoint(UNPICKLING), f"{path} imports {names & UNPICKLING}"
