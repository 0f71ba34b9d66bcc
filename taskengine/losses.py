"""Attempts that were lost: what is known of how each ended, and what a client is told when there were too many. Pure.

A client learns how the tool's process ended, never where: the names of workers are for operators (X-SEC-13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from taskengine.content import encode_json

__all__ = ["WITH_WORKER", "Loss", "describe_loss", "failure", "failure_message"]

INTERNAL_ERROR = -32603
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Loss:
    """The end of a lost attempt. What is None is not known."""

    cause: str
    """A few words for people, without names of machines: "killed by SIGKILL"."""
    signal: str | None = None
    exit_code: int | None = None
    peak_bytes: int | None = None
    """The largest memory the tool's process held during the call. Never less than its worker held when it started the
    process, because Linux counts that as well."""
    attempt: int = 0
    worker: str | None = None
    at: datetime | None = None


WITH_WORKER = Loss("its worker died or was cut off")
"""Whoever could have said more has died with it."""


def describe_loss(loss: Loss) -> str:
    """ "killed by SIGKILL, peak memory 812 MB"."""
    peak = "unknown" if loss.peak_bytes is None else f"{max(1, round(loss.peak_bytes / MEGABYTE)):,} MB"
    return f"{loss.cause}, peak memory {peak}"


def failure_message(losses: Sequence[Loss]) -> str:
    """Why a task that lost these attempts, the last one last, is given up."""
    times = "1 lost attempt" if len(losses) == 1 else f"{len(losses)} lost attempts"
    return f"Gave up after {times}: {describe_loss(losses[-1])}"


def failure(losses: Sequence[Loss]) -> str:
    """The JSON-RPC error of such a task, as JSON text: `data.attempts` has what is known of each attempt.

    A member that is not known is left out: `attempt`, `cause`, `signal`, `exitCode`, `peakMemoryBytes`.
    """
    attempts: list[dict[str, Any]] = []
    for loss in losses:
        known = {
            "attempt": loss.attempt,
            "cause": loss.cause,
            "signal": loss.signal,
            "exitCode": loss.exit_code,
            "peakMemoryBytes": loss.peak_bytes,
        }
        attempts.append({name: value for name, value in known.items() if value is not None})
    return encode_json(
        {"code": INTERNAL_ERROR, "message": failure_message(losses), "data": {"attempts": attempts}},
    )
