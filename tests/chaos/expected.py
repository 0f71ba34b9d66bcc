"""What a call must come to, by its tool and arguments alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CANCELLED", "GIVEN_UP", "Expected", "expected"]

GIVEN_UP = "3 lost attempts"
"""In the error of a task whose attempts die, with the default of `max_crashes`."""


@dataclass(frozen=True, slots=True)
class Expected:
    """`status` with `value`; where `value` is None the ledger or the client knows what is right."""

    status: str
    value: str | None = None
    is_error: bool = False
    may_be_cancelled: bool = False
    """Its client cancels it at a moment when it may have ended."""


CANCELLED = Expected("cancelled")


def expected(tool: str, arguments: Mapping[str, Any]) -> Expected:
    """Raises KeyError for a tool that is not of the load."""
    label = str(arguments["label"])
    racing = "race" in label
    match tool:
        case "instant":
            return Expected("completed", str(arguments["x"] ** 2))
        case "crunch":
            total = 0
            for number in range(arguments["n"]):
                total = (total * 31 + number) % 1_000_003
            return Expected("completed", str(total))
        case "doze" | "block" | "slumber" | "grip" | "hog":
            return Expected("completed", "slept", may_be_cancelled=racing)
        case "probe" | "probe_sync" | "brood" | "thready":
            return Expected("completed", "held")
        case "ask" | "ask_sync" | "steps" | "recall":
            return Expected("completed", None, may_be_cancelled=racing)
        case "parent":
            return Expected("completed", str(sum(number**2 for number in range(arguments["children"]))))
        case "tool_error":
            return Expected("completed", f"{label} cannot be had", is_error=True)
        case "protocol_error":
            return Expected("failed", f"{label} is refused")
        case "endless" | "endless_sync" | "endless_stubborn":
            return CANCELLED
        case "limited":
            return Expected("completed", "longer than its limit", is_error=True)
        case "die" if arguments["times"] >= 3:  # the default of `max_crashes`
            return Expected("failed", GIVEN_UP)
        case "die":
            return Expected("completed", "lived")
    raise KeyError(tool)
