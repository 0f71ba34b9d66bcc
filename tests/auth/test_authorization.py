"""401, 403 and 400: who is let in, to what, and how clients learn what it takes (requirements 1.24)."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from sqlalchemy import text

from tests.auth.authorization_server import AuthorizationServer
from tests.auth.conftest import RESOURCE, Front
from tests.legacy.peer import Peer as LegacyPeer
from tests.legacy.peer import call_params
from tests.server.peer import Hands, accept

METADATA = "https://tools.example/.well-known/oauth-protected-resource/mcp"
PLACES = ("/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource")


def challenge(answer: Any) -> dict[str, str]:
    """The parts of WWW-Authenticate."""
    scheme, _, rest = answer.headers["www-authenticate"].partition(" ")
    assert scheme == "Bearer"
    return dict(re.findall(r'(\w+)="([^"]*)"', rest))


async def test_the_metadata_is_at_both_well_known_places_for_everybody(
    front: Front, issuer: AuthorizationServer
) -> None:
    """X-AUTH-02, X-AUTH-03, X-AUTH-17, X-AUTH-19, M-AUTH-16."""
    http = await front.http()
    for place in PLACES:
        answer = await http.get(front.running.base + place)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        document = answer.json()
        assert document["resource"] == RESOURCE
        assert document["authorization_servers"] == [issuer.issuer]
        assert document["scopes_supported"] == ["tools:call"]
        assert document["bearer_methods_supported"] == ["header"]
        assert document["resource_name"] == "Guarded tools"
    assert (await http.post(front.running.base + PLACES[0])).status_code == 405
    assert issuer.requests == []


async def test_a_request_without_a_token_learns_where_to_get_one(front: Front, hands: Hands) -> None:
    """X-AUTH-01, X-AUTH-04, X-AUTH-05, X-AUTH-22."""
    peer = await front.modern()
    for method, params in (("tools/list", {}), ("tools/call", {"name": "who", "arguments": {}}), ("nonsense", {})):
        answer = await peer.http.post(peer.url, json=peer.message(method, params, {}, {}))
        assert answer.status_code == 401
        assert challenge(answer) == {"scope": "tools:call", "resource_metadata": METADATA}
        assert "error" in answer.json()
    for method in ("GET", "DELETE", "PUT"):
        answer = await peer.http.request(method, peer.url, headers={"accept": "text/event-stream"})
        assert answer.status_code == 401
    assert (await peer.http.post(peer.url, content=b"{" * 100)).status_code == 401
    assert await hands.rows() == []


async def test_a_bad_token_is_named_as_such(front: Front, issuer: AuthorizationServer) -> None:
    """X-AUTH-04, X-AUTH-05, X-AUTH-23."""
    http = await front.http(issuer.token(aud="https://other.example"))
    answer = await http.post(front.running.url, json={})
    said = challenge(answer)
    assert (answer.status_code, said["error"]) == (401, "invalid_token")
    assert said["resource_metadata"] == METADATA
    assert said["scope"] == "tools:call"


async def test_a_token_counts_in_the_header_only(front: Front, issuer: AuthorizationServer) -> None:
    """X-AUTH-14."""
    token = issuer.token(aud=RESOURCE)
    http = await front.http()
    for query in (f"?access_token={token}", f"?token={token}"):
        assert (await http.post(front.running.url + query, json={})).status_code == 401
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert (await http.post(front.running.url, content=f"access_token={token}", headers=form)).status_code == 401
    for name in ("cookie", "x-authorization", "proxy-authorization", "x-forwarded-user", "x-owner"):
        answer = await http.post(front.running.url, json={}, headers={name: f"Bearer {token}"})
        assert answer.status_code == 401
    assert issuer.requests == []


async def test_a_malformed_authorization_gets_400(front: Front, issuer: AuthorizationServer) -> None:
    """X-AUTH-10, M-STAT-11."""
    token = issuer.token(aud=RESOURCE)
    http = await front.http()
    for value in ("Bearer", f"Bearer {token} {token}", "Bearer a,b", 'Bearer "x"', "bearer ~|"):
        raw = [(b"authorization", value.encode("latin-1")), (b"content-type", b"application/json")]
        answer = await http.post(front.running.url, content=b"{}", headers=raw)
        assert (answer.status_code, challenge(answer)["error"]) == (400, "invalid_request"), value
    twice = [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")]
    assert (await http.post(front.running.url, json={}, headers=twice)).status_code == 400
    for value in ("", "Basic YTpi", "Digest x", token):
        answer = await http.post(front.running.url, json={}, headers={"authorization": value})
        assert answer.status_code == 401, value
    for value in (f"bearer {token}", f"BEARER   {token}"):
        answer = await http.post(front.running.url, json={}, headers={"authorization": value})
        assert answer.status_code not in {400, 401} or "www-authenticate" not in answer.headers, value


async def test_a_foreign_host_is_refused_before_its_token_is_looked_at(
    front: Front, issuer: AuthorizationServer
) -> None:
    http = await front.http(issuer.token(aud=RESOURCE))
    for header in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        assert (await http.post(front.running.url, json={}, headers=header)).status_code == 403
    assert issuer.requests == []


async def test_methods_need_their_scopes_and_a_broader_one_includes_others(
    front: Front, issuer: AuthorizationServer, hands: Hands
) -> None:
    """X-AUTH-06, M-AUTH-07, M-AUTH-09, X-SEC-02."""
    all_of = await front.modern(issuer.token(aud=RESOURCE))
    task_id = (await all_of.call("who", tasks=True)).result["taskId"]
    reads = await front.modern(issuer.token(aud=RESOURCE, scope="tasks:read other"))
    nothing = await front.modern(issuer.token(aud=RESOURCE, scope=None))
    assert (await reads.get(task_id)).status == 200
    assert (await nothing.send("tools/list")).status == 200
    assert (await nothing.send("server/discover")).status == 200
    wanted = {
        "tools:call": [await reads.call("who", tasks=True), await nothing.call("forbidden_tool")],
        "tasks:write": [await reads.cancel(task_id), await reads.update(task_id, {})],
        "tasks:read": [
            await nothing.get(task_id),
            await nothing.send("subscriptions/listen", {"notifications": {"taskIds": [task_id]}}),
        ],
    }
    for scope, replies in wanted.items():
        for reply in replies:
            said = challenge(reply)
            assert (reply.status, said["error"], said["scope"]) == (403, "insufficient_scope", scope)
            assert said["resource_metadata"] == METADATA
            assert scope in said["error_description"]
    assert len(await hands.rows()) == 1
    writes = await front.modern(issuer.token(aud=RESOURCE, scope="tasks:write"))
    assert (await writes.get(task_id)).status == 200
    assert (await writes.cancel(task_id)).status == 200
    assert (await all_of.get(task_id)).result["status"] == "cancelled"


async def test_a_tool_names_scopes_of_its_own(front: Front, issuer: AuthorizationServer, hands: Hands) -> None:
    """X-AUTH-06, M-AUTH-07, X-AUTH-17: asked for step by step, all that one operation needs at once."""
    peer = await front.modern(issuer.token(aud=RESOURCE))
    reply = await peer.call("write_report")
    assert (reply.status, challenge(reply)["scope"]) == (403, "reports:write tools:call")
    reply = await peer.call("send_report", tasks=True)
    assert (reply.status, challenge(reply)["scope"]) == (403, "mail:send reports:write tools:call")
    assert await hands.rows() == []
    stepped = await front.modern(issuer.token(aud=RESOURCE, scope="tools:call reports:write"))
    assert (await stepped.call("write_report")).text == "written"
    reply = await stepped.call("send_report", tasks=True)
    assert (reply.status, challenge(reply)["scope"]) == (403, "mail:send reports:write tools:call")
    only = await front.modern(issuer.token(aud=RESOURCE, scope="reports:write"))
    assert (await only.call("write_report")).status == 403


async def test_a_session_needs_the_same_and_its_challenge_repeats_what_was_granted(
    front: Front, issuer: AuthorizationServer, hands: Hands
) -> None:
    """L-AUTH-08."""
    peer = await front.legacy(issuer.token(aud=RESOURCE, scope="tasks:read unknown:scope"))
    reply = await peer.send("tools/call", call_params("write_report"))
    assert (reply.status, challenge(reply)["scope"]) == (403, "reports:write tools:call")
    for method in ("tasks/get", "tasks/result"):
        assert (await peer.send(method, {"taskId": "tsk_none"})).refused == (200, -32602)
    assert (await peer.send("tasks/list")).result == {"tasks": []}
    reply = await peer.send("tasks/cancel", {"taskId": "tsk_none"})
    assert (reply.status, challenge(reply)["scope"]) == (403, "tasks:write")
    peer.http.headers["authorization"] = f"Bearer {issuer.token(aud=RESOURCE, scope='reports:write')}"
    reply = await peer.send("tasks/list")
    assert (reply.status, challenge(reply)["scope"]) == (403, "reports:write tasks:read")
    answer = await peer.request("GET", headers={"accept": "text/event-stream"})
    assert answer.status == 403
    assert (await peer.answer({"id": "x", "method": "m"}, accept())).status == 403
    assert (await peer.request("DELETE")).status == 204


async def test_every_request_of_a_session_shows_its_own_token(front: Front, issuer: AuthorizationServer) -> None:
    """X-AUTH-15, L-SESS-10."""
    peer = await front.legacy(issuer.token(aud=RESOURCE))
    assert (await peer.send("ping")).result == {}
    del peer.http.headers["authorization"]
    for method in ("ping", "tools/list"):
        assert (await peer.send(method)).status == 401
    assert (await peer.request("DELETE")).status == 401
    peer.http.headers["authorization"] = f"Bearer {issuer.token(aud=RESOURCE, sub='bob')}"
    assert (await peer.send("ping")).refused == (404, -32600)
    peer.http.headers["authorization"] = f"Bearer {issuer.token(aud=RESOURCE)}"
    assert (await peer.send("ping")).result == {}


async def test_a_batch_needs_what_its_messages_need(front: Front, issuer: AuthorizationServer) -> None:
    http = await front.http(issuer.token(aud=RESOURCE, scope="tasks:read"))
    peer = LegacyPeer(front.running.url, http)
    await peer.initialize(version="2025-03-26")
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "write_report"}}
    answer = await http.post(peer.url, json=[ping], headers=peer.headers())
    assert answer.status_code == 200
    answer = await http.post(peer.url, json=[ping, call], headers=peer.headers())
    assert (answer.status_code, challenge(answer)["scope"]) == (403, "reports:write tools:call")


@pytest.mark.parametrize("further", [{"handle_tools": "auto"}])
async def test_the_tools_of_the_engine_need_what_they_do(front: Front, issuer: AuthorizationServer) -> None:
    peer = await front.modern(issuer.token(aud=RESOURCE))
    listed = {tool["name"] for tool in (await peer.send("tools/list")).result["tools"]}
    assert "task_list" in listed, "callers are told apart"
    assert (await peer.call("task_list", {})).status == 200


@pytest.mark.parametrize(
    "further",
    [{"handle_tools": "auto", "auth_scope_includes": {}, "auth_scopes": {"*": ["mcp"], "tasks/list": ["see"]}}],
)
async def test_the_settings_may_give_methods_other_scopes(front: Front, issuer: AuthorizationServer) -> None:
    http = await front.http()
    assert (await http.get(front.running.base + PLACES[0])).json()["scopes_supported"] == ["mcp", "see"]
    peer = await front.modern(issuer.token(aud=RESOURCE, scope="mcp"))
    assert (await peer.call("task_cancel", {"task_id": "tsk_none"})).status == 200
    reply = await peer.call("task_list", {})
    assert (reply.status, challenge(reply)["scope"]) == (403, "mcp see")
    nothing = await front.modern(issuer.token(aud=RESOURCE, scope=None))
    assert (await nothing.send("tools/list")).status == 403


@pytest.mark.parametrize("further", [{"auth_scope_includes": {}}])
async def test_an_answer_to_a_question_needs_the_scope_for_it_whichever_way_it_comes(
    front: Front, issuer: AuthorizationServer, hands: Hands
) -> None:
    answers = {"user_name": accept(name="Ada")}
    forms = {"elicitation": {}}
    peer = await front.modern(issuer.token(aud=RESOURCE, scope="tools:call"))
    state = (await peer.call("ask_name", capabilities=forms)).result["requestState"]
    reply = await peer.call("ask_name", capabilities=forms, requestState=state, inputResponses=answers)
    assert (reply.status, challenge(reply)["scope"]) == (403, "tasks:write tools:call")
    peer = await front.modern(issuer.token(aud=RESOURCE, scope="tools:call tasks:write"))
    reply = await peer.call("ask_name", capabilities=forms, requestState=state, inputResponses=answers)
    assert reply.text == "Hello, Ada!"


async def test_no_log_line_holds_a_token(
    front: Front, issuer: AuthorizationServer, caplog: pytest.LogCaptureFixture
) -> None:
    """X-AUTH-23."""
    good, bad = issuer.token(aud=RESOURCE), issuer.token(aud="https://other.example")
    with caplog.at_level(logging.DEBUG):
        peer = await front.modern(good)
        await peer.call("who", tasks=True)
        http = await front.http(bad)
        await http.post(front.running.url, json={})
        await (await front.http(f"{bad}\u007c")).post(front.running.url, json={})
    ours = [record for record in caplog.records if not record.name.startswith("httpcore")]
    said = "\n".join(f"{record.getMessage()} {record.args}" for record in ours)
    assert good not in said
    assert bad not in said


async def test_the_database_holds_no_token(front: Front, issuer: AuthorizationServer, hands: Hands) -> None:
    """X-AUTH-13."""
    token = issuer.token(aud=RESOURCE)
    peer = await front.modern(token)
    await peer.call("who", tasks=True)
    found = await hands.store._database.run(text("SELECT string_agg(row_to_json(tasks)::text, ' ') FROM tasks"))
    rows = found.scalar_one()
    assert "ann" in rows
    assert token not in rows
    assert token.split(".")[2] not in rows
