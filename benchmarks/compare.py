"""taskengine beside FastMCP's tasks extension: same machine, same services, one run, rounds in turn.

Each side gets one front-end process and one worker process, the load generator shares the cores, and every request has
the token of one of 64 owners. The services are those that TASKENGINE_TEST_DATABASE_URL and TASKENGINE_TEST_BROKER_URL
name, else embedded ones. `make bench` prints the tables and writes them to `docs/performance.md`. Figures of a round
are rates or milliseconds; the first table has medians, their spread over the rounds and the ratio of the medians, the
second the CPU that one of each costs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import ring
from benchmarks.load import own_speed
from benchmarks.machine import Machine
from benchmarks.measures import CONNECTIONS, MEASURES, POLLED_EACH, Measure, Taken, empty
from benchmarks.page import machine, verdict, write_section
from benchmarks.services import Services, running_services
from benchmarks.sides import OWNERS, RATES, Side, ours, peer
from taskengine.server.budgets import OPEN_TASKS

SECTION = "beside the peer"
ENOUGH, ROUNDS = 5, 9
"""Rounds below which nothing is written; and those of a run, since a machine's speed may change by half in a minute."""
RING_S = 3.0
"""Times `--seconds`: the length of the pass that looks at doorbells."""


@dataclass(frozen=True)
class Round:
    taken: Taken
    cpu_ms: dict[str, float]
    """For one, by part."""


Figures = dict[tuple[str, str], list[Round]]
"""By side and measure."""


def _table(sides: Sequence[Side], chosen: Sequence[Measure], figures: Figures, rung: ring.Rung | None) -> str:
    names = [side.name for side in sides]
    lines = [f"| what | {' | '.join(names)} | ratio | goal | met |", "|---|" + "---|" * (len(names) + 3)]
    for measure in chosen:
        taken = [[round_.taken.value for round_ in figures[side.name, measure.key]] for side in sides]
        cells = " | ".join(_spread(values) for values in taken)
        ratio, met = "", None
        if len(sides) > 1:
            times = measure.ratio(*map(statistics.median, taken))
            ratio, met = f"{times:.1f} times as {'many' if measure.more_is_better else 'fast'}", times >= measure.least
        lines.append(f"| {measure.name} | {cells} | {ratio} | {measure.goal} | {verdict(met)} |")
        if measure.key == "creates" and rung is not None:
            what, goal = "the same: from the answer to its doorbell", f"p99 within {ring.LIMIT_S * 1000:.0f} ms"
            beside = "| " * len(sides[1:])
            lines.append(f"| {what} | {rung} {beside}| | {goal} | {verdict(rung.met)} |")
    return "\n".join(lines)


