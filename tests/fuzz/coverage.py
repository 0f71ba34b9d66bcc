"""`make fuzz-coverage`: the parsers of `parsers.py` under atheris, which keeps what reaches new code and changes it on.

Each has a process and its time, and goes on from what earlier runs have found (`.cache/fuzz/corpus`). Ends with code 1
where one broke its word, or took longer than `SLOWEST_S` or more than `MOST_MIB`; the input is kept and named.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path

import atheris

with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["taskengine"]):  # it names every module
    from tests.fuzz.parsers import PARSERS, SEEDS

SLOWEST_S = 5
MOST_MIB = 1_024
LONGEST = 16_384
"""Bytes of an input: as much as a header may have, and enough for what grows by the square to be seen."""
ROOT = Path(".cache/fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage", description="Fuzz the parsers by coverage.")
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--only", choices=list(PARSERS), action="append", help="this parser; may be repeated")
    parser.add_argument("--here", choices=list(PARSERS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here is not None:
        _run(given.here, given.seconds)
    broken = [name for name in given.only or PARSERS if not _passes(name, given.seconds)]
    print(f"broke: {', '.join(broken)}" if broken else "nothing broke")
    return 1 if broken else 0


def _passes(name: str, seconds: int) -> bool:
    """In a process of its own, which libFuzzer ends by itself."""
    print(f"== {name}", flush=True)
    command = [sys.executable, "-m", "tests.fuzz.coverage", "--here", name, "--seconds", str(seconds)]
    return subprocess.run(command, check=False).returncode == 0


def _run(name: str, seconds: int) -> None:
    corpus, found = ROOT / "corpus" / name, ROOT / "found" / name
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS[name]:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={SLOWEST_S}",
        f"-rss_limit_mb={MOST_MIB}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], PARSERS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    raise SystemExit(main())
