"""On whose behalf a task runs: who that is, and the token that was handed over, in and out of the task's row."""

from __future__ import annotations

from datetime import datetime

from taskengine.identity import AccessToken, Identity
from taskengine.store.payload import dump, load
from taskengine.store.sealing import Sealing

__all__ = ["opened", "opened_token", "sealed", "sealed_token"]


def sealed(sealing: Sealing, task_id: str, caller: Identity | None) -> str | None:
    return None if caller is None else sealing.seal(task_id, "caller", dump(caller.dump()))


def opened(sealing: Sealing, task_id: str, text: str | None) -> Identity | None:
    """Raises Unreadable."""
    return None if text is None else Identity.load(load(sealing.open(task_id, "caller", text)))


def sealed_token(sealing: Sealing, task_id: str, token: AccessToken | None) -> str | None:
    """Never as it is: without a key ring nothing is kept, and front ends do not start (see `server.service`)."""
    if token is None or sealing.newest is None:
        return None
    expires_at = None if token.expires_at is None else token.expires_at.isoformat()
    return sealing.seal(task_id, "token", dump({"value": token.value, "expires_at": expires_at}))


def opened_token(sealing: Sealing, task_id: str, text: str | None) -> AccessToken | None:
    """Raises Unreadable."""
    if text is None:
        return None
    plain = load(sealing.open(task_id, "token", text))
    expires_at = plain["expires_at"]
    return AccessToken(plain["value"], None if expires_at is None else datetime.fromisoformat(expires_at))
