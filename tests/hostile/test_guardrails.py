"""No client costs more than its bound, and no other client notices. The bounds are in test time here; the tests await
what must happen, and say nothing of when."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from taskengine.server import bodies, create_app
from taskengine.server.guardrails import Bounds
from taskengine.settings import Settings
from taskengine.wire.jsonrpc import MAX_CONTAINERS
from tests.hostile.raw import GONE, LONG_S, body, call, head, line, request
from tests.hostile.tools import engine
from tests.server.peer import FrontEnd, front_end

LISTEN = request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
PING = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Front:
    running: FrontEnd
    service: Any

    async def serves(self) -> None:
        """Another client is answered."""
        async with line(self.running.url) as other:
            await other.send(call("greet"))
            assert (await other.answer())[0] == 200


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def front(settings: Settings, **bounds: Any) -> AsyncIterator[Front]:
    app = create_app(engine, settings)
    async with front_end(app, bounds=Bounds(**bounds)) as running:
        yield Front(running, app.state.service)


async def test_headers_that_never_end_are_given_up(settings: Settings) -> None:
    async with front(settings, headers_s=0.3) as served, line(served.running.url) as slow:
        await slow.send(head("tools/list"))
        status, headers, _ = await slow.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert await slow.rest() == b""
        await served.serves()


async def test_a_connection_without_a_request_is_closed(settings: Settings) -> None:
    async with front(settings, headers_s=0.3) as served, line(served.running.url) as silent:
        assert await silent.rest() == b""
        assert len(served.running.crowd) == 0


async def test_a_connection_that_goes_on_after_its_answer_is_closed(settings: Settings) -> None:
    """A body that was refused by its announced size is not read for ever."""
    async with front(settings, body_s=0.3, headers_s=0.3) as served, line(served.running.url) as endless:
        await endless.send(head("tools/list", "Content-Length: 99999999999") + b"\r\n")
        assert (await endless.answer())[0] == 413
        await endless.send(b"x")
        assert await endless.rest() == b""
        await served.serves()


@pytest.mark.parametrize("flood", [b"X-Large: " + b"y" * 400_000, b"X-Many: y\r\n" * 40_000, b"\r\n" * 200_000])
async def test_headers_without_bound_are_refused(settings: Settings, flood: bytes) -> None:
    async with front(settings, header_bytes=16_384) as served, line(served.running.url) as flooding:
        start = b"" if flood.startswith(b"\r\n") else head("tools/list")
        try:
            await flooding.send(start + flood)
            assert (await flooding.answer())[0] == 431
        except GONE:
            pass  # closed while it still wrote
        await until(lambda: len(served.running.crowd) == 0)
        await served.serves()


async def test_trailers_are_no_headers_and_have_an_end(settings: Settings) -> None:
    content = body("tools/list")
    chunked = b"%x\r\n%s\r\n0\r\n" % (len(content), content)
    bare = b"\r\n".join(
        [
            b"POST /mcp HTTP/1.1",
            b"Host: localhost",
            b"Content-Type: application/json",
            b"MCP-Protocol-Version: 2026-07-28",
            b"Transfer-Encoding: chunked\r\n\r\n",
        ]
    )
    async with front(settings, header_bytes=16_384) as served:
        async with line(served.running.url) as late:
            await late.send(bare + chunked + b"Mcp-Method: tools/list\r\n\r\n")
            status, _, answer = await late.answer()
            assert (status, json.loads(answer)["error"]["code"]) == (400, -32020)
        async with line(served.running.url) as endless:
            await endless.send(bare + chunked)
            try:
                for _ in range(100):
                    await endless.send(b"X-Trailer: " + b"y" * 10_000 + b"\r\n")
            except GONE:
                pass
            await until(lambda: len(served.running.crowd) == 0)
        await served.serves()


async def test_pipelined_requests_are_answered_in_their_order_and_not_without_bound(settings: Settings) -> None:
    async with front(settings, pipelined=16) as served:
        async with line(served.running.url) as few:
            await few.send(b"".join(call("greet", number, name=str(number)) for number in range(10)))
            assert [json.loads((await few.answer())[2])["id"] for _ in range(10)] == list(range(10))
        async with line(served.running.url) as many:
            with suppress(GONE):
                await many.send(PING * 10_000)
            assert (await many.rest()).count(b"HTTP/1.1 ") <= 18
        await served.serves()


async def test_a_client_that_reads_nothing_is_cut_off(settings: Settings) -> None:
    async with front(settings, stall_s=0.5) as served, line(served.running.url, small=True) as deaf:
        await deaf.send(call("flood", mebibytes=12))
        await until(lambda: served.service.open_exchanges == 1)
        await until(lambda: len(served.running.crowd) == 0 and served.service.open_exchanges == 0)
        await served.serves()


async def test_a_client_that_reads_slowly_gets_everything(settings: Settings) -> None:
    async with front(settings, stall_s=2, stall_bytes=1) as served, line(served.running.url, small=True) as slow:
        await slow.send(call("flood", mebibytes=1))
        assert await slow.begins() == 200
        read = 0
        async with asyncio.timeout(LONG_S):
            while read < 1 << 20:
                read += len(await slow.reader.read(16_384))
                await asyncio.sleep(0)


async def test_those_that_send_nothing_make_room_for_those_that_do(settings: Settings) -> None:
    async with front(settings, connections=10) as served, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(line(served.running.url)) for _ in range(10)]
        await until(lambda: len(served.running.crowd) == 10)
        await served.serves()
        assert await silent[0].rest() == b""  # the one that waited longest
        await silent[-1].send(call("greet"))
        assert (await silent[-1].answer())[0] == 200


async def test_those_that_are_being_answered_stay_and_the_next_is_told_to_wait(settings: Settings) -> None:
    async with front(settings, connections=10) as served, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(line(served.running.url)) for _ in range(10)]
        for each in streams:
            await each.send(LISTEN)
            assert await each.begins() == 200
        async with line(served.running.url) as eleventh:
            status, headers, _ = await eleventh.answer()
            assert (status, headers["retry-after"]) == (503, "5")
        streams[0].close()
        await until(lambda: len(served.running.crowd) == 9)
        await served.serves()
        await until(lambda: served.service.open_exchanges == 9)


async def test_a_stream_whose_client_has_gone_ends_although_more_was_asked_behind_it(settings: Settings) -> None:
    """Whoever asks more is not read from meanwhile: that he has gone shows at the latest by what is written to him."""
    async with front(settings.model_copy(update={"keep_alive": timedelta(seconds=0.3)})) as served:
        async with line(served.running.url) as leaving:
            await leaving.send(LISTEN)
            assert await leaving.begins() == 200
            await leaving.send(PING)
            await leaving.send(b"GET /he")
        await until(lambda: served.service.open_exchanges == 0)


async def test_another_protocol_is_not_taken_up(settings: Settings) -> None:
    async with front(settings) as served, line(served.running.url) as upgrading:
        wish = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
        await upgrading.send(PING.removesuffix(b"\r\n") + wish)
        assert (await upgrading.answer())[0] == 200
        await served.serves()


async def test_bodies_share_a_bounded_room_that_small_ones_do_not_need(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "TOGETHER", 1)
    large = b" " * 200_000
    length = f"Content-Length: {len(large) + 100}"
    async with front(settings.model_copy(update={"max_body_bytes": 300_000})) as served:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(line(served.running.url))
            await first.send(head("tools/list", length) + b"\r\n" + large)
            second = await stack.enter_async_context(line(served.running.url))
            await second.send(head("tools/list", length) + b"\r\n" + large)
            third = await stack.enter_async_context(line(served.running.url))
            await third.send(head("tools/list", length) + b"\r\n" + large)
            answers = [asyncio.create_task(each.answer()) for each in (first, second, third)]
            done, waiting = await asyncio.wait(answers, timeout=LONG_S, return_when=asyncio.FIRST_COMPLETED)
            refused = [task.result() for task in done]
            assert {(status, headers.get("retry-after")) for status, headers, _ in refused} == {(503, "5")}
            await served.serves()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        async with line(served.running.url) as later:  # what the others held is free again
            content = body("tools/list") + large
            await later.send(head("tools/list", f"Content-Length: {len(content)}") + b"\r\n" + content)
            assert (await later.answer())[0] == 200


async def test_a_compressed_body_is_refused_before_it_is_read(settings: Settings) -> None:
    bomb = gzip.compress(b"[" * (1 << 20))
    async with front(settings) as served, line(served.running.url) as bomber:
        await bomber.send(head("tools/list", "Content-Encoding: gzip", f"Content-Length: {len(bomb)}") + b"\r\n" + bomb)
        status, headers, _ = await bomber.answer()
        assert (status, headers["accept-encoding"]) == (415, "identity")


@pytest.mark.parametrize("content", [b"[" * 1_000_000, b'{"a":' * 500_000, b"[]," * 400_000])
async def test_json_that_is_all_structure_is_refused(settings: Settings, content: bytes) -> None:
    message = body("tools/call", {"name": "count", "arguments": {"values": "HERE"}})
    values = b"[" + content.rstrip(b",") + b"]" if content.startswith(b"[],") else content
    message = message.replace(b'"HERE"', values)
    async with front(settings) as served, line(served.running.url) as deep:
        await deep.send(head("tools/call", f"Content-Length: {len(message)}", name="count") + b"\r\n" + message)
        status, _, answer = await deep.answer()
        error = json.loads(answer)["error"]
        assert (status, error["code"]) in {(400, -32700), (400, -32600)}
        assert "Traceback" not in error["message"]
        if content.startswith(b"[],"):
            assert str(MAX_CONTAINERS) in error["message"]
        await served.serves()


@pytest.mark.parametrize(
    "behind", [b"\r\n", b"GET /he", head("tools/list", "Content-Length: 100") + b"\r\n", call("greet")[:-1]]
)
async def test_a_stream_is_not_cut_for_what_comes_behind_it(settings: Settings, behind: bytes) -> None:
    """What is asked behind an answer has its time when its turn comes."""
    async with (
        front(settings, headers_s=0.4, body_s=0.4) as served,
        line(served.running.url) as listening,
        line(served.running.url) as late,
    ):
        await listening.send(LISTEN)
        assert await listening.begins() == 200
        await listening.send(behind)
        for start in (call("greet"), head("tools/list", "Content-Length: 100") + b"\r\n"):
            await late.send(start)  # its bound begins later, and has passed when it is closed
            if start == call("greet"):
                assert (await late.answer())[0] == 200
        assert await late.rest() == b""
        await served.service.announce_tools()
        async with asyncio.timeout(LONG_S):
            await listening.reader.readuntil(b"notifications/tools/list_changed")


async def test_a_request_whose_body_is_missing_makes_room_when_its_turn_has_come(settings: Settings) -> None:
    async with front(settings, connections=1) as served, line(served.running.url) as owing:
        await owing.send(call("greet") + head("tools/list", "Content-Length: 100") + b"\r\n")
        assert (await owing.answer())[0] == 200
        await served.serves()
        assert await owing.rest() == b""


async def test_a_body_that_never_comes_behind_an_answer_is_given_up(settings: Settings) -> None:
    async with front(settings, body_s=0.3) as served, line(served.running.url) as owing:
        await owing.send(call("greet") + head("tools/list", "Content-Length: 100") + b"\r\n")
        assert (await owing.answer())[0] == 200
        assert await owing.rest() == b""
        await until(lambda: len(served.running.crowd) == 0)
