"""`python -m tests.chaos`: inject faults into a loaded engine, and prove that no call was lost.

Exits with 0 only when nothing was lost, nothing was wrong, nothing was left over, every recovery bar holds and every
sleeper that was due at a quiet time woke within a second. At the usual length it takes some 40 minutes on
two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from benchmarks.page import machine, write_section
from tests.chaos.program import PHASES, Plan, perform
from tests.chaos.run import FAULTS, LEFT_OUT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of everything that is drawn; default: a new one")
    parser.add_argument(
        "--length",
        type=float,
        default=1.0,
        help="times as many injections as usual (about 260); from 10 on with a soak, and what concerns others",
    )
    parser.add_argument("--tasks", type=int, default=5000, help="the load goes on until there were so many")
    parser.add_argument("--clients", type=int, default=24, help="clients that call at a time")
    parser.add_argument("--fault", action="append", default=[], help="only this one (again for more); `list` for all")
    parser.add_argument("--phase", action="append", default=[], choices=PHASES, help="only the faults of this phase")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the result into its section of this page")
    options = parser.parse_args()
    if "list" in options.fault:
        for fault in FAULTS.values():
            print(f"{fault.name:42} {fault.about}")
        for name, why in LEFT_OUT.items():
            print(f"{name:42} left out: {why}")
        return 0
    unknown = [name for name in options.fault if name not in FAULTS]
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}; `--fault list` shows them")
    seed = secrets.randbits(32) if options.seed is None else options.seed
    chosen = [
        fault
        for fault in FAULTS.values()
        if (not options.fault or fault.name in options.fault) and (not options.phase or fault.phase in options.phase)
    ]
    if options.write is not None and len(chosen) < len(FAULTS):
        parser.error("--write is for a run of all faults: leave out --fault and --phase")
    everything = len(chosen) == len(FAULTS)
    plan = Plan(
        seed, chosen, options.length, options.tasks if everything else 0, options.clients, everything=everything
    )
    for name, why in plan.left_out().items():
        print(f"left out: {name}: {why}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        verdict = asyncio.run(perform(plan, Path(folder), say=lambda line: print(line, flush=True)))
    print(verdict.text())
    if options.write is not None:
        write_section(options.write, "chaos", verdict.section(machine()))
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
