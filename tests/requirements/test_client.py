"""Rules for clients of the revisions with a handshake that ours keeps (rows "Client:" of 1.8, 1.10 and 1.16)."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from taskengine.client import Client
from tests.client.test_peers import LEGACY, SESSION, OldServer
from tests.server.peer import front_end


class Watching(OldServer):
    """Keeps every request with its headers, and has a task that works for a while."""

    POLLS = 3
    INTERVAL_MS = 150

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.polls: list[float] = []
        self.app.router.routes[:] = [Route("/mcp", self.watch, methods=["GET", "POST", "DELETE"])]

    async def watch(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append((request.method, dict(request.headers), json.loads(body) if body else None))
        return await self.serve(request)

    def tasks_get(self, message: dict[str, Any]) -> Response:
        self.polls.append(time.monotonic())
        if len(self.polls) == self.POLLS and not self.answer.done():
            self.answer.set_result({"id": "none", "result": {"action": "done"}})
        return self._result(message, self._task("completed" if self.answer.done() else "working"))

    def _task(self, status: str) -> dict[str, Any]:
        return {**super()._task(status), "pollInterval": self.INTERVAL_MS}


async def test_each_request_has_the_headers_of_its_session_and_polls_keep_their_distance() -> None:
    """L-TRANS-02, L-TRANS-23, L-LIFE-08, L-TASK-67 to L-TASK-69: nothing is sent here that a client could rely on."""
    server = Watching()
    async with front_end(server.app) as running, Client(running.url, revision=LEGACY) as client:
        assert (await client.call("job")).text == "done none"
    posts = [(headers, message) for method, headers, message in server.seen if method == "POST"]
    assert all(isinstance(message, dict) for _, message in posts), "one message in each"
    for headers, _ in posts:
        assert {part.strip() for part in headers["accept"].split(",")} >= {"application/json", "text/event-stream"}
    methods = [message["method"] for _, message in posts]
    assert methods[:2] == ["initialize", "notifications/initialized"]
    for _, headers, message in server.seen:
        if message is None or message["method"] != "initialize":
            assert (headers["mcp-protocol-version"], headers[SESSION]) == (LEGACY, "s-0")
    call = next(message for _, message in posts if message["method"] == "tools/call")
    assert isinstance(call["params"]["task"], dict)
    gaps = [later - earlier for earlier, later in zip(server.polls, server.polls[1:], strict=False)]
    assert len(gaps) >= Watching.POLLS - 1
    assert min(gaps) >= Watching.INTERVAL_MS / 1000 * 0.9
