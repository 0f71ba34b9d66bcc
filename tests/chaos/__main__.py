"""`python -m tests.chaos`: inject faults into a loaded engine, and prove that no call was lost.

Exits with 0 only when nothing was lost, nothing was wrong, nothing was left over and every recovery bar holds.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.program import PHASES, Plan, perform
from tests.chaos.run import FAULTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of everything that is drawn; default: a new one")
    parser.add_argument("--length", type=float, default=1.0, help="times as many injections as usual (about 250)")
    parser.add_argument("--tasks", type=int, default=5000, help="the load goes on until there were so many")
    parser.add_argument("--clients", type=int, default=24, help="clients that call at a time")
    parser.add_argument("--fault", action="append", default=[], help="only this one (again for more); `list` for all")
    parser.add_argument("--phase", action="append", default=[], choices=PHASES, help="only the faults of this phase")
    parser.add_argument("--table", type=Path, help="write the table to this file as well")
    options = parser.parse_args()
    if "list" in options.fault:
        for fault in FAULTS.values():
            print(f"{fault.name:42} {fault.about}")
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
    tasks = options.tasks if len(chosen) == len(FAULTS) else 0
    plan = Plan(seed, chosen, options.length, tasks, options.clients)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        verdict = asyncio.run(perform(plan, Path(folder), say=lambda line: print(line, flush=True)))
    print(verdict.text())
    if options.table is not None:
        options.table.write_text(verdict.table + "\n")
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
