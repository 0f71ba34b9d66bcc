"""`python -m tests.fuzz --inputs 200000`: the long form. Ends with code 1 at the first input that breaks something, and
prints it with the seed that makes it again."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil

from tests.fuzz.inputs import Input, make, make_line
from tests.fuzz.judge import Answer, code_of
from tests.fuzz.site import Site, running_site
from tests.services import running_services

AT_ONCE = 50
LINES = 50
WARM = 0.2
"""Of the run: what memory is taken until then is that of work, not of growth."""
GROWTH = 32 << 20
"""Most bytes that may come to it afterwards."""
LINES_OF = 0.05
"""Of the inputs are lines over standard input."""
TELL_S = 10.0


def rss() -> int:
    """Resident bytes, without what is free already and was not given back yet."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


async def run(site: Site, inputs: int, seed: int) -> list[str]:
    kinds: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    began = told = time.monotonic()
    warm = rss()
    done = number = 0

    def heard(answer: Answer) -> None:
        codes[code_of(answer)] += 1
        site.learn(answer)

    site.heard = heard
    while done < inputs:
        rng = Random(f"{seed}-{number}")
        number += 1
        count = min(AT_ONCE, inputs - done)
        if rng.random() < LINES_OF:
            wrong = await site.line_problems([make_line(rng, site.material) for _ in range(min(LINES, count))])
            kinds["stdio"] += count
        else:
            given: list[Input] = [make(rng, site.material) for _ in range(count)]
            wrong = await site.problems(given)
            kinds.update(each.kind for each in given)
            changes.update(what for each in given for what in each.changed or ("nothing",))
        if wrong:
            return [f"seed {seed}, inputs {done} to {done + count} (Random({f'{seed}-{number - 1}'!r}))", *wrong]
        done += count
        if done - count < inputs * WARM <= done:
            warm = rss()
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            print(f"{done} inputs, {rss() >> 20} MiB", file=sys.stderr, flush=True)
        if number % 200 == 0 and (wrong := await site.broken()):
            return wrong
    end = rss()
    took = time.monotonic() - began
    print(f"{done} inputs in {took:.0f} s, seed {seed}")
    for title, counts in (("kind", kinds), ("changed", changes), ("answer", codes)):
        print(f"\n{title}")
        for name, count in counts.most_common():
            print(f"  {count:8}  {name}")
    print(f"\nresident memory: {warm >> 20} MiB after {WARM:.0%}, {end >> 20} MiB at the end")
    wrong = await site.broken()
    if end - warm > GROWTH:
        wrong.append(f"memory grew by {(end - warm) >> 20} MiB")
    return wrong


async def fuzz(database_url: str, broker_url: str, inputs: int, seed: int) -> list[str]:
    async with running_site(database_url, broker_url) as site:
        return await run(site, inputs, seed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Send requests that are almost right.")
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_services(Path(folder)) as services:
        url = services.create_database()
        wrong = asyncio.run(fuzz(url, services.broker_url, given.inputs, given.seed))
    for each in wrong:
        print(each)
    print("nothing broke" if not wrong else "something broke")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
