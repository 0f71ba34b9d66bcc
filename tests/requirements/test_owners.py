"""Several principals at one front end (requirements 1.25, and the rows on owners of 1.8, 1.15, 1.16, 1.18 and 1.19)."""

from __future__ import annotations

from typing import Any

from taskengine.settings import Settings
from tests.legacy.peer import call_params
from tests.processes import ROOT
from tests.requirements.conftest import Front
from tests.requirements.tools import engine
from tests.server.peer import Hands, accept
from tests.server.peer import Peer as ModernPeer

FORMS: dict[str, Any] = {"elicitation": {}}
ANSWER = {"elicit-1": accept(ok=True)}


async def asking(front: Front, hands: Hands) -> tuple[ModernPeer, str]:
    """Ann, and a task of hers that waits for an answer."""
    ann = await front.modern("ann")
    created = await ann.call("confirm", tasks=True, capabilities=FORMS)
    await hands.run(engine)
    return ann, created.result["taskId"]


async def test_a_task_of_another_is_like_none_to_every_method_of_both_revisions(front: Front, hands: Hands) -> None:
    """X-SEC-02 to X-SEC-05, X-SEC-08, L-TASK-51, L-TASK-59, M-SUB-15: to know the id is not enough."""
    ann, task_id = await asking(front, hands)
    bob = await front.modern("bob")
    for call in (bob.get, bob.cancel, lambda task: bob.update(task, ANSWER)):
        foreign, unknown = await call(task_id), await call("tsk_none")
        assert foreign.refused == (400, -32602)
        assert foreign.error == unknown.error
    async with bob.stream("subscriptions/listen", {"notifications": {"taskIds": [task_id, "tsk_none"]}}) as stream:
        assert (await stream.next())["params"]["notifications"] == {"taskIds": []}
        assert "result" in await stream.next()
    session = await front.legacy("bob")
    for method in ("tasks/get", "tasks/result", "tasks/cancel"):
        foreign, unknown = [await session.send(method, {"taskId": each}) for each in (task_id, "tsk_none")]
        assert foreign.refused == (200, -32602)
        assert foreign.error == unknown.error
    assert (await session.send("tasks/list")).result == {"tasks": []}
    task = (await ann.get(task_id)).result
    assert (task["status"], list(task["inputRequests"])) == ("input_required", ["elicit-1"])


async def test_all_sessions_and_revisions_of_an_owner_reach_the_same_tasks(front: Front, hands: Hands) -> None:
    """L-SESS-12, L-TASK-50, A-07."""
    ann, task_id = await asking(front, hands)
    first, second = await front.legacy("ann"), await front.legacy("ann")
    assert first.session != second.session
    for session in (first, second):
        assert (await session.get(task_id))["status"] == "input_required"
        assert [task["taskId"] for task in (await session.send("tasks/list")).result["tasks"]] == [task_id]
    await second.request("DELETE")
    await ann.update(task_id, ANSWER)
    assert (await first.get(task_id))["status"] == "working"


async def test_what_a_client_says_of_itself_opens_nothing(front: Front, hands: Hands) -> None:
    """X-SEC-16, M-META-05, M-HDR-25."""
    ann, task_id = await asking(front, hands)
    bob = await front.modern("bob")
    claims = {"io.modelcontextprotocol/clientInfo": {"name": "ann", "version": "1"}, "baggage": "owner=ann,user=ann"}
    named = {"x-owner": "ann", "x-forwarded-user": "ann", "mcp-session-id": "ann", "baggage": "owner=ann"}
    refused = await bob.get(task_id, meta=claims, headers=named)
    assert refused.refused == (400, -32602)
    plain = await ann.get(task_id)
    assert (await ann.get(task_id, meta={**claims, "baggage": "="})).result.keys() == plain.result.keys()


async def test_a_session_of_another_does_not_exist(front: Front) -> None:
    """L-SESS-05, L-SESS-10, L-SESS-11, X-SEC-15."""
    ann, bob = await front.legacy("ann"), await front.legacy("bob")
    stolen = {"mcp-session-id": ann.session, "accept": "application/json, text/event-stream"}
    for method in ("GET", "DELETE"):
        events = {**stolen, "accept": "text/event-stream"}
        foreign = await bob.request(method, headers=events)
        unknown = await bob.request(method, headers={**events, "mcp-session-id": "none"})
        assert (foreign.status, foreign.body) == (unknown.status, unknown.body)
        assert foreign.status == 404
    assert (await bob.send("tools/list", headers=stolen)).refused == (404, -32600)
    async with ann.stream("tools/call", call_params("ask_name")) as stream:
        question = await stream.next()
        assert (await bob.answer(question, accept(name="Eve"))).status == 400
        resumed = {"accept": "text/event-stream", "last-event-id": stream.last_event}
        assert (await bob.request("GET", headers=resumed)).status == 400
        assert (await bob.request("GET", headers={**resumed, **stolen})).status == 404
        await bob.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": stream.id}})
        await ann.answer(question, accept(name="Ada"))
        assert (await stream.next())["result"]["content"][0]["text"] == "Hello, Ada!"
    await ann.request("DELETE")
    unknown = await ann.send("ping", headers={"mcp-session-id": "none"})
    ended = await ann.send("ping")
    assert (ended.status, ended.error) == (unknown.status, unknown.error)


async def test_a_request_state_of_another_is_refused(front: Front, hands: Hands) -> None:
    """M-MRTR-07, M-MRTR-09."""
    ann, bob = await front.modern("ann"), await front.modern("bob")
    answered: dict[str, Any] = {"capabilities": FORMS, "inputResponses": {"user_name": accept(name="Ada")}}
    for tool, tasks in (("ask_name", False), ("asked_inline", True)):
        state = (await ann.call(tool, tasks=tasks, capabilities=FORMS)).result["requestState"]
        assert (await bob.call(tool, tasks=tasks, requestState=state, **answered)).refused == (400, -32602)
        assert await hands.rows() == []
        assert "error" not in (await ann.call(tool, tasks=tasks, requestState=state, **answered)).body


async def test_who_did_what_to_a_task_is_in_the_audit_log(front: Front, hands: Hands) -> None:
    """X-SEC-12, L-TASK-64. Polls are not in it: only the result is anybody's business."""
    ann, task_id = await asking(front, hands)
    session, bob = await front.legacy("ann"), await front.modern("bob")
    await session.get(task_id)
    await ann.get(task_id)
    await ann.update(task_id, ANSWER)
    await hands.complete(await hands.take())
    await session.result(task_id)
    await bob.get(task_id)
    await front.app.state.service.trail.stop()  # what was noted is stored now
    deeds = [(row["actor"], row["action"]) for row in await hands.store.audit.find(task_id=task_id)]
    assert sorted(deeds) == [("ann", "answer"), ("ann", "create"), ("ann", "read"), ("bob", "refuse")]


def test_how_much_an_owner_may_have_is_documented() -> None:
    """L-TASK-62."""
    page = (ROOT / "docs" / "limits.md").read_text()
    for limit in ("max_open_tasks_per_owner", "max_ttl", "poll_rate", "max_streams_per_owner"):
        assert limit in Settings.model_fields
        assert f"`{limit}`" in page


def test_what_protects_a_task_without_authorization_is_documented() -> None:
    """L-TASK-61, M-SEC-07."""
    page = " ".join((ROOT / "docs" / "concepts.md").read_text().split())
    assert "an id that cannot be guessed" in page
