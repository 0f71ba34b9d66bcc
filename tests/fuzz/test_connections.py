"""Bytes that are almost HTTP, over real connections."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from random import Random

from taskengine.server import create_app
from taskengine.server.guardrails import Bounds
from taskengine.settings import Settings
from tests.fuzz.inputs import corrupted
from tests.fuzz.judge import INTERNAL_TEXT
from tests.hostile.raw import GONE, body, call, head, line, request
from tests.hostile.tools import engine
from tests.server.peer import front_end

MANY = 150
CONTENT = body("tools/list")
CHUNKED = head("tools/list", "Transfer-Encoding: chunked") + b"\r\n%x\r\n%s\r\n0\r\nX-Late: 1\r\n\r\n"
VALID = [
    request("tools/list"),
    call("greet", name="x"),
    call("job", n=1),
    CHUNKED % (len(CONTENT), CONTENT),
    request("tools/list") + request("server/discover"),
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
]
STRANGE = [
    b"GET /healthz HTTP/0.9\r\n\r\n",
    b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /mcp/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%2e%2e/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Folded: a\r\n b\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
    head("tools/list", "Transfer-Encoding: chunked", "Content-Length: 5") + b"\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
    head("tools/list", "Transfer-Encoding: xchunked") + b"\r\n0\r\n\r\n",
    head("tools/list", "Content-Length: -1") + b"\r\n",
    head("tools/list", "Content-Length: 5, 5") + b"\r\n{}   ",
    head("tools/list", "Content-Length: 3", "Content-Length: 2") + b"\r\n{} ",
    head("tools/list", "Transfer-Encoding: chunked") + b"\r\nffffffffffffffffff\r\n",
    head("tools/list", "Transfer-Encoding: chunked") + b"\r\n1;" + b"x" * 100_000 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
    b"\0" * 1_000,
]


async def test_no_bytes_on_a_connection_break_anything(settings: Settings) -> None:
    rng = Random(20260728)
    sent = STRANGE + [corrupted(rng, rng.choice(VALID)) for _ in range(MANY)]
    async with front_end(create_app(engine, settings), bounds=Bounds(headers_s=1, body_s=1)) as running:

        async def one(data: bytes) -> tuple[bytes, bytes]:
            async with line(running.url) as opened:
                with suppress(*GONE):
                    await opened.send(data)
                return data, await opened.rest()

        for data, answer in await asyncio.gather(*map(one, sent)):
            statuses = [int(found) for found in re.findall(rb"^HTTP/1\.1 (\d+)", answer, re.MULTILINE)]
            assert all(100 < status < 500 for status in statuses), (data, answer)
            told = answer.decode("latin-1")
            assert not [text for text in INTERNAL_TEXT if text in told and text.encode() not in data], (data, answer)
        async with line(running.url) as other:
            await other.send(call("greet"))
            assert (await other.answer())[0] == 200
        assert len(running.crowd) <= 1
