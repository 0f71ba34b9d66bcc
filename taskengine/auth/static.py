"""Tokens that stand in the settings, for development."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskengine.auth.config import is_scope
from taskengine.errors import SettingsError
from taskengine.identity import Identity

__all__ = ["ISSUER", "StaticToken", "digest", "read_tokens", "token_lines"]

ISSUER = "static"
LEAST = 16
"""Characters of a token: one that can be guessed protects nothing."""


@dataclass(frozen=True, slots=True)
class StaticToken:
    identity: Identity
    unlimited: bool
    """It was given no scopes, and so has all."""


def digest(token: str) -> bytes:
    """What is kept and compared instead of a token."""
    return hashlib.sha256(token.encode()).digest()


def token_lines(path: Path) -> list[str]:
    """The lines of a file of tokens, without comments. Raises SettingsError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"TASKENGINE_AUTH_TOKENS_FILE: {path} cannot be read ({type(error).__name__})") from None
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def read_tokens(lines: Iterable[str]) -> dict[bytes, StaticToken]:
    """By digest, from `token:owner` and `token:owner:scope scope`. Raises SettingsError, which repeats no token."""
    found: dict[bytes, StaticToken] = {}
    for number, line in enumerate(lines, 1):
        parts: Sequence[str] = line.split(":", 2)
        what = f"static token {number}"
        if len(parts) < 2 or not parts[1].strip():
            raise SettingsError(f"{what}: write token:owner, or token:owner:scope scope")
        token, owner = parts[0].strip(), parts[1].strip()
        if len(token) < LEAST or not token.isascii() or not token.isprintable() or " " in token:
            raise SettingsError(f"{what}: give {LEAST} or more ASCII characters, for example `openssl rand -hex 24`")
        scopes = parts[2].replace(",", " ").split() if len(parts) == 3 else []
        wrong = [scope for scope in scopes if not is_scope(scope)]
        if wrong:
            raise SettingsError(f"{what}: {wrong[0]!r} is not a scope")
        if digest(token) in found:
            raise SettingsError(f"{what}: the same token stands there twice")
        found[digest(token)] = StaticToken(Identity(ISSUER, owner, None, frozenset(scopes)), unlimited=not scopes)
    return found
