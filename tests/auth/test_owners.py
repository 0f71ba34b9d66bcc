"""Whose a task is: the issuer, the client and the subject of a verified token (X-AUTH-20, X-AUTH-21, 1.25)."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from taskengine.auth.config import Issuer
from taskengine.identity import Identity
from taskengine.server import create_app
from taskengine.settings import Settings
from tests.auth.authorization_server import AuthorizationServer, authorization_server
from tests.auth.conftest import RESOURCE, Front
from tests.auth.tools import engine
from tests.legacy.peer import call_params
from tests.server.peer import Hands, accept, front_end
from tests.server.peer import Peer as ModernPeer

FORMS: dict[str, Any] = {"elicitation": {}}


def test_no_two_identities_have_the_same_owner() -> None:
    """Whatever is in their names."""
    parts = ["a", "b", "", "a,b", '"', '","', "\\", "\x00", "[", "null", "\ud800", "é", "e\u0301"]
    made = {
        Identity(issuer, subject, client).owner for issuer in parts for subject in parts for client in [*parts, None]
    }
    assert len(made) == len(parts) ** 2 * (len(parts) + 1)
    assert all(owner.isascii() and owner.isprintable() for owner in made)
    assert all(json.loads(owner) for owner in made)


async def test_a_task_belongs_to_issuer_client_and_subject_and_to_no_token(
    settings: Settings, issuer: AuthorizationServer, hands: Hands
) -> None:
    """X-AUTH-20, X-AUTH-21, X-SEC-03: another token of the same reaches it, anybody else finds nothing."""
    async with authorization_server("/realms/other") as other:
        both = settings.model_copy(update={"auth_issuers": [Issuer(issuer=each.issuer) for each in (issuer, other)]})
        async with front_end(create_app(engine, both), settings.path) as running:
            front = await _peers(running.url, issuer.token(aud=RESOURCE, jti="1"))
            task_id = (await front.call("who", tasks=True)).result["taskId"]
            # Same principal: renewed, with other claims, other scopes, another audience beside ours.
            same = [
                issuer.token(aud=RESOURCE, jti="2", lasts_s=600),
                issuer.token(aud=[RESOURCE, "x"], scope="tasks:read", name="Ann", email="a@example.org"),
            ]
            foreign = [
                issuer.token(aud=RESOURCE, sub="bob"),
                issuer.token(aud=RESOURCE, client_id="other"),
                issuer.token(aud=RESOURCE, client_id=None),
                other.token(aud=RESOURCE),
            ]
            for token in same:
                assert (await (await _peers(running.url, token)).get(task_id)).result["taskId"] == task_id
            for token in foreign:
                peer = await _peers(running.url, token)
                for call in (peer.get, peer.cancel, lambda task, peer=peer: peer.update(task, {"k": accept()})):
                    found, unknown = await call(task_id), await call("tsk_" + "x" * 32)
                    assert found.refused == unknown.refused == (400, -32602)
                    assert found.error["message"].replace(task_id, "") == unknown.error["message"].replace(
                        "tsk_" + "x" * 32, ""
                    )
            rows = await hands.rows(f"owner = '{Identity(issuer.issuer, 'ann', 'app').owner}'")
            assert [row.id for row in rows] == [task_id]
            for peer in _OPEN:
                await peer.http.aclose()
            _OPEN.clear()


_OPEN: list[ModernPeer] = []


async def _peers(url: str, token: str) -> ModernPeer:
    http = httpx2.AsyncClient(timeout=20, trust_env=False, headers={"authorization": f"Bearer {token}"})
    _OPEN.append(ModernPeer(url, http))
    return _OPEN[-1]


async def test_foreign_and_missing_are_the_same_statement(
    front: Front, issuer: AuthorizationServer, hands: Hands
) -> None:
    """X-SEC-03: by primary key and owner together, so that neither answer takes longer than the other."""
    ann = await front.modern(issuer.token(aud=RESOURCE))
    task_id = (await ann.call("who", tasks=True)).result["taskId"]
    bob = await front.modern(issuer.token(aud=RESOURCE, sub="bob"))
    said: list[list[str]] = []
    database = front.app.state.service.store._database
    for asked in (task_id, "tsk_" + "y" * 32):
        seen: list[str] = []
        original = database.run

        async def noting(statement: Any, values: Any = None, _original: Any = original, _seen: list[str] = seen) -> Any:
            _seen.append(getattr(statement, "sql", None) or str(statement))
            return await (_original(statement) if values is None else _original(statement, values))

        database.run = noting
        try:
            assert (await bob.get(asked)).refused == (400, -32602)
        finally:
            database.run = original
        said.append([each for each in seen if "FROM tasks" in each])
    assert said[0] == said[1]
    assert len(said[0]) == 1


async def test_sessions_states_and_streams_are_bound_to_the_owner(
    front: Front, issuer: AuthorizationServer, hands: Hands
) -> None:
    """L-SESS-11, M-MRTR-09, X-SEC-08, X-SEC-15."""
    ann, bob = issuer.token(aud=RESOURCE), issuer.token(aud=RESOURCE, sub="bob")
    session = await front.legacy(ann)
    theirs = await front.legacy(bob)
    theirs.session = session.session
    assert (await theirs.send("ping")).refused == (404, -32600)
    async with session.stream("tools/call", call_params("ask_name")) as stream:
        question = await stream.next()
        assert (await theirs.answer(question, accept(name="Eve"))).status == 404
        await session.answer(question, accept(name="Ada"))
        assert (await stream.next())["result"]["content"][0]["text"] == "Hello, Ada!"
    one, other = await front.modern(ann), await front.modern(bob)
    state = (await one.call("ask_name", capabilities=FORMS)).result["requestState"]
    answered: dict[str, Any] = {"capabilities": FORMS, "inputResponses": {"user_name": accept(name="Ada")}}
    assert (await other.call("ask_name", requestState=state, **answered)).refused == (400, -32602)
    renewed = await front.modern(issuer.token(aud=RESOURCE, jti="other"))
    assert "error" not in (await renewed.call("ask_name", requestState=state, **answered)).body


async def test_a_list_has_what_is_the_callers_own(front: Front, issuer: AuthorizationServer, hands: Hands) -> None:
    """L-TASK-50, L-TASK-51."""
    ann, bob = issuer.token(aud=RESOURCE), issuer.token(aud=RESOURCE, sub="bob")
    made = [(await (await front.modern(token)).call("who", tasks=True)).result["taskId"] for token in (ann, bob)]
    for token, task_id in zip((ann, bob), made, strict=True):
        session = await front.legacy(token)
        assert [task["taskId"] for task in (await session.send("tasks/list")).result["tasks"]] == [task_id]


async def test_a_subscription_ends_with_its_token(front: Front, issuer: AuthorizationServer, hands: Hands) -> None:
    """M-SUB-16."""
    keeps = await front.modern(issuer.token(aud=RESOURCE))
    task_id = (await keeps.call("who", tasks=True)).result["taskId"]
    brief = await front.modern(issuer.token(aud=RESOURCE, exp=int(time.time()) + 4))
    async with brief.stream("subscriptions/listen", {"notifications": {"taskIds": [task_id]}}) as stream:
        assert (await stream.next())["params"]["notifications"] == {"taskIds": [task_id]}
        async with asyncio.timeout(15):
            while "result" not in (message := await stream.next(15)):
                pass
        with pytest.raises(StopAsyncIteration):
            await stream.next()
    assert message["result"]["resultType"] == "complete"
    assert (await keeps.get(task_id)).result["status"] == "working", "its task lives on"


async def test_the_stream_of_a_session_ends_with_its_token(front: Front, issuer: AuthorizationServer) -> None:
    """M-SUB-16, on the older revisions: the session goes on with the next token."""
    token = issuer.token(aud=RESOURCE, exp=int(time.time()) + 5)
    session = await front.legacy(token)
    async with asyncio.timeout(20):
        answer = await session.request("GET", headers={"accept": "text/event-stream"})
    assert answer.status == 200
    session.http.headers["authorization"] = f"Bearer {issuer.token(aud=RESOURCE)}"
    assert (await session.send("ping")).result == {}


async def test_a_call_whose_token_expires_can_be_gone_on_with(
    front: Front, issuer: AuthorizationServer, hands: Hands
) -> None:
    """Of a client without tasks: its call ends with a state, and the next token leads to the same task."""
    brief = await front.modern(issuer.token(aud=RESOURCE, exp=int(time.time()) + 4))
    async with asyncio.timeout(20):
        reply = await brief.call("job")
    assert reply.result["resultType"] == "input_required"
    renewed = await front.modern(issuer.token(aud=RESOURCE))
    again = asyncio.create_task(renewed.call("job", requestState=reply.result["requestState"]))
    claim = await hands.take()
    await hands.complete(claim, "came")
    assert (await again).text == "came"
    assert len(await hands.rows()) == 1


async def test_requests_of_a_session_end_with_their_token_whatever_their_framing(
    front: Front, issuer: AuthorizationServer, hands: Hands
) -> None:
    """M-SUB-16: with an event id to come back with, or with an error that says to ask again; the tasks go on."""
    brief = issuer.token(aud=RESOURCE, exp=int(time.time()) + 6)
    plain, old, oldest = [await front.legacy(brief) for _ in range(3)]
    task_id = await plain.begin("job")
    await old.initialize("2025-06-18")
    await oldest.initialize("2025-03-26")
    batch = [oldest.message("tools/call", call_params("plain_job"))]
    async with asyncio.timeout(20):
        one, waited, streamed, together = await asyncio.gather(
            plain.send("tools/call", call_params("plain_job"), {"accept": "application/json"}),
            plain.send("tasks/result", {"taskId": task_id}, {"accept": "application/json"}),
            old.send("tools/call", call_params("plain_job")),
            oldest.http.post(oldest.url, json=batch, headers=oldest.headers()),
        )
    for reply in (one, waited, streamed):
        assert reply.error["code"] == -32603
        assert "token" in reply.error["message"]
    assert streamed.streamed
    assert "ask again with a new one" in together.text
    assert {row.status for row in await hands.rows()} == {"working"}


async def test_a_stream_with_event_ids_is_left_at_the_end_of_its_token_and_gone_on_with_by_the_next(
    front: Front, issuer: AuthorizationServer, hands: Hands
) -> None:
    session = await front.legacy(issuer.token(aud=RESOURCE, exp=int(time.time()) + 4))
    await session.initialize("2025-06-18")
    async with session.stream("tools/call", call_params("plain_job", token=1)) as stream:
        claim = await hands.take()
        await hands.progress(claim, 1)
        assert (await stream.next())["params"]["progress"] == 1
        async with asyncio.timeout(20):
            with pytest.raises(StopAsyncIteration):
                await stream.next(20)
    session.http.headers["authorization"] = f"Bearer {issuer.token(aud=RESOURCE)}"
    async with session.listen(stream.last_event) as resumed:
        await hands.complete(claim, "came")
        assert (await resumed.next())["result"]["content"][0]["text"] == "came"


async def test_a_call_without_a_task_is_answered_although_its_token_has_expired(
    front: Front, issuer: AuthorizationServer
) -> None:
    session = await front.legacy(issuer.token(aud=RESOURCE, exp=int(time.time()) + 2))
    await session.initialize("2025-06-18")
    assert (await session.call("slow", {"steps": 18})).text == "slept"


@pytest.mark.parametrize("further", [{"handle_tools": "auto", "inline_wait": timedelta(hours=1)}])
async def test_a_wait_for_a_task_ends_with_its_token(front: Front, issuer: AuthorizationServer, hands: Hands) -> None:
    """The result says how the task stands, as at the end of any wait (M-SUB-16)."""
    brief = issuer.token(aud=RESOURCE, exp=int(time.time()) + 4)
    peer, session = await front.modern(brief), await front.legacy(brief)
    task_id = (await peer.call("who", tasks=True)).result["taskId"]
    only_json = {"accept": "application/json"}
    async with asyncio.timeout(20):
        replies = await asyncio.gather(
            peer.call("task_wait", {"task_id": task_id}),
            session.send("tools/call", call_params("task_wait", {"task_id": task_id}), only_json),
            session.send("tools/call", call_params("bridged"), only_json),
        )
    for reply in replies:
        assert reply.result["structuredContent"]["status"] == "working"
