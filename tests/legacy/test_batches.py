"""Several messages in one body: 2025-03-26 has that, its successors have not."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.legacy.peer import ALL, Peer, call_params
from tests.server.peer import Hands

OLDEST = "2025-03-26"
SAMPLED = {"role": "assistant", "content": {"type": "text", "text": "Hi back"}, "model": "m"}


@pytest.fixture
async def old(newcomer: Peer) -> Peer:
    await newcomer.initialize(OLDEST, ALL)
    newcomer.version = None  # that revision has no such header
    return newcomer


async def send(peer: Peer, messages: Any, accept: str | None = None) -> tuple[httpx2.Response, list[Any]]:
    """The answer, and the messages in it in their order."""
    headers = peer.headers({} if accept is None else {"accept": accept})
    response = await peer.http.post(peer.url, content=json.dumps(messages), headers=headers)
    if response.headers.get("content-type") == "text/event-stream":
        assert "id:" not in response.text
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        return response, [json.loads(line) for line in lines]
    return response, response.json() if response.content else []


async def test_the_responses_to_a_batch_are_an_array(old: Peer) -> None:
    calls = [old.message("tools/call", call_params("add", {"a": n, "b": n})) for n in (1, 2)]
    response, answers = await send(old, [*calls, old.message("ping", None), old.message("nonsense", None)])
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    by_id = {answer["id"]: answer for answer in answers}
    assert [by_id[call["id"]]["result"]["content"][0]["text"] for call in calls] == ["2", "4"]
    assert [by_id[4]["result"], by_id[5]["error"]["code"]] == [{}, -32601]


async def test_a_batch_of_one_is_answered_by_an_array_of_one(old: Peer) -> None:
    _, answers = await send(old, [old.message("ping", None)])
    assert answers == [{"jsonrpc": "2.0", "id": 2, "result": {}}]


async def test_what_comes_before_a_response_makes_the_answer_a_stream(old: Peer) -> None:
    """Each response comes once, with the notifications of its own request before it."""
    steps = old.message("tools/call", call_params("steps", token="mine"))
    response, told = await send(old, [old.message("ping", None), steps])
    assert response.headers["content-type"] == "text/event-stream"
    progress = [each["params"] for each in told if each.get("method") == "notifications/progress"]
    assert [each["progress"] for each in progress] == [0, 50, 100]
    assert {each["progressToken"] for each in progress} == {"mine"}
    assert sorted(each["id"] for each in told if "result" in each) == [2, 3]
    assert told[-1]["id"] == steps["id"]


async def test_a_client_that_takes_one_form_only_gets_that(old: Peer) -> None:
    batch = [old.message("ping", None), old.message("tools/call", call_params("steps", token=1))]
    response, answers = await send(old, batch, "application/json")
    assert response.headers["content-type"] == "application/json"
    assert {answer["id"] for answer in answers} == {2, 3}
    response, told = await send(old, [old.message("ping", None)], "text/event-stream")
    assert response.headers["content-type"] == "text/event-stream"
    assert [each["id"] for each in told] == [4]


async def test_a_batch_without_requests_is_accepted(old: Peer) -> None:
    """L-TRANS-04, L-TRANS-05."""
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}
    response, answers = await send(old, [cancelled, cancelled])
    assert (response.status_code, answers) == (202, [])
    response, _ = await send(old, [cancelled, {"jsonrpc": "2.0", "id": "no", "result": {}}])
    assert response.status_code == 400


async def test_a_question_is_answered_within_a_batch(old: Peer, hands: Hands) -> None:
    async with old.stream("tools/call", call_params("ask_much_older")) as stream:
        questions = [await stream.next(), await stream.next()]
        results = {"sampling/createMessage": SAMPLED, "roots/list": {"roots": []}}
        answers = [{"jsonrpc": "2.0", "id": each["id"], "result": results[each["method"]]} for each in questions]
        response, _ = await send(old, answers)
        assert response.status_code == 202
        assert (await stream.next())["result"]["content"][0]["text"] == "Hi back 0"


@pytest.mark.parametrize(
    "batch",
    [
        [],
        [7],
        [{"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"id": 2, "method": "ping"}],
        [{"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}],
        [{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": OLDEST}}],
        [{"jsonrpc": "2.0", "id": number, "method": "ping"} for number in range(101)],
        [{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, [{"jsonrpc": "2.0", "id": 2, "method": "ping"}]],
    ],
    ids=["empty", "number", "unreadable", "same id", "initialize", "too many", "nested"],
)
async def test_a_batch_that_cannot_be_taken_is_refused_whole(old: Peer, batch: list[Any]) -> None:
    response, answer = await send(old, batch)
    assert (response.status_code, answer["error"]["code"]) == (400, -32600)


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_later_revisions_have_no_batches(newcomer: Peer, version: str) -> None:
    """L-TRANS-03."""
    await newcomer.initialize(version)
    response, answer = await send(newcomer, [newcomer.message("ping", None)])
    assert (response.status_code, answer["error"]["code"]) == (400, -32600)


async def test_the_newest_wire_has_no_batches_whatever_the_session(old: Peer) -> None:
    """M-TRANS-10, X-SEL-02, X-SEL-03."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    response, _ = await send(old, [old.message("ping", {"_meta": meta})])
    assert response.status_code == 400
    old.version = "2026-07-28"
    response, _ = await send(old, [old.message("ping", None)])
    assert response.status_code == 400
    old.version, old.session = None, None
    response, _ = await send(old, [old.message("ping", None)])
    assert response.status_code == 400


async def test_a_task_in_a_batch_goes_on_when_its_client_leaves(old: Peer, hands: Hands) -> None:
    """L-CANC-11."""
    message = [old.message("tools/call", call_params("plain_job", token=1)), old.message("ping", None)]
    async with old.http.stream("POST", old.url, content=json.dumps(message), headers=old.headers()) as response:
        claim = await hands.take()
        await hands.progress(claim, 1)
        async for line in response.aiter_lines():
            if "notifications/progress" in line:
                break
    await hands.complete(claim, "kept")
    assert (await hands.rows())[0].status == "completed"
