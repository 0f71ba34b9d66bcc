"""What a call says of itself besides its arguments."""

from __future__ import annotations

from typing import Any

import pytest

from taskengine.wire.jsonrpc import RpcError
from taskengine.wire.meta import IDEMPOTENCY_KEY, idempotency_key, traceparent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def meta(**members: Any) -> dict[str, Any]:
    return {"_meta": members}


def test_a_key_is_taken_from_meta_or_from_the_header_bare_or_quoted() -> None:
    assert idempotency_key(meta(**{IDEMPOTENCY_KEY: "k 1"}), []) == "k 1"
    assert idempotency_key({}, [(b"Idempotency-Key", b"k1")]) == "k1"
    assert idempotency_key({}, [(b"idempotency-key", b'"k1"')]) == "k1"
    assert idempotency_key(meta(**{IDEMPOTENCY_KEY: "k1"}), [(b"idempotency-key", b'"k1"')]) == "k1"
    assert idempotency_key(meta(other=1), None) is None


@pytest.mark.parametrize("key", ["", " a", "a ", "a\n", "ä", "x" * 256, 1, None, ["a"], {}])
def test_what_is_no_key_is_refused_and_not_repeated(key: Any) -> None:
    with pytest.raises(RpcError, match="1 to 255 printable ASCII characters") as refused:
        idempotency_key(meta(**{IDEMPOTENCY_KEY: key}), None)
    assert refused.value.code == -32602


@pytest.mark.parametrize(
    "headers", [[(b"idempotency-key", b"a"), (b"idempotency-key", b"b")], [(b"idempotency-key", b"")]]
)
def test_a_header_that_says_two_things_or_nothing_is_refused(headers: Any) -> None:
    with pytest.raises(RpcError):
        idempotency_key({}, headers)


def test_the_trace_is_taken_from_meta_before_the_header() -> None:
    """X-TRACE-02."""
    other = PARENT.replace("4b", "5b")
    assert traceparent(meta(traceparent=PARENT), [(b"traceparent", other.encode())]) == PARENT
    assert traceparent({}, [(b"Traceparent", other.encode())]) == other
    assert traceparent(None, None) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        PARENT.upper(),
        PARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT}-more",
        f"{PARENT}\n",
        "x" * 100_000,
        7,
        None,
        {},
    ],
)
def test_a_malformed_trace_counts_as_none(value: Any) -> None:
    """X-TRACE-03, M-TRACE-01."""
    assert traceparent(meta(traceparent=value), []) is None
    if isinstance(value, str):
        assert traceparent({}, [(b"traceparent", value.encode())]) is None


def test_a_later_version_of_the_trace_is_taken_with_what_it_adds() -> None:
    assert traceparent(meta(traceparent=f"01{PARENT[2:]}-more"), None) == f"01{PARENT[2:]}-more"
