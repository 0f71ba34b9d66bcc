"""`make audit`: the locked versions, looked up among the known vulnerabilities by pip-audit.

Ends with code 1 when one is known. What could not be looked up is said and is no failure: a network that is not there,
or an index that has no such list, says nothing about the packages. Needs nothing but Python itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LOCKED", "Audited", "read_report"]

LOCKED = (
    "constraints.txt",
    "workers/requirements.txt",
    "tests/official/requirements-1.30.txt",
    "benchmarks/peer-requirements.txt",
    "benchmarks/profile-requirements.txt",
    "tests/fuzz/requirements.txt",
)
PATIENCE_S = 30
"""For one file: where the list cannot be reached, every package would wait for it."""
ENVIRONMENT = Path(".cache/audit")
AUDITOR = ENVIRONMENT / "bin" / "pip-audit"


@dataclass(frozen=True)
class Audited:
    """What was found out of one file."""

    looked_up: int
    skipped: int
    vulnerable: tuple[str, ...]
    """One sentence each."""


def read_report(text: str) -> Audited:
    """Of pip-audit's JSON: a package that it knows nothing of has not been looked up."""
    packages: list[dict[str, Any]] = json.loads(text)["dependencies"]
    known = [each for each in packages if "skip_reason" not in each]
    vulnerable = [
        f"{each['name']} {each['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for each in known
        for found in each["vulns"]
    ]
    return Audited(len(known), len(packages) - len(known), tuple(vulnerable))


def main() -> int:
    why = _not_installed()
    if why is not None:
        print(f"NOT AUDITED: {why}")
        return 0
    vulnerable: list[str] = []
    for name in LOCKED:
        # Not locked itself: it should know the latest. It sees names and versions only, and installs nothing of ours.
        command = [str(AUDITOR), "--progress-spinner", "off", "--disable-pip", "--require-hashes", "-f", "json"]
        try:
            said = subprocess.run(
                [*command, "-r", name], capture_output=True, text=True, check=False, timeout=PATIENCE_S
            )
        except subprocess.TimeoutExpired:
            print("NOT AUDITED: the list of known vulnerabilities does not answer")
            break
        try:
            audited = read_report(said.stdout)
        except (ValueError, KeyError):
            print(f"NOT AUDITED: {said.stderr.strip().rpartition(chr(10))[2]}")
            break
        if not audited.looked_up:
            print(f"NOT AUDITED: nothing is known here of the {audited.skipped} packages of {name}")
            break  # the list is not there at all
        print(f"{name}: {audited.looked_up} looked up, {len(audited.vulnerable)} known vulnerabilities")
        if audited.skipped:
            print(f"NOT AUDITED: {audited.skipped} packages of {name}")
        vulnerable += audited.vulnerable
    for each in sorted(set(vulnerable)):
        print(f"VULNERABLE: {each}")
    return 1 if vulnerable else 0


def _not_installed() -> str | None:
    if not AUDITOR.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    command = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, "pip-audit"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else "pip-audit cannot be installed here"


if __name__ == "__main__":
    sys.exit(main())
