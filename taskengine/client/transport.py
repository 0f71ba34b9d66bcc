"""HTTP, as every revision uses it: one message per request, its answer as JSON or as an event stream."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from taskengine.client.results import ServerUnreachable

__all__ = ["Answer", "Auth", "Http", "OnNotification", "is_response"]

BOTH = "application/json, text/event-stream"  # M-TRANS-07, L-TRANS-02
SILENCE_S = 120.0
"""Longest silence of a stream; servers send comments to keep it alive."""
CALL_SILENCE_S = 1800.0
"""The same for calls: a server that answers with plain JSON says nothing until it is done."""

_HINTS = {401: " (it wants a token, or another one)", 403: " (this token, or this address, is not allowed)"}

_SCOPE = re.compile(r'scope="([^"]{1,200})"')

Auth = str | Callable[[], str | Awaitable[str]]
"""A bearer token, or what gives one; it is asked before each request, so it may renew the token."""

OnNotification = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""Takes the method and the params of a notification that came before the answer."""


class Http:
    """One endpoint. A client of httpx2 that was given is left as it is; one of our own is closed with us."""

    def __init__(
        self, url: str, auth: Auth | None, headers: Mapping[str, str], http: httpx2.AsyncClient | None
    ) -> None:
        self.url = url
        self._auth = auth
        self._headers = dict(headers)
        self._given = http is not None
        self._http = http or httpx2.AsyncClient(timeout=httpx2.Timeout(10, read=SILENCE_S), follow_redirects=True)

    async def close(self) -> None:
        if not self._given:
            await self._http.aclose()

    @asynccontextmanager
    async def open(
        self, method: str, message: Mapping[str, Any] | None, headers: Mapping[str, str], *, patient: bool = False
    ) -> AsyncIterator[Answer]:
        """The answer to a request, whose messages are still to be read; with `patient` it may be silent for long.
        Raises ServerUnreachable."""
        sent = {"Accept": BOTH, **headers, **self._headers, **await self._authorization()}
        options: dict[str, Any] = {} if message is None else {"json": message}
        if patient and not self._given:
            options["timeout"] = httpx2.Timeout(10, read=CALL_SILENCE_S)
        try:
            async with self._http.stream(method, self.url, headers=sent, **options) as response:
                yield Answer(self.url, response)
        except httpx2.InvalidURL:
            # Its text repeats a part of it, which may be the password.
            raise ServerUnreachable(self.url, "this is no address") from None
        except httpx2.LocalProtocolError:
            # Its text repeats the header, which may be the token.
            raise ServerUnreachable(self.url, "a header or the token has characters that HTTP cannot carry") from None
        except (httpx2.HTTPError, httpx2.SSEError) as error:
            raise ServerUnreachable(self.url, f"{type(error).__name__} {error}".strip()) from error

    async def _authorization(self) -> dict[str, str]:
        if self._auth is None:
            return {}
        given = self._auth if isinstance(self._auth, str) else self._auth()
        token = (await given if inspect.isawaitable(given) else given).strip()
        if not token.isascii() or not token.isprintable() or not token:
            raise ServerUnreachable(self.url, "the token is empty or has characters that HTTP cannot carry")
        return {"Authorization": f"Bearer {token}"}


class Answer:
    """The answer to one request, message by message."""

    def __init__(self, url: str, response: httpx2.Response) -> None:
        self._url = url
        self._response = response
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.last_event: str | None = None
        """Id of the last event of the stream, if it has ids."""
        self.retry_s: float | None = None

    async def messages(self) -> AsyncGenerator[dict[str, Any], None]:
        """Each JSON-RPC message of the answer. Raises ServerUnreachable for an answer that has none, unless it is the
        empty one to a notification."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            async for event in httpx2.EventSource(self._response, max_event_size=None):
                self.last_event = event.id or self.last_event
                self.retry_s = self.retry_s if event.retry is None else event.retry / 1000
                if event.data:
                    yield self._checked(event.json)
            return
        content = await self._response.aread()
        if self.status in _HINTS:
            reason = f"HTTP {self.status}{_HINTS[self.status]} {_said(self.headers, content)}"
            raise ServerUnreachable(self._url, reason.strip(), self.status)
        if kind == "application/json" and content:
            yield self._checked(self._response.json)
        elif self.status not in {202, 204}:
            text = " ".join(content.decode(errors="replace").split())
            raise ServerUnreachable(
                self._url, f"HTTP {self.status}{_HINTS.get(self.status, '')} {text[:200]}".strip(), self.status
            )

    def _checked(self, parse: Callable[[], object]) -> dict[str, Any]:
        try:
            message = parse()
        except ValueError:
            message = None
        if isinstance(message, dict) and (
            {"result", "method"} & message.keys() or isinstance(message.get("error"), dict)
        ):
            return message
        reason = f"HTTP {self.status}{_HINTS.get(self.status, '')} with a body that is not JSON-RPC"
        raise ServerUnreachable(self._url, reason, self.status)


def _said(headers: Mapping[str, str], content: bytes) -> str:
    """Why the server refuses, in its own words, with the scopes that it wants."""
    try:
        text = json.loads(content)["error"]["message"]
    except (ValueError, TypeError, KeyError, RecursionError):
        text = " ".join(content.decode(errors="replace").split())
    scope = _SCOPE.search(headers.get("www-authenticate", ""))
    return f"{str(text)[:200]}{f' (scope: {scope.group(1)})' if scope else ''}"


def is_response(message: Mapping[str, Any], request_id: int) -> bool:
    """Whether this is the response to the request; an error may have no id (X-BASE-04)."""
    found = message.get("id")
    return "method" not in message and (found == request_id or (found is None and "error" in message))
