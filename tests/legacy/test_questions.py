from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from taskengine.records import Question
from taskengine.settings import Settings
from taskengine.store.sealing import MARK
from taskengine.wire import legacy
from tests.legacy.peer import ALL, DOCUMENT, FORMS, Peer, call_params, serving
from tests.legacy.test_tasks import related
from tests.legacy.tools import engine
from tests.server.peer import Hands, accept, form
from tests.store.sql import execute
from tests.wire.schemas import check

MESSAGE = {"role": "assistant", "content": {"type": "text", "text": "Hi back"}, "model": "m"}


@pytest.fixture
async def both(settings: Settings) -> AsyncIterator[tuple[Peer, Peer]]:
    """The same session at two front ends."""
    async with serving(engine, settings) as one, serving(engine, settings) as other:
        await one.initialize(capabilities=ALL)
        other.session, other.version = one.session, one.version
        yield one, other


async def test_a_task_asks_on_the_stream_of_its_result(both: tuple[Peer, Peer], hands: Hands) -> None:
    """L-TASK-35 to L-TASK-39, D-21, D-22: the answer may reach any front end."""
    peer, other = both
    task_id = await peer.begin("confirm")
    await hands.run(engine)
    assert (await peer.get(task_id))["status"] == "input_required"
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        question = await stream.next()
        assert question["method"] == "elicitation/create"
        assert question["params"]["mode"] == "form"
        assert question["params"]["_meta"] == related(task_id)
        assert (await other.answer(question, accept(ok=True))).status == 202
        assert (await peer.get(task_id))["status"] == "working"
        await hands.run(engine)
        result = (await stream.next())["result"]  # and the question is not taken back: it was answered (L-CANC-12)
    assert result["content"][0]["text"] == "accept True"


async def test_several_questions_are_asked_at_once(peer: Peer, hands: Hands) -> None:
    """D-24."""
    task_id = await peer.begin("job")
    await hands.ask(await hands.take(), form("a", "A?"), form("b", "B?"))
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        first, second = await stream.next(), await stream.next()
        assert [each["params"]["message"] for each in (first, second)] == ["A?", "B?"]
        await peer.answer(second, accept(ok=True))
        assert (await peer.get(task_id))["status"] == "input_required"
        await peer.answer(first, {"action": "decline"})
        assert (await peer.get(task_id))["status"] == "working"


async def test_a_question_goes_to_one_stream_and_to_the_next_when_that_breaks(
    both: tuple[Peer, Peer], hands: Hands
) -> None:
    """L-TASK-40, L-TRANS-18, A-26, L-BASE-18."""
    peer, other = both
    task_id = await peer.begin("job")
    await hands.ask(await hands.take(), form("a"))
    async with other.stream("tasks/result", {"taskId": task_id}) as broken:
        first = await broken.next()
        opening = peer.stream("tasks/result", {"taskId": task_id})
        stream = await opening.__aenter__()
        asked = asyncio.create_task(stream.next())
        await asyncio.sleep(0.7)
        assert not asked.done()
    again = await asked
    assert again["params"] == first["params"]
    assert again["id"] != first["id"]
    assert (await peer.answer(first, accept(ok=False))).status == 202  # the first answer wins, by whichever id
    assert (await peer.answer(again, accept(ok=True))).status == 202
    assert (await hands.take()).answers["a"].response == accept(ok=False)
    await opening.__aexit__(None, None, None)


async def test_an_answer_that_does_not_fit_is_refused_and_the_question_put_again(peer: Peer, hands: Hands) -> None:
    """X-ELIC-16, L-TRANS-05."""
    task_id = await peer.begin("job")
    await hands.ask(await hands.take(), form("a"))
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        first = await stream.next()
        assert (await peer.answer(first, {"action": "accept", "content": {"ok": "perhaps"}})).status == 400
        again = await stream.next()
        assert again["id"] != first["id"]
        await peer.answer(again, accept(ok=True, more="is no fault"))
    assert (await peer.get(task_id))["status"] == "working"


async def test_a_form_that_fails_counts_as_closed(peer: Peer, hands: Hands) -> None:
    """L-ELIC-31, D-25."""
    task_id = await peer.begin("confirm")
    await hands.run(engine)
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        question = await stream.next()
        assert (await peer.answer(question, error={"code": -32602, "message": "No such mode"})).status == 202
    await hands.run(engine)
    assert (await peer.result(task_id)).text == "cancel None"


async def test_a_refused_sample_is_an_error_in_the_tool(peer: Peer, hands: Hands) -> None:
    """L-SAMP-12."""
    task_id = await peer.begin("sample")
    await hands.run(engine)
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        question = await stream.next()
        await peer.answer(question, error={"code": -1, "message": "User rejected"})
    await hands.run(engine)
    reply = await peer.result(task_id)
    assert reply.result["isError"] is True
    assert "User rejected" in reply.text


