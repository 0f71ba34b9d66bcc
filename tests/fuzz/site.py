"""A front end in this process on a real PostgreSQL, to be fuzzed; and what it must have kept afterwards."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
from pydantic import SecretStr

from taskengine.server import create_app
from taskengine.server.caller import Caller
from taskengine.server.request_state import RequestState, Sealer
from taskengine.server.service import Service
from taskengine.server.stdio import StdioServer
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.wire import modern
from tests.fuzz.inputs import BOTH, EXTENSION, NAMED, VERSIONS, Input, Material
from tests.fuzz.judge import Answer, created, problem
from tests.fuzz.tools import engine
from tests.services import broken_in

__all__ = ["Site", "running_site"]

OWN, FOREIGN = "fuzz-token-of-one", "fuzz-token-of-another"
PATIENCE_S = 1.0
"""How long a client waits for an answer that has not begun, before it goes away."""
LONG_S = 60.0
"""Longer than any answer may take once its client has gone; else it is held against us."""
COMMENTS = 3
KEPT = 40
GIVEN_OUT = re.compile(rb'(?:"(?:requestState|nextCursor)":"|(?:^|\n)id: )([^"\s]+)')
NAMED_TASK = re.compile(rb'"resultType":"task","taskId":"([^"]+)"')
TASKS = 3


class _Errors(logging.Handler):
    """What our side logs as a fault of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(logging.Formatter("%(name)s: %(message)s").format(record))


