"""Where the time goes: `python -m benchmarks.profile [--seconds 10] [--write FILE]`, which `make profile` runs.

Under polls and under creates, each from 16 connections: where front end and worker spend their CPU (py-spy) and which
statements cost PostgreSQL the most (pg_stat_statements). Beside it the plans of the statements of a task's life, and
the milliseconds of each step of a lone task. The services are those that TASKENGINE_TEST_DATABASE_URL and
TASKENGINE_TEST_BROKER_URL name, else embedded ones. `--write` puts it into its section of FILE.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import profile_life, profile_plans
from benchmarks.machine import Machine
from benchmarks.measures import MEASURES, Measure, empty
from benchmarks.page import machine, write_section
from benchmarks.services import STATISTICS, Services, running_services
from benchmarks.sides import ROOT, Side, ours

SECTION = "profile"
SPIES = (ROOT / ".cache" / "bench-profile" / "bin" / "py-spy",)
"""Where `make profile` puts it; else it is looked for on the path."""
RATE = 200
"""Samples a second."""
PARTS, FUNCTIONS, STATEMENTS = 12, 12, 6
LOADS = ("polls", "creates")
_TOP = f"""
    SELECT query, calls, total_exec_time / calls, total_exec_time / sum(total_exec_time) OVER (), rows::float / calls,
        (shared_blks_hit + shared_blks_read)::float / calls
    FROM {STATISTICS} WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND query NOT LIKE '%{STATISTICS}%' ORDER BY total_exec_time DESC LIMIT {STATEMENTS}
"""
_OURS = re.compile(r"taskengine/(\w+)(?:/|\.py)")
_PACKAGE = re.compile(r"site-packages/(\w+)")


class Spy:
    """py-spy on one process, from when it is made. Sampled is whoever holds the interpreter: a thread that waits in a
    call of the system looks to it as if it ran."""

    def __init__(self, spy: str, process: Machine, seconds: float, folder: Path) -> None:
        self._raw = folder / f"{process.pid}.txt"
        command = [spy, "record", "--format", "raw", "--gil", "--full-filenames", "--rate", str(RATE)]
        command += ["--duration", str(max(1, round(seconds))), "--output", str(self._raw), "--pid", str(process.pid)]
        self._log = folder / f"{process.pid}.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def seen(self) -> Counter[tuple[str, ...]]:
        """Stacks, outermost frame first, and how often each was found."""
        if self._process.wait() or not self._raw.exists():
            raise SystemExit(f"py-spy failed:\n{self._log.read_text(errors='replace')[-2000:]}")
        stacks: Counter[tuple[str, ...]] = Counter()
        for line in self._raw.read_text().splitlines():
            frames, _, count = line.rpartition(" ")
            stacks[tuple(frames.split(";"))] += int(count)
        return stacks


def _part(frame: str) -> str:
    """Whose code a frame is: a package of ours, a library, or Python itself."""
    if found := _OURS.search(frame):
        return f"taskengine.{found[1]}"
    found = _PACKAGE.search(frame)
    return found[1] if found else "Python"


def _function(frame: str) -> str:
    """Without folders and line, as in `request (server/endpoint.py)`."""
    name, _, place = frame.partition(" (")
    parts = place.rpartition(":")[0].split("/")
    return f"`{name}` ({'/'.join(parts[-2:])})" if place else f"`{name}`"


def _shares(counts: Counter[str], most: int, whole: int) -> str:
    return ", ".join(f"{name} {count / whole:.0%}" for name, count in counts.most_common(most) if count / whole >= 0.01)


def _seen(what: str, stacks: Counter[tuple[str, ...]], seconds: float) -> list[str]:
    whole = stacks.total()
    if not whole:
        return [f"- {what}: idle."]
    parts: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for stack, count in stacks.items():
        parts[_part(stack[-1])] += count
        functions[_function(stack[-1])] += count
    busy = whole / (RATE * seconds)
    return [
        f"- {what}, {busy:.0%} of a core in Python, by whose code runs: {_shares(parts, PARTS, whole)}.",
        f"  By function: {_shares(functions, FUNCTIONS, whole)}.",
    ]


@dataclass(frozen=True)
class Load:
    """A front end and a worker, and what looks at them for how long."""

    services: Services
    url: str
    side: Side
    running: tuple[Machine, ...]
    spy: str | None
    seconds: float

    def under(self, measure: Measure) -> list[str]:
        """The lines of the report on one kind of load."""
        made = () if measure.ready is None else uvloop.run(measure.ready(self.side.endpoint))
        self.services.sql(f"SELECT {STATISTICS}_reset()", url=self.url)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            spies = [] if self.spy is None else [Spy(self.spy, each, self.seconds, folder) for each in self.running]
            taken = uvloop.run(measure.run(self.side.endpoint, self.seconds, made))
            found = [each.seen() for each in spies]
        statements = _statements(self.services, self.url)
        uvloop.run(empty(self.side.endpoint, taken.made))
        lines = [f"**Under {measure.key}** ({taken.value:,.0f} a second while it was looked at):", ""]
        for name, stacks in zip(("front end", "worker"), found, strict=False):
            lines += _seen(name, stacks, self.seconds)
        if self.spy is None:
            lines.append("- CPU by function: not shown: py-spy is not there (`make profile` installs it).")
        return lines + statements


def _statements(services: Services, url: str) -> list[str]:
    lines = [
        "",
        "| statement | calls | ms each | share of the time | rows each | pages each |",
        "|---|---|---|---|---|---|",
    ]
    for query, calls, mean, share, rows, pages in services.sql(_TOP, url=url):
        text = " ".join(query.split()).replace("|", "\\|")
        short = text if len(text) <= 90 else f"{text[:90]}…"
        lines.append(f"| `{short}` | {calls:,} | {mean:.3f} | {share:.0%} | {rows:.1f} | {pages:.1f} |")
    return [*lines, ""]


def _report(services: Services, seconds: float, folder: Path) -> str:
    spy = next((str(each) for each in SPIES if each.exists()), shutil.which("py-spy"))
    url = services.database()
    services.sql(f"CREATE EXTENSION {STATISTICS}", url=url)
    side = ours(services, url)
    lines: list[str] = []
    with side.running(folder / "ours.log") as running:
        load = Load(services, url, side, running, spy, seconds)
        for measure in MEASURES:
            if measure.key in LOADS:
                print(f"{measure.key} …", flush=True)
                lines += load.under(measure)
    print("one at a time …", flush=True)
    lives = uvloop.run(profile_life.lives(side, url, services.broker_url, seconds, folder / "lives.log"))
    print("plans …", flush=True)
    services.sql("VACUUM (ANALYZE) tasks", url=url)
    ((count,),) = services.sql("SELECT count(*) FROM tasks", url=url)
    lines += ["**A lone task's life:**", "", profile_life.table(lives), ""]
    lines.append(f"**Plans**, with {count:,} tasks in the table (`EXPLAIN (ANALYZE, BUFFERS)`):")
    for what, texts in uvloop.run(profile_plans.plans(url)).items():
        for number, text in enumerate(texts, 1):
            lines += ["", f"{what}, statement {number} of {len(texts)}:", "", "```", text, "```"]
    lines += ["", f"Made on {machine(*services.described)}, everything on the same cores."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load")
    parser.add_argument("--write", type=Path, help="write it into its section of this file as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_services(Path(name), statements=True) as services:
        report = _report(services, options.seconds, Path(name))
    print(f"\n{report}")
    if options.write is not None:
        write_section(options.write, SECTION, report)


if __name__ == "__main__":
    main()
