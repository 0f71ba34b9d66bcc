"""Durations as people write them, and as nobody should."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskengine.durations import LONGEST_TEXT, parse_duration
from taskengine.server.caller import patience_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("6h", 21_600), ("1h30m", 5_400), ("1h 30m", 5_400), ("250ms", 0.25), ("0", 0)]
)
def test_what_people_write_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "1", "1x", "-1s", "1h?", "1e3s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match='write "90s"'):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9" * 30 + "w", "9" * 90 + "ms"])
def test_what_is_longer_than_can_be_told_is_refused_like_the_rest(text: str) -> None:
    with pytest.raises(ValueError, match="longer than any time"):
        parse_duration(text)


def test_a_long_text_is_refused_before_it_is_read() -> None:
    """16,000 digits in an address held up a front end for a minute, before anybody was asked for a token."""
    assert parse_duration("1s" * (LONGEST_TEXT // 2)) == timedelta(seconds=LONGEST_TEXT // 2)
    with pytest.raises(ValueError, match="a text of 102 characters"):
        parse_duration("1s" * (LONGEST_TEXT // 2 + 1))
    assert patience_of(b"inline_wait=" + b"1" * 60_000) is None
    assert patience_of(b"inline_wait=1s" + b"1s" * LONGEST_TEXT) is None
