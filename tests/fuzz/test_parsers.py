"""The parsers that `coverage.py` is for, with a few hundred inputs each: changed seeds, and bytes of any kind."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.parsers import PARSERS, SEEDS

MANY = settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])


def changed(rng: Random, seed: bytes) -> bytes:
    """The seed with a few bytes cut, doubled or replaced."""
    text = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randint(0, 6))
        text[start:end] = rng.choice([b"", text[start:end] * 3, bytes([rng.randrange(256)]), b"\x00", b"9" * 40])
    return bytes(text)


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_refuses_what_it_cannot_read_and_does_nothing_else(name: str) -> None:
    for seed in SEEDS[name]:
        PARSERS[name](seed)

    @MANY
    @given(st.binary(max_size=200), st.sampled_from(SEEDS[name]), st.randoms(use_true_random=False))
    def hold(data: bytes, seed: bytes, rng: Random) -> None:
        PARSERS[name](data)
        PARSERS[name](changed(rng, seed))

    hold()
