"""Named moments between two steps that a fault could come between, for `tests/chaos`.

`point("claim.committed")` does nothing, unless the process's own application has installed an action, as the fault
harness does in the processes it starts. No setting and no variable can do that from outside.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["install", "point"]

_action: Callable[[str], None] | None = None


def point(name: str) -> None:
    """This moment has come. The action may sleep, raise, or end the process."""
    if _action is not None:
        _action(name)


def install(action: Callable[[str], None] | None) -> None:
    """Call `action` with the name of every point that this process passes; None for nothing."""
    global _action  # noqa: PLW0603 - one per process, set before anything runs
    _action = action
