"""Who calls: the one place where a request becomes an owner of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ANONYMOUS", "Caller", "identify"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Tasks are kept and found under `owner` (X-SEC-02, X-SEC-05)."""

    owner: str


ANONYMOUS = Caller("anonymous")


def identify(scope: Mapping[str, Any]) -> Caller:  # noqa: ARG001
    """The caller of an HTTP request, by verified credentials only (X-SEC-16).

    Without authorization everybody is one caller, and a task's unguessable id is what protects it (M-SEC-07).
    """
    return ANONYMOUS
