"""Requests to authorization servers: bounded in time and size, never redirected, over TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from taskengine.auth.config import is_local
from taskengine.errors import IssuerUnavailable

__all__ = ["Fetcher"]

TIMEOUT_S = 5.0
LONGEST_S = 10.0
MAX_BYTES = 1 << 20


class Fetcher:
    """One client for all issuers, made on the event loop that first needs it.

    No redirect is followed: where keys come from is what the settings or the issuer's own metadata say. Nothing that a
    token says is ever fetched.
    """

    def __init__(self, *, insecure: bool) -> None:
        """`insecure` allows plain HTTP to other machines."""
        self._insecure = insecure
        self._http: httpx2.AsyncClient | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def get(self, url: str) -> dict[str, Any]:
        """A JSON object. Raises IssuerUnavailable."""
        return await self._send("GET", url)

    async def post(self, url: str, form: Mapping[str, str], client_id: str, secret: str) -> dict[str, Any]:
        """The JSON answer to a form that a client of that server sends. Raises IssuerUnavailable."""
        # Both are form-encoded before they become a name and a password (RFC 6749, 2.3.1).
        auth = httpx2.BasicAuth(quote(client_id, safe=""), quote(secret, safe=""))
        return await self._send("POST", url, data=dict(form), auth=auth)

    async def _send(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        if urlsplit(url).scheme != "https" and not (is_local(url) or self._insecure):
            raise IssuerUnavailable(_place(url), "it has no TLS (https)")
        if self._http is None:
            self._http = httpx2.AsyncClient(
                timeout=TIMEOUT_S, follow_redirects=False, headers={"accept": "application/json"}
            )
        try:
            # The client's own time is for each read: what comes drop by drop would keep it for ever.
            async with asyncio.timeout(LONGEST_S), self._http.stream(method, url, **options) as response:
                if response.status_code != 200:
                    raise IssuerUnavailable(_place(url), f"it answered with HTTP {response.status_code}")
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise IssuerUnavailable(_place(url), f"its answer has more than {MAX_BYTES} bytes")
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            raise IssuerUnavailable(_place(url), type(error).__name__) from error
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise IssuerUnavailable(_place(url), "its answer is no JSON object")
        return found


def _place(url: str) -> str:
    """The address as far as it is fit for a log."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:200]
