"""Encryption at rest: what a caller or a tool wrote is stored as text that only the holders of the key ring can read.

Each text is sealed with AES-256-GCM for the row and the field it stands in: moved to another row, or to another column
of the same row, it is refused. The key of a row is derived from a key of the ring and the row's id (HKDF), so no number
of rows comes near the 2^32 texts that random nonces allow one key. The stored text names its key:

    ~sealed1:<key id>:<base64 of nonce and ciphertext>

so any key of the ring opens and the first one seals. No JSON begins with a tilde, and free text that begins like this
is stored with a space before it, so what is sealed and what is plain can stand in one column: keys can come later, and
go. MultiFernet was the other choice: it binds a text to nothing, and whoever can write to the database could give one
owner's result to another's task.

Not sealed is what the engine decides by or searches for: owner, tool, statuses, times, names of steps, keys of
questions, and messages of the engine's own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import overload

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from taskengine.errors import Unreadable

__all__ = ["MARK", "NOT_SEALED", "Sealing", "key_id"]

MARK = "~sealed1:"
NONCE_BYTES = 12


def key_id(key: bytes) -> str:
    """Eight hexadecimal digits that name a key and tell nothing of it."""
    return hashlib.sha256(b"taskengine key id\0" + key).hexdigest()[:8]


class Sealing:
    """Seals with the first of `keys` (32 bytes each) and opens with any; without keys, everything stays as it is."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = {key_id(key): key for key in keys}
        self.newest = key_id(keys[0]) if keys else None
        """The id of the key that seals; None without keys."""

    @property
    def key_ids(self) -> list[str]:
        """Newest first."""
        return list(self._keys)

    @overload
    def seal(self, row: str, field: str, text: str) -> str: ...
    @overload
    def seal(self, row: str, field: str, text: str | None) -> str | None: ...
    def seal(self, row: str, field: str, text: str | None) -> str | None:
        """The text as it is stored in `field` of `row` (a task's id); None stays None."""
        if text is None:
            return None
        if self.newest is None:
            return f" {text}" if text.startswith(MARK) else text
        nonce = os.urandom(NONCE_BYTES)
        sealed = _cipher(self._keys[self.newest], row).encrypt(nonce, text.encode(), field.encode())
        return f"{MARK}{self.newest}:{base64.b64encode(nonce + sealed).decode()}"

    @overload
    def open(self, row: str, field: str, text: str) -> str: ...
    @overload
    def open(self, row: str, field: str, text: str | None) -> str | None: ...
    def open(self, row: str, field: str, text: str | None) -> str | None:
        """What `seal` was given; a plain text as it is. Raises Unreadable."""
        if text is None or not text.startswith(MARK):
            return text
        name, _, body = text[len(MARK) :].partition(":")
        key = self._keys.get(name)
        if key is None:
            raise Unreadable(row, field, f"it is sealed under key {name}, which is not in the key ring")
        try:
            raw = base64.b64decode(body, validate=True)
            return _cipher(key, row).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], field.encode()).decode()
        except (InvalidTag, ValueError, binascii.Error):
            raise Unreadable(row, field, f"it was changed, or sealed for another place (key {name})") from None

    def is_current(self, text: str | None) -> bool:
        """Whether the text is stored as `seal` would store it now; for whoever seals again."""
        if text is None:
            return True
        return text.startswith(f"{MARK}{self.newest}:") if self.newest else not text.startswith(MARK)


NOT_SEALED = Sealing()


@lru_cache(maxsize=512)  # a row's texts are sealed and opened together
def _cipher(key: bytes, row: str) -> AESGCM:
    return AESGCM(HKDFExpand(algorithm=SHA256(), length=32, info=b"taskengine row\0" + row.encode()).derive(key))