async def test_samples_roots_and_urls_can_be_asked_too(peer: Peer, hands: Hands) -> None:
    """L-ELIC-20, X-SAMP-02, X-ROOT-01."""
    async with peer.stream("tools/call", call_params("ask_much")) as stream:
        questions = {(each := await stream.next())["method"]: each for _ in range(3)}
        await peer.answer(questions["roots/list"], {"roots": [{"uri": "file:///a"}]})
        await peer.answer(questions["sampling/createMessage"], MESSAGE)
        await peer.answer(questions["elicitation/create"], accept(name="Ada"))
        assert (await stream.next())["result"]["content"][0]["text"] == "Ada, Hi back, 1"
    async with peer.stream("tools/call", call_params("ask_url")) as stream:
        question = await stream.next()
        assert question["params"]["elicitationId"]
        await peer.answer(question, {"action": "accept"})
        assert (await stream.next())["result"]["content"][0]["text"] == "accept"


@pytest.mark.parametrize("tool", ["ask_name", "ask_sync"])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_tool_without_a_task_asks_on_the_stream_of_its_call(
    both: tuple[Peer, Peer], tool: str, elsewhere: bool
) -> None:
    """The answer reaches the tool from any front end."""
    peer, other = both
    async with peer.stream("tools/call", call_params(tool)) as stream:
        question = await stream.next()
        assert "_meta" not in question["params"]
        assert (await (other if elsewhere else peer).answer(question, accept(name="Ada"))).status == 202
        assert "Ada" in (await stream.next())["result"]["content"][0]["text"]


async def test_a_tool_without_a_task_asks_again_until_the_answer_fits(peer: Peer) -> None:
    async with peer.stream("tools/call", call_params("ask_name")) as stream:
        for _ in range(3):
            question = await stream.next()
            await peer.answer(question, {"action": "accept", "content": {"name": 7}})
        assert (await stream.next())["result"]["isError"] is True


async def test_an_answer_counts_in_the_session_that_was_asked_only(peer: Peer, settings: Settings) -> None:
    """X-SEC-08, X-SEC-15."""
    async with serving(engine, settings) as stranger:
        await stranger.initialize(capabilities=ALL)
        async with peer.stream("tools/call", call_params("ask_name")) as stream:
            question = await stream.next()
            assert (await stranger.answer(question, accept(name="Eve"))).refused == (400, -32600)
            await peer.answer(question, accept(name="Ada"))
            assert (await stream.next())["result"]["content"][0]["text"] == "Hello, Ada!"


@pytest.mark.parametrize(
    ("version", "capabilities", "tool"),
    [
        ("2025-11-25", {}, "ask_name"),
        ("2025-11-25", FORMS, "ask_url"),
        ("2025-03-26", FORMS, "ask_name"),
        ("2025-06-18", ALL, "ask_url"),
    ],
)
async def test_only_what_was_negotiated_is_asked(
    newcomer: Peer, version: str, capabilities: dict[str, Any], tool: str
) -> None:
    """L-CAP-11, L-CAP-13, L-LIFE-05, X-ELIC-11."""
    await newcomer.initialize(version, capabilities)
    reply = await newcomer.call(tool)
    assert reply.result["isError"] is True
    assert "elicitation" in reply.text


async def test_an_older_revision_is_asked_in_its_own_words(newcomer: Peer) -> None:
    await newcomer.initialize("2025-06-18", FORMS)
    async with newcomer.stream("tools/call", call_params("ask_name")) as stream:
        question = await stream.next()
        assert "mode" not in question["params"]
        await newcomer.answer(question, accept(name="Ada"))
        assert (await stream.next())["result"]["content"][0]["text"] == "Hello, Ada!"


async def test_a_client_of_json_only_cannot_be_asked(peer: Peer) -> None:
    reply = await peer.send("tools/call", {"name": "ask_name"}, {"accept": "application/json"})
    assert reply.result["isError"] is True


async def test_a_question_that_needs_no_answer_any_more_is_taken_back(peer: Peer, hands: Hands) -> None:
    """L-LIFE-10, L-CANC-12."""
    task_id = await peer.begin("job")
    await hands.ask(await hands.take(), form("a"))
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        question = await stream.next()
        await peer.send("tasks/cancel", {"taskId": task_id})
        told = await stream.next()
        assert told["method"] == "notifications/cancelled"
        assert told["params"]["requestId"] == question["id"]
        assert (await stream.next())["error"]["code"] == -32800
    assert (await peer.answer(question, accept(ok=True))).status == 202


async def test_a_question_to_another_client_is_not_put_to_one_who_did_not_declare_it(
    peer: Peer, hands: Hands, settings: Settings
) -> None:
    task_id = await peer.begin("job")
    await hands.ask(await hands.take(), form("a"))
    async with serving(engine, settings) as plain:
        await plain.initialize()
        waiting = asyncio.create_task(plain.result(task_id))
        await asyncio.sleep(0.3)
        async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
            await peer.answer(await stream.next(), accept(ok=True))
        await hands.complete(await hands.take(), "both")
        assert (await waiting).text == "both"


async def test_answers_that_never_fit_end_the_question(peer: Peer, hands: Hands) -> None:
    """L-ELIC-31, X-ELIC-15: no task waits for ever for a client that cannot answer."""
    task_id = await peer.begin("confirm")
    await hands.run(engine)
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        for _ in range(3):
            question = await stream.next()
            assert question["method"] == "elicitation/create"
            assert (await peer.answer(question, {"action": "accept", "content": {"ok": "perhaps"}})).status == 400
        await hands.run(engine)
        assert (await stream.next())["result"]["content"][0]["text"] == "cancel None"


