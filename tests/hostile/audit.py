"""`make audit`: the locked versions, looked up among the known vulnerabilities of PyPI by pip-audit.

Ends with code 1 when one is known. What could not be looked up is said and is no failure: a network that is not there,
or an index that has no such list, says nothing about the packages. Needs nothing but Python itself.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LOCKED", "Audited", "first_of", "read_report"]

LOCKED = (
    "constraints.txt",
    "workers/requirements.txt",
    "tests/official/requirements-1.30.txt",
    "benchmarks/peer-requirements.txt",
    "tests/fuzz/requirements.txt",
)
LISTED = "https://pypi.org/pypi/{name}/{version}/json"
"""Where pip-audit looks, too."""
PATIENCE_S = 5
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


def first_of(text: str) -> tuple[str, str]:
    """Name and version of the first package of a locked file."""
    found = re.search(r"^([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)", text, re.MULTILINE)
    assert found is not None, "a locked file has packages"
    return found[1], found[2]


def main() -> int:
    why = _unreachable() or _not_installed()
    if why is not None:
        print(f"NOT AUDITED: {why}")
        return 0
    vulnerable: list[str] = []
    for name in LOCKED:
        # Not locked itself: it should know the latest. It sees names and versions only, and installs nothing of ours.
        command = [str(AUDITOR), "--progress-spinner", "off", "--disable-pip", "--require-hashes", "-f", "json"]
        said = subprocess.run([*command, "-r", name], capture_output=True, text=True, check=False)
        try:
            audited = read_report(said.stdout)
        except (ValueError, KeyError):
            print(f"NOT AUDITED: {name}: {said.stderr.strip().rpartition(chr(10))[2]}")
            continue
        print(f"{name}: {audited.looked_up} looked up, {len(audited.vulnerable)} known vulnerabilities")
        if audited.skipped:
            print(f"NOT AUDITED: {audited.skipped} packages of {name}")
        vulnerable += audited.vulnerable
    for each in sorted(set(vulnerable)):
        print(f"VULNERABLE: {each}")
    return 1 if vulnerable else 0


def _unreachable() -> str | None:
    """Asked first and once: where there is no list, nothing needs to be installed."""
    name, version = first_of(Path(LOCKED[0]).read_text())
    url = LISTED.format(name=name, version=version)
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S):
            return None
    except (urllib.error.URLError, OSError) as error:
        return f"the list of known vulnerabilities cannot be reached from here ({url}: {error})"


def _not_installed() -> str | None:
    if not AUDITOR.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    command = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, "pip-audit"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else "pip-audit cannot be installed here"


if __name__ == "__main__":
    sys.exit(main())
