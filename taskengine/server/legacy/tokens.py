"""Ids that we give out and get back: sealed, so that a client can neither read, change nor invent one."""

from __future__ import annotations

import json
from typing import Any

from cryptography.fernet import InvalidToken, MultiFernet

from taskengine.server.request_state import Sealer, canonical

__all__ = ["Tokens"]


class Tokens:
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._box: MultiFernet | None = None

    async def prepare(self) -> None:
        """Have the key at hand. Raises StoreUnavailable when it is in a database that is away."""
        if self._box is None:
            self._box = await self._sealer.box("handshake ids")

    def seal(self, kind: str, **facts: Any) -> str:
        """Visible ASCII, without dots (L-SESS-02)."""
        assert self._box is not None, "prepare() comes first"
        return self._box.encrypt(json.dumps({"kind": kind, **facts}, separators=(",", ":")).encode()).decode()

    def sealed_at(self, token: str) -> float:
        """Seconds since 1970, of a token that was opened."""
        assert self._box is not None, "prepare() comes first"
        return float(self._box.extract_timestamp(token))

    def open(self, token: str, *kinds: str, ttl_s: float | None = None) -> dict[str, Any]:
        """The facts, with their `kind`. Raises ValueError for what is not one of these, or is older than `ttl_s`."""
        assert self._box is not None, "prepare() comes first"
        try:
            text = self._box.decrypt(canonical(token), ttl=None if ttl_s is None else int(ttl_s))
        except (InvalidToken, ValueError):
            raise ValueError("not one of ours") from None
        facts: dict[str, Any] = json.loads(text)
        if facts["kind"] not in kinds:
            raise ValueError("of another kind")
        return facts