async def test_samples_that_never_fit_are_an_error_in_the_tool(peer: Peer, hands: Hands) -> None:
    """L-SAMP-12."""
    task_id = await peer.begin("sample")
    await hands.run(engine)
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        for _ in range(3):
            assert (await peer.answer(await stream.next(), {"role": "nobody"})).status == 400
        await hands.run(engine)
        assert (await stream.next())["result"]["isError"] is True


async def test_a_question_that_went_to_another_stream_meanwhile_is_taken_back(
    peer: Peer, hands: Hands, database_url: str
) -> None:
    """A-26, L-TRANS-18: the user is not asked twice at once."""
    task_id = await peer.begin("job")
    await hands.ask(await hands.take(), form("a"))
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        question = await stream.next()
        await execute(
            database_url,
            "UPDATE inputs SET offered_to = 'another', offered_until = clock_timestamp() + interval '1 hour'",
        )
        told = await stream.next(15)
        assert told["method"] == "notifications/cancelled"
        assert told["params"]["requestId"] == question["id"]
        assert (await peer.answer(question, accept(ok=True))).status == 202  # the first answer wins all the same
    assert (await peer.get(task_id))["status"] == "working"


async def test_a_page_has_one_name_however_often_it_is_asked_for(both: tuple[Peer, Peer], hands: Hands) -> None:
    """L-ELIC-20, D-29."""
    peer, other = both
    task_id = await peer.begin("job")
    page = Question("pay", "elicitation/create", {"mode": "url", "message": "Pay", "url": "https://pay.example/1"})
    await hands.ask(await hands.take(), page)
    asked = []
    for each in (peer, other):
        async with each.stream("tasks/result", {"taskId": task_id}) as stream:
            asked.append(await stream.next())
    assert asked[0]["id"] != asked[1]["id"]
    names = [each["params"]["elicitationId"] for each in asked]
    assert names[0] == names[1]
    assert task_id not in names[0]
    await peer.answer(asked[1], {"action": "accept"})


async def test_a_tool_that_needs_pages_first_says_which(peer: Peer) -> None:
    """L-ELIC-22: each has its `elicitationId`; the code is used for nothing else."""
    reply = await peer.call("need_page")
    assert (reply.status, reply.error["code"]) == (200, -32042)
    check("URLElicitationRequiredError", reply.body, DOCUMENT)
    pages = reply.error["data"]["elicitations"]
    assert [page["url"] for page in pages] == ["https://a.example/", "https://b.example/"]
    assert len({page["elicitationId"] for page in pages}) == 2
    assert (await peer.call("fail", {"kind": "reserved"})).refused == (200, -32603)


@pytest.mark.parametrize("data", [None, {}, {"elicitations": []}, {"elicitations": [{"url": 1, "message": "x"}]}])
def test_pages_that_are_none_are_an_internal_error(data: Any) -> None:
    """L-ELIC-22."""
    assert legacy.stored_error(json.dumps({"code": -32042, "message": "First", "data": data})).code == -32603


async def test_questions_are_not_made_tasks_of_the_client(newcomer: Peer, hands: Hands) -> None:
    """L-TASK-41, which is left out: a question is a row here already, and is put again when its stream breaks."""
    tasks = {"requests": {"elicitation": {"create": {}}, "sampling": {"createMessage": {}}}}
    await newcomer.initialize(capabilities={**ALL, "tasks": tasks})
    task_id = await newcomer.begin("confirm")
    await hands.run(engine)
    async with newcomer.stream("tasks/result", {"taskId": task_id}) as stream:
        question = await stream.next()
        assert "task" not in question["params"]
        made = {"task": {"taskId": "c1", "status": "working", "createdAt": "", "lastUpdatedAt": "", "ttl": None}}
        assert (await newcomer.answer(question, made)).status == 400
        await newcomer.answer(await stream.next(), accept(ok=True))
    await hands.run(engine)
    assert (await newcomer.result(task_id)).text == "accept True"


async def test_an_answer_to_a_task_that_cannot_be_read_is_refused_with_a_sentence(
    peer: Peer, hands: Hands, settings: Settings
) -> None:
    task_id = await peer.begin("job")
    await hands.ask(await hands.take(), form("a"))
    url = settings.database_url.get_secret_value()
    async with peer.stream("tasks/result", {"taskId": task_id}) as stream:
        question = await stream.next()
        (before,) = await execute(url, "SELECT params FROM inputs WHERE task_id = $1", task_id)
        await execute(url, "UPDATE inputs SET params = $2 WHERE task_id = $1", task_id, f"{MARK}00000000:AAAA")
        reply = await peer.answer(question, accept(ok=True))
        await execute(url, "UPDATE inputs SET params = $2 WHERE task_id = $1", task_id, before["params"])
    assert reply.status == 500
    assert reply.error["message"].startswith("The server cannot read this task for now")
