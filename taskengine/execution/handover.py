"""The token that a task's caller handed over: read, renewed when it is about to expire, and stored again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from taskengine.errors import ToolError
from taskengine.identity import AccessToken, Identity
from taskengine.records import Claim
from taskengine.store import Store

__all__ = ["HandedOver", "Renew"]

logger = logging.getLogger("taskengine.execution")

Renew = Callable[[AccessToken, Identity], Awaitable[AccessToken]]
"""Gives a token to use instead of one that expires; the application's own."""
RENEWAL_S = 30.0


class HandedOver:
    """Of one attempt."""

    def __init__(self, claim: Claim, store: Store, renew: Renew | None) -> None:
        self._claim = claim
        self._store = store
        self._renew = renew
        self.held = claim.token
        """The latest."""
        self._renewing = asyncio.Lock()

    async def token(self, valid_for: timedelta) -> AccessToken:
        """One that is good for so long. Raises ToolError when there is none, and ClaimLost."""
        if self.held is None or self._claim.caller is None:
            raise ToolError("No token was handed over: the tool must be declared with token=True, and called with one")
        async with self._renewing:
            if not _expires(self.held, valid_for):
                return self.held
            if self._renew is None:
                raise ToolError("The caller's token has expired, and the engine has no way to renew it")
            self.held = await self._renewed(self._renew, self.held, self._claim.caller)
            await self._store.attempts.keep_token(self._claim, self.held)
            return self.held

    async def _renewed(self, renew: Renew, held: AccessToken, caller: Identity) -> AccessToken:
        try:
            async with asyncio.timeout(RENEWAL_S):
                return await renew(held, caller)
        except ToolError:
            raise
        except Exception as error:
            # Its text may hold the token, or what was answered to it: the name of its class must do.
            logger.warning("the token of task %s was not renewed: %s", self._claim.task_id, type(error).__name__)
            raise ToolError("The caller's token has expired, and could not be renewed") from None


def _expires(token: AccessToken, within: timedelta) -> bool:
    return token.expires_at is not None and token.expires_at - datetime.now(UTC) < within
