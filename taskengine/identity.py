"""Who a verified credential says its bearer is: what tasks belong to, and what a tool may know. Pure.

The credential itself is never in here (X-AUTH-13).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["AccessToken", "Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """An authorization context: tokens that are renewed or issued again lead to the same one (X-AUTH-21)."""

    issuer: str
    """The authorization server, as its tokens name it; `static` for a token of the settings."""
    subject: str
    """Whom the token speaks for: a person, or the client itself."""
    client: str | None = None
    """The program that the token was issued to, where its issuer says so."""
    scopes: frozenset[str] = frozenset()
    """As granted, without those that a broader one includes."""
    claims: Mapping[str, Any] = field(default_factory=dict)
    """Those claims of the token that the setting `auth_claims` names."""

    @property
    def owner(self) -> str:
        """What its tasks are kept under: no two identities have the same, and nobody else's text has this form
        (X-AUTH-20)."""
        return json.dumps([self.issuer, self.client, self.subject], separators=(",", ":"))

    def dump(self) -> dict[str, Any]:
        """As plain values, for the task's row and for the process of a sync tool."""
        return {
            "issuer": self.issuer,
            "subject": self.subject,
            "client": self.client,
            "scopes": sorted(self.scopes),
            "claims": dict(self.claims),
        }

    @classmethod
    def load(cls, plain: Mapping[str, Any]) -> Identity:
        return cls(
            issuer=plain["issuer"],
            subject=plain["subject"],
            client=plain["client"],
            scopes=frozenset(plain["scopes"]),
            claims=plain["claims"],
        )


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token that a tool may use on behalf of its caller. Its text form does not show it."""

    value: str = field(repr=False)
    expires_at: datetime | None = None
    """None when that is not known."""
