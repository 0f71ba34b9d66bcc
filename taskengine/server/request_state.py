"""`requestState`: what a call must remember between its rounds, sealed and carried by the client.

Sealed with AES and HMAC (Fernet), so that a client can neither read nor change it (M-MRTR-07). Each seal differs
from all others (M-MRTR-14). The key is the setting `secret`, or one that all front ends share through the database,
so any of them serves the next round, also after a restart (M-MRTR-20).
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from taskengine.errors import EngineError
from taskengine.settings import Settings

__all__ = ["RequestState", "RequestStateError", "Sealer", "canonical", "digest"]


class RequestStateError(EngineError):
    """The requestState is not one of ours, is too old, or belongs to another caller or call (M-MRTR-08)."""


@dataclass(frozen=True, slots=True)
class RequestState:
    """What one call knows after a round. The principal and the request are checked on receipt (M-MRTR-09)."""

    owner: str
    digest: str = ""
    """Of the call; set when the state is sealed."""
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The client's answers of the rounds so far, by key."""
    asked: Mapping[str, str] = field(default_factory=dict)
    """Digests of the questions asked so far, by key: an answer to one sentence is not an answer to another."""
    rounds: int = 0
    """How often it has been answered with a question."""
    nonce: str | None = None
    """Names the one task this call may become, however often the last round is repeated (M-MRTR-10)."""
    task_id: str | None = None
    """The parked task that the next round resumes (A-53)."""
    age: timedelta = timedelta(0)
    """How long ago it was sealed; not part of the seal."""


def digest(method: str, name: str, content: Mapping[str, Any]) -> str:
    """Identifies a call by method, tool and arguments, or a question by method, key and params.

    The order of members does not count.
    """
    text = json.dumps([method, name, content], sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode()).hexdigest()


class Sealer:
    """Seals and opens states; the key is fetched when first needed."""

    def __init__(self, settings: Settings, shared_secret: Callable[[], Awaitable[bytes]]) -> None:
        self._ttl = max(timedelta(seconds=1), settings.request_state_ttl)
        self._own = settings.secret.get_secret_value().encode() if settings.secret is not None else None
        self._shared_secret = shared_secret
        self._fernet: MultiFernet | None = None

    async def prepare(self) -> None:
        """Have the key at hand. Raises StoreUnavailable when it is in a database that is away."""
        if self._fernet is None:
            self._fernet = await self.box("request state")

    async def box(self, purpose: str) -> MultiFernet:
        """Seals for one purpose: what was sealed for another does not open. Raises StoreUnavailable."""
        secret = self._own if self._own is not None else await self._shared_secret()
        key = hashlib.sha256(f"taskengine {purpose}\0".encode() + secret).digest()
        return MultiFernet([Fernet(base64.urlsafe_b64encode(key))])

    async def seal(self, state: RequestState) -> str:
        """Raises StoreUnavailable."""
        await self.prepare()
        assert self._fernet is not None
        assert state.digest, "a state is of one call"
        members = asdict(state)
        del members["age"]
        return self._fernet.encrypt(json.dumps(members, separators=(",", ":")).encode()).decode()

    async def open(self, token: str, owner: str, request_digest: str) -> RequestState:
        """The state that was sealed for this caller and this call. Raises RequestStateError, StoreUnavailable."""
        await self.prepare()
        assert self._fernet is not None
        try:
            text = self._fernet.decrypt(canonical(token), ttl=int(self._ttl.total_seconds()))
            sealed_at = self._fernet.extract_timestamp(token)
        except (InvalidToken, ValueError):
            raise RequestStateError(
                "The requestState is not valid or too old: start again without it and without inputResponses"
            ) from None
        age = timedelta(seconds=max(0.0, time.time() - sealed_at))
        state = RequestState(**json.loads(text), age=age)
        if state.owner != owner or state.digest != request_digest:
            raise RequestStateError("The requestState belongs to another call: repeat the one that it was given for")
        return state


def canonical(token: str) -> bytes:
    """The token, if it is exactly what was sealed. Raises ValueError: Base64 readers overlook what is appended."""
    given = token.encode("ascii")
    if base64.urlsafe_b64encode(base64.b64decode(given, altchars=b"-_", validate=True)) != given:
        raise ValueError("not in canonical form")
    return given
