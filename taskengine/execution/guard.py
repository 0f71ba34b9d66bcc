"""Faults of the engine itself, in a call that a tool has made: they end the attempt, and are not the tool's failure.

A tool must not see them as an exception of its own: it would catch it, or end the task with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from taskengine.errors import AttemptLost, AttemptReleased, EngineError, StoreUnavailable

__all__ = ["guarding"]

logger = logging.getLogger("taskengine.execution")

_P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")


def guarding(
    call: Callable[Concatenate[_S, _P], Awaitable[_T]], /
) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]]:
    """A method that a tool calls. Its signals and the engine's typed errors pass.

    Raises AttemptReleased while the database is away (nothing is counted: nobody could do better), and AttemptLost
    for anything nobody thought of (it is counted, so that a lasting fault ends the task after all).
    """

    @wraps(call)
    async def guarded(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await call(self, *args, **kwargs)
        except StoreUnavailable as error:
            logger.warning("%s: %s; it is handed back", self, error)
            raise AttemptReleased from error
        except EngineError:
            raise
        except Exception as error:
            logger.exception("%s: the engine failed in a call of the context", self)
            raise AttemptLost from error

    return guarded
