"""Secrets that all front ends share and that survive restarts (M-MRTR-20)."""

from __future__ import annotations

import base64
import secrets

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from taskengine.store.database import Database
from taskengine.store.tables import keys

__all__ = ["Keys"]


class Keys:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def secret(self, name: str = "request-state") -> bytes:
        """32 random bytes, made by whoever asks first."""
        stored = select(keys.c.secret).where(keys.c.name == name)
        text = (await self._database.run(stored)).scalar_one_or_none()
        if text is None:
            fresh = base64.b64encode(secrets.token_bytes(32)).decode()
            sealed = self._database.sealing.seal(name, "secret", fresh)
            await self._database.run(insert(keys).values(name=name, secret=sealed).on_conflict_do_nothing())
            text = (await self._database.run(stored)).scalar_one()
        return base64.b64decode(self._database.sealing.open(name, "secret", text))