class Site:
    def __init__(self, app: Any, settings: Settings, connection: Any) -> None:
        self._app = app
        self.settings = settings
        self._connection = connection
        self.material = Material(OWN)
        self._foreign: Mapping[str, str] = {}
        self._errors = _Errors()
        self.heard: Callable[[Answer], object] = lambda answer: None
        """Called with every answer."""

    # one request

    async def answer(self, given: Input, *, patience_s: float = PATIENCE_S) -> Answer:
        """Whatever comes of it. A stream is left once something was said on it, for it may have no end."""
        found = Answer()
        sent, leaving = False, asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": given.body, "more_body": False}
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def send(event: Mapping[str, Any]) -> None:
            if event["type"] == "http.response.start":
                found.status, found.headers = event["status"], list(event["headers"])
                return
            found.body += event.get("body", b"")
            if event.get("more_body", False) and (b"data: {" in found.body or found.body.count(b": ") > COMMENTS):
                leave()

        def leave() -> None:
            if not leaving.is_set():
                found.left = True
                leaving.set()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": given.method,
            "scheme": "http",
            "path": self.settings.path,
            "raw_path": self.settings.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": list(given.headers),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        timer = asyncio.get_running_loop().call_later(patience_s, leave)
        try:
            async with asyncio.timeout(LONG_S):
                await self._app(scope, receive, send)
        except Exception as error:
            found.error = f"{type(error).__name__}: {error}"
        finally:
            timer.cancel()
        return found

    async def problems(self, inputs: Iterable[Input]) -> list[str]:
        """What is wrong after these, sent side by side: with their answers, in the log, or with the tasks there are."""
        inputs = list(inputs)
        before = await self._ids()
        answers = await asyncio.gather(*(self.answer(each) for each in inputs))
        for answer in answers:
            self.heard(answer)
        if any(answer.status == 204 for answer in answers):  # somebody has ended a session
            self.material.sessions = {version: await self._initialize(version, OWN) for version in VERSIONS}
        wrong = [
            f"{each.kind} {each.method} {list(each.headers)} {each.body[:600]!r} -> {answer.status} "
            f"{answer.body[:300]!r}: {found}"
            for each, answer in zip(inputs, answers, strict=True)
            if (found := problem(each, answer)) is not None
        ]
        if wrong:
            return wrong
        named, unnamed = created(answers)
        made = await self._ids() - before
        # A call that was repeated under the same key or state names a task of before.
        if lost := named - made - before:
            wrong.append(f"tasks were promised and are not there: {sorted(lost)}")
        if len(made - named) > unnamed:
            wrong.append(f"{len(made)} tasks were made, and {len(named)} named: a refused request made one")
            wrong += (await self._rows(made - named)).values()
            wrong += [
                f"{each.kind} {each.body[:600]!r} -> {answer.status} {answer.body[:300]!r}"
                for each, answer in zip(inputs, answers, strict=True)
                if b"tools/call" in each.body
            ]
        if gone := before - made - await self._ids():
            wrong.append(f"tasks are gone: {sorted(gone)}")
        return wrong + self.told()

    def learn(self, answer: Answer) -> None:
        """Use what was given out in requests to come, as a client would."""
        material = self.material
        material.sealed += [found.decode() for found in GIVEN_OUT.findall(answer.body)]
        material.tasks += [found.decode() for found in NAMED_TASK.findall(answer.body)]
        del material.sealed[KEPT // 2 : -KEPT // 2]
        del material.tasks[:-KEPT]

    # standard input

    async def line_problems(self, lines: Iterable[bytes]) -> list[str]:
        """The same for the lines of a host, answered by a stdio process's server."""
        said: list[bytes] = []
        service = Service(engine, self.settings)

        async def read() -> AsyncIterator[bytes]:
            for line in lines:
                yield line
                await asyncio.sleep(0)
            await asyncio.sleep(PATIENCE_S)

        async def write(line: bytes) -> None:
            said.append(line)

        async def start() -> Service:
            return service

        caller = Caller("static:one")
        server = StdioServer(Service(engine, self.settings), start, caller, read(), write)
        async with asyncio.timeout(LONG_S):
            await server.serve()
        wrong = []
        everything = Input("stdio", "", (), b"\n".join(lines))
        for line in said:
            if line.count(b"\n") != 1:
                wrong.append(f"not one line: {line[:300]!r}")
            found = problem(everything, Answer(200, [], line.rstrip(b"\n")))
            if found is not None:
                wrong.append(f"{line[:300]!r}: {found}")
        return wrong + self.told()

    # all of it

    def told(self) -> list[str]:
        """What was logged as a fault since the last time."""
        found, self._errors.found = self._errors.found, []
        return [f"logged: {each[:2000]}" for each in found]

    async def broken(self) -> list[str]:
        """What is not as it was: tasks of others, or what is true of every database."""
        wrong = await broken_in(self._connection)
        if await self._rows(self._foreign) != self._foreign:
            wrong.append("a task of another was changed")
        return wrong

    async def _ids(self) -> set[str]:
        return {row["id"] for row in await self._connection.fetch("SELECT id FROM tasks")}

    async def _rows(self, ids: Iterable[str]) -> dict[str, str]:
        found = await self._connection.fetch("SELECT id, t::text AS row FROM tasks t WHERE id = ANY($1)", list(ids))
        return {row["id"]: row["row"] for row in found}

    # before the first

    async def prepare(self, store: Store) -> None:
        logging.getLogger("taskengine").addHandler(self._errors)
        material = self.material
        for token, ids in ((OWN, material.tasks), (FOREIGN, material.foreign_tasks)):
            for n in range(TASKS):
                result = await self._modern("tools/call", {"name": "job", "arguments": {"n": n}}, token)
                ids.append(result["taskId"])
            asked = await self._modern("tools/call", {"name": "asked", "arguments": {}}, token)
            material.sealed.append(asked["requestState"])
            asked = await self._modern("tools/call", {"name": "ask", "arguments": {}}, token)
            material.sealed.append(asked["requestState"])
            for version in VERSIONS:
                session = await self._initialize(version, token)
                if token == OWN:
                    material.sessions[version] = session
                else:
                    material.sealed.append(session)
        old = Sealer(self.settings, store.keys.secret)
        await old.prepare()
        assert old._fernet is not None
        state = json.dumps({"owner": "static:one", "digest": "x"}).encode()
        material.sealed.append(old._fernet.encrypt_at_time(state, 1_700_000_000).decode())
        material.sealed.append(await old.seal(RequestState("static:one", "another call")))
        self._foreign = await self._rows(material.foreign_tasks)
        assert len(self._foreign) == TASKS
        assert not self.told()

    def close(self) -> None:
        logging.getLogger("taskengine").removeHandler(self._errors)

    async def _modern(self, method: str, params: dict[str, Any], token: str) -> dict[str, Any]:
        envelope = {modern.VERSION_KEY: modern.VERSION, modern.CAPABILITIES_KEY: EXTENSION}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": envelope}}
        named = params.get(NAMED.get(method, ""), "")
        headers = _pairs(token, {"mcp-protocol-version": modern.VERSION, "mcp-method": method, "mcp-name": named})
        answer = await self.answer(Input("valid", "POST", headers, json.dumps(body).encode()), patience_s=LONG_S)
        assert answer.status == 200, answer
        return dict(next(answer.messages())["result"])

    async def _initialize(self, version: str, token: str) -> str:
        hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "fuzz", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        answer = await self.answer(
            Input("valid", "POST", _pairs(token, {}), json.dumps(body).encode()), patience_s=LONG_S
        )
        session = dict(answer.headers)[b"mcp-session-id"].decode()
        ready = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
        headers = _pairs(token, {"mcp-session-id": session})
        assert (await self.answer(Input("valid", "POST", headers, ready), patience_s=LONG_S)).status == 202
        return session


def _pairs(token: str, more: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    known = {
        "host": "localhost",
        "accept": BOTH,
        "content-type": "application/json",
        "authorization": f"Bearer {token}",
        **more,
    }
    return tuple((name.encode(), value.encode()) for name, value in known.items())


@asynccontextmanager
async def running_site(database_url: str, broker_url: str) -> AsyncIterator[Site]:
    """Nothing waits long there, and nothing is counted: what is refused is refused for what it is."""
    settings = Settings(
        database_url=SecretStr(database_url),
        broker_url=SecretStr(broker_url),
        namespace=f"t{secrets.token_hex(6)}",
        auth_tokens=[SecretStr(f"{OWN}:one"), SecretStr(f"{FOREIGN}:another")],
        call_rate="0",
        poll_rate="0",
        max_open_tasks_per_owner=0,
        max_streams_per_owner=0,
        quick_wait=timedelta(0),
        inline_wait=timedelta(milliseconds=20),
        keep_alive=timedelta(milliseconds=50),
        max_body_bytes=1 << 17,
    )
    app = create_app(engine, settings)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        connection = await asyncpg.connect(database_url)
        stack.push_async_callback(connection.close)
        store = await Store.open(settings)
        stack.push_async_callback(store.close)
        site = Site(app, settings, connection)
        stack.callback(site.close)
        await site.prepare(store)
        yield site
