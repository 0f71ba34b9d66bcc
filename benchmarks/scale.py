"""What grows and what stays flat: `python -m benchmarks.scale [--only NAME …] [--size 0.01] [--write FILE]`.

Each measure starts our own processes on a database of its own and prints its lines of the table, goal beside figure.
`--write` puts the table into its section of FILE; it is refused for a part of the measures, and for another size. The
services are those that TASKENGINE_TEST_DATABASE_URL and TASKENGINE_TEST_BROKER_URL name, else embedded ones.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import scale_growth, scale_pooler, scale_processes, scale_rows, scale_streams
from benchmarks.page import machine, verdict, write_section
from benchmarks.scale_site import Figure, Site

SECTION = "scale"
MEASURES: dict[str, Callable[[Site], list[Figure]]] = {
    "polls": scale_rows.polls,
    "sweep": scale_rows.sweep,
    "listen": scale_streams.listen_streams,
    "results": scale_streams.result_streams,
    "waiting": scale_processes.waiting,
    "idle": scale_processes.idle,
    "start": scale_processes.start,
    "workers": scale_growth.workers,
    "front_ends": scale_growth.front_ends,
    "hot": scale_rows.hot,
    "pooled": scale_pooler.pooled,
}


def _table(figures: list[Figure]) -> str:
    lines = ["| what | goal | figure | met |", "|---|---|---|---|"]
    for each in figures:
        met = "not shown" if each.goal and each.met is None else verdict(each.met)
        lines += [f"| {each.what} | {each.goal} | {each.figure} | {met} |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="these measures alone")
    parser.add_argument("--size", type=float, default=1.0, help="share of the full sizes, for a try")
    parser.add_argument("--write", type=Path, help="write the table into its section of this file as well")
    options = parser.parse_args()
    if options.write and (options.size != 1 or set(options.only) != set(MEASURES)):
        parser.error("--write is for whole runs: all measures, at full size")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # two thousand streams are as many files, on both sides
    figures: list[Figure] = []
    services: tuple[str, ...] = ()
    begun = time.monotonic()
    for name in options.only:
        print(f"{name} …", flush=True)
        started = time.monotonic()
        # Of its own: what one measure leaves behind to vacuum must not weigh on the next.
        with (
            tempfile.TemporaryDirectory(prefix="taskengine-scale-") as folder,
            Site(Path(folder), options.size) as site,
        ):
            services = site.services.described
            for figure in MEASURES[name](site):
                figures.append(figure)
                print(f"  {figure.what}: {figure.figure} (goal: {figure.goal or '-'}; met: {figure.met})", flush=True)
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)
    note = (
        f"Made in {(time.monotonic() - begun) / 60:.0f} minutes on {machine(*services)}, everything on the same cores."
    )
    table = f"{_table(figures)}\n\n{note}"
    print(f"\n{table}")
    if options.write is not None:
        write_section(options.write, SECTION, table)


if __name__ == "__main__":
    main()
