"""Bodies of requests on their way in: each of a bounded size and time, and all of them together of a bounded size."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from taskengine.server.checks import Refusal
from taskengine.wire.headers import RawHeaders, values

__all__ = ["Bodies"]

BODY_S = 60.0
"""How long a body may take to come."""
SMALL = 64 * 1024
"""What of each body is not counted: whoever sends little is served while others send much."""
TOGETHER = 64
"""How many of the largest bodies may be on their way at once."""


class Bodies:
    """Of one front end."""

    def __init__(self, max_body_bytes: int) -> None:
        self._limit = max_body_bytes
        self._room = max_body_bytes * TOGETHER

    async def read(self, headers: RawHeaders, receive: Receive) -> bytes:
        """The whole body. Raises ClientDisconnect, and Refusal 408 for one that does not come: nobody may hold a
        connection by it; 413 as soon as it is known to be too large; 503 when too much of others is on its way."""
        try:
            async with asyncio.timeout(BODY_S):
                return await self._read(headers, receive)
        except TimeoutError:
            raise Refusal(408, f"The body did not come within {BODY_S:g} seconds: send the request again") from None

    async def _read(self, headers: RawHeaders, receive: Receive) -> bytes:
        limit = self._limit
        too_large = Refusal(413, f"The body has more than {limit} bytes: send less, or a link to it")
        announced = values(headers, "content-length")
        if announced and announced[0].isdecimal() and (len(announced[0]) > 18 or int(announced[0]) > limit):
            raise too_large
        chunks: list[bytes] = []
        size = counted = 0
        try:
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk: bytes = event.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise too_large
                more = max(0, size - SMALL) - counted
                if more > self._room:
                    raise Refusal(503, "Too much is being sent to this server: try again", ((b"retry-after", b"5"),))
                self._room -= more
                counted += more
                chunks.append(chunk)
                if not event.get("more_body", False):
                    return b"".join(chunks)
        finally:
            self._room += counted