def _costs(sides: Sequence[Side], chosen: Sequence[Measure], figures: Figures) -> str:
    """CPU for one of each: it depends less on what else the machine does than a rate."""
    parts = list(next(iter(figures.values()))[0].cpu_ms)
    lines = ["| CPU for one (ms) | side | " + " | ".join(parts) + " |", "|---|---|" + "---|" * len(parts)]
    for measure in chosen:
        for side in sides:
            rounds = figures[side.name, measure.key]
            cells = (statistics.median(each.cpu_ms[part] for each in rounds) for part in parts)
            lines.append(f"| {measure.key} | {side.name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    digits = 0 if statistics.median(values) >= 100 else 1
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _round(side: Side, measure: Measure, parts: Mapping[str, Machine], seconds: float, *, is_peer: bool) -> Round:
    work = measure.peer if is_peer and measure.peer is not None else measure.run
    made = () if measure.ready is None else uvloop.run(measure.ready(side.endpoint))
    before = {name: machine.cpu_s() for name, machine in parts.items()}
    own = time.process_time()
    taken = uvloop.run(work(side.endpoint, seconds, made))
    cpu_ms = {name: (machine.cpu_s() - before[name]) * 1000 / taken.count for name, machine in parts.items()}
    cpu_ms["load generator"] = (time.process_time() - own) * 1000 / taken.count
    uvloop.run(empty(side.endpoint, taken.made))
    return Round(taken, cpu_ms)


def _rounds(
    sides: Sequence[Side],
    chosen: Sequence[Measure],
    running: Mapping[str, tuple[Machine, ...]],
    services: Services,
    options: argparse.Namespace,
) -> Figures:
    figures: Figures = {}
    for turn in range(options.rounds):
        for measure in chosen:
            for side in sides if turn % 2 == 0 else sides[::-1]:
                front, worker = running[side.name]
                parts = {
                    "front end": front,
                    "worker": worker,
                    services.postgres_name.split()[0]: services.postgres,
                    services.broker_name.split()[0]: services.broker,
                }
                done = _round(side, measure, parts, options.seconds, is_peer=side.name != "taskengine")
                figures.setdefault((side.name, measure.key), []).append(done)
                cpu = ", ".join(f"{name} {spent:.2f}" for name, spent in done.cpu_ms.items())
                print(
                    f"round {turn + 1}: {side.name}: {measure.name}: {done.taken.value:,.1f}; CPU ms: {cpu}", flush=True
                )
    return figures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one timed measure")
    parser.add_argument("--only", choices=["ours", "peer"], help="start this side alone")
    keys = [measure.key for measure in MEASURES]
    parser.add_argument("--what", default=",".join(keys), help="which measures, with commas between: %(default)s")
    parser.add_argument("--write", type=Path, help="write the tables into their section of this file as well")
    options = parser.parse_args()
    wanted = options.what.split(",")
    if unknown := set(wanted) - set(keys):
        parser.error(f"there is no measure {', '.join(sorted(unknown))}: there are {', '.join(keys)}")
    options.chosen = [measure for measure in MEASURES if measure.key in wanted]
    if options.write and (options.only or len(options.chosen) < len(MEASURES) or options.rounds < ENOUGH):
        parser.error(f"--write is for whole runs: both sides, all measures, {ENOUGH} rounds or more")
    return options


def _note(services: Services, rounds: int, speed: float) -> str:
    limits = ", ".join(f"{name} {value}" for name, value in RATES.items())
    return (
        f"Median (least to most) of {rounds} rounds in turn, each begun by the other side than the last; one front end"
        f" and one worker each, on {machine(*services.described)}.\n\n"
        f"Every request has the token of one of {OWNERS} owners, a connection always the same; lone tasks go round."
        " The rates of calls and polls are counted and compared as always, with numbers that a load generator does not"
        f" reach ({limits}), and each owner may have {OPEN_TASKS:,} open tasks, as is the default, counted exactly with"
        f" every create; the peer has no such limits. Polls are of tasks that have ended, {POLLED_EACH} of each"
        " connection in turn, and come no sooner than their `pollIntervalMs` says.\n\n"
        "The load generator alone, against a server in its own process that answers all alike:"
        f" {speed:,.0f} requests a second over {CONNECTIONS} connections."
    )


def main() -> None:
    options = _options()
    rung: ring.Rung | None = None
    with tempfile.TemporaryDirectory() as name, running_services(Path(name)) as services, ExitStack() as stack:
        folder = Path(name)
        speed = uvloop.run(own_speed(CONNECTIONS))
        print(f"{services.postgres_name}, {services.broker_name}; the load generator alone: {speed:,.0f}/s", flush=True)
        sides = []
        if options.only != "peer":
            sides.append(ours(services, services.database()))
        if options.only != "ours":
            sides.append(peer(services))
        running = {side.name: stack.enter_context(side.running(folder / f"{n}.log")) for n, side in enumerate(sides)}
        figures = _rounds(sides, options.chosen, running, services, options)
        if sides[0].name == "taskengine" and any(measure.key == "creates" for measure in options.chosen):
            print(f"\n{_table(sides, options.chosen, figures, None)}\n", flush=True)  # the pass below may not end well
            rung = ring.measure(sides[0], services.broker_url, RING_S * options.seconds, folder / "ring.log")
            print(f"doorbells after their answers: {rung}", flush=True)
        note = _note(services, options.rounds, speed)
    tables = f"{_table(sides, options.chosen, figures, rung)}\n\n{_costs(sides, options.chosen, figures)}\n\n{note}"
    print(f"\n{tables}")
    if options.write is not None:
        write_section(options.write, SECTION, tables)


if __name__ == "__main__":
    main()
