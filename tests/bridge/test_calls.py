"""A call of a host without tasks ends within the bound, with the result or with the name of the task."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from taskengine import TaskEngine
from taskengine.bridge import HANDLE_TOOLS, listed
from taskengine.errors import DeclarationError
from taskengine.schema import Schema
from taskengine.server import create_app
from taskengine.settings import Settings
from taskengine.wire.meta import IDEMPOTENCY_KEY
from tests.bridge.tools import engine
from tests.legacy.peer import serving as connected
from tests.server.peer import EXTENSION, Hands, Peer, Reply, accept, front_end, peer_of, serving

FORMS: dict[str, Any] = {"elicitation": {}}


@pytest.fixture
def endless(settings: Settings) -> Settings:
    """Calls outlast the time limit of a test, unless something else is said."""
    return settings.model_copy(update={"inline_wait": timedelta(hours=1)})


def handle(reply: Reply) -> dict[str, Any]:
    """What the result says of the task: an ordinary result, which names it in its text as well."""
    assert reply.result["resultType"] == "complete"
    assert "isError" not in reply.result
    state: dict[str, Any] = reply.result["structuredContent"]
    assert state["task_id"] in reply.text
    return state


async def test_a_call_that_ends_within_the_bound_gives_its_plain_result(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("job", {"n": 3}))
    await hands.run(engine)
    reply = await calling
    assert reply.text == "did 3"
    assert "structuredContent" not in reply.result


async def test_past_the_bound_the_call_names_the_task_and_says_what_to_do(peer: Peer, hands: Hands) -> None:
    reply = await peer.call("job")
    state = handle(reply)
    assert state["status"] == "working"
    assert state["next"] == "task_wait"
    assert "task_wait" in reply.text
    assert len(reply.text) < 300
    assert (await hands.rows())[0].id == state["task_id"]


async def test_a_required_tool_is_bridged_unless_it_says_otherwise(peer: Peer, hands: Hands) -> None:
    assert handle(await peer.call("report"))["tool"] == "report"
    refused = await peer.call("strict")
    assert refused.refused == (400, -32021)
    assert refused.error["data"]["requiredCapabilities"] == EXTENSION
    assert len(await hands.rows()) == 1


async def test_a_tool_says_how_long_its_calls_wait(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("patient"))
    claim = await hands.take()
    await asyncio.sleep(0.8)
    await hands.complete(claim, "worth it")
    assert (await calling).text == "worth it"


async def test_a_tool_says_that_its_calls_do_not_wait(endless: Settings, hands: Hands) -> None:
    async with serving(engine, endless) as peer:
        handle(await peer.call("impatient"))


async def test_the_address_of_a_host_says_how_long_it_allows(peer: Peer, hands: Hands) -> None:
    peer.url = f"{peer.url}?inline_wait=900ms"
    begun = time.monotonic()
    handle(await peer.call("job"))
    assert time.monotonic() - begun > 0.8


async def test_the_address_of_a_host_may_allow_less(endless: Settings, hands: Hands) -> None:
    async with serving(engine, endless) as peer:
        peer.url = f"{peer.url}?inline_wait=100ms"
        handle(await peer.call("job"))


@pytest.mark.parametrize("query", ["inline_wait=soon", "x=1"])
async def test_what_an_address_says_that_is_no_bound_changes_nothing(peer: Peer, hands: Hands, query: str) -> None:
    peer.url = f"{peer.url}?{query}"
    handle(await peer.call("job"))


async def test_of_the_bounds_of_tool_and_host_the_shorter_holds(endless: Settings, hands: Hands) -> None:
    async with serving(engine, endless) as peer:
        endpoint = peer.url
        peer.url = f"{endpoint}?inline_wait=1h"
        handle(await peer.call("impatient"))
        peer.url = f"{endpoint}?inline_wait=200ms"
        handle(await peer.call("lasting"))


def test_by_default_a_call_ends_before_the_least_patient_host_gives_up() -> None:
    assert timedelta(seconds=20) <= Settings.model_fields["inline_wait"].default < timedelta(seconds=30)


async def test_a_client_with_tasks_is_not_bridged(peer: Peer, hands: Hands) -> None:
    assert (await peer.call("job", tasks=True)).result["resultType"] == "task"


async def test_without_the_tools_calls_stay_open_to_their_end(settings: Settings, hands: Hands) -> None:
    plain = settings.model_copy(update={"handle_tools": "none"})
    async with serving(engine, plain) as peer:
        listed = [tool["name"] for tool in (await peer.send("tools/list")).result["tools"]]
        assert listed == list(engine.tools)
        assert (await peer.call("task_list")).refused == (400, -32602)
        assert (await peer.call("report")).refused == (400, -32021)
        calling = asyncio.create_task(peer.call("job"))
        claim = await hands.take()
        await asyncio.sleep(0.8)
        await hands.complete(claim, "at last")
        assert (await calling).text == "at last"


async def test_the_tools_are_listed_after_those_of_the_application(peer: Peer) -> None:
    listed = (await peer.send("tools/list")).result["tools"]
    assert [tool["name"] for tool in listed] == [*engine.tools, *HANDLE_TOOLS]
    assert all("outputSchema" not in tool for tool in listed[-4:])


@pytest.mark.parametrize(("setting", "host", "there"), [
    ("auto", "127.0.0.1", True), ("auto", "0.0.0.0", False), ("all", "127.0.0.1", True), ("all", "0.0.0.0", False),
    ("without_list", "::1", False),
])  # fmt: skip
async def test_everybodys_tasks_are_listed_only_where_all_callers_are_one(
    settings: Settings, setting: str, host: str, there: bool
) -> None:
    chosen = settings.model_copy(update={"handle_tools": setting, "host": host})
    async with serving(engine, chosen) as peer:
        listed = [tool["name"] for tool in (await peer.send("tools/list")).result["tools"]]
        assert ("task_list" in listed) is there
        assert "task_wait" in listed
        assert ((await peer.call("task_list")).status == 200) is there


async def test_the_result_that_names_a_task_fits_the_listed_output_schema(peer: Peer, hands: Hands) -> None:
    schemas = {tool["name"]: tool.get("outputSchema") for tool in (await peer.send("tools/list")).result["tools"]}
    assert schemas["report"]["type"] == "object"
    assert "type" not in schemas["names"]
    for name in ("report", "tree", "names"):
        schema = Schema(schemas[name], name)
        assert schema.problems(handle(await peer.call(name))) == []
        calling = asyncio.create_task(peer.call(name))
        for _ in await hands.rows("phase = 'queued'"):
            await hands.run(engine)
        result = (await calling).result["structuredContent"]
        assert schema.problems(result) == []
        assert schema.problems([1] if name == "names" else {"name": ["x"]}) != []


def test_schemas_that_refer_to_their_root_still_mean_the_same() -> None:
    own = TaskEngine("own")
    document = {"type": "object", "properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}}, "required": ["n"]}

    @own.tool(output_schema=document)
    async def chain() -> dict[str, Any]:
        """Return a chain."""
        return {"n": 1}

    schema = Schema(listed(own.tools["chain"]).output_schema or {}, "chain")
    assert schema.problems({"n": 1, "next": {"n": 2}}) == []
    assert schema.problems({"n": 1, "next": {"n": "x"}}) != []
    assert schema.problems({"task_id": "tsk_1"}) == []


async def test_a_question_goes_by_input_required_where_the_host_can_ask(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("confirm", capabilities=FORMS))
    await hands.run(engine)
    asked = await calling
    assert set(asked.result["inputRequests"]) == {"sure"}
    retry = {
        "capabilities": FORMS,
        "inputResponses": {"sure": accept(ok=True)},
        "requestState": asked.result["requestState"],
    }
    state = handle(await peer.call("confirm", **retry))
    await hands.run(engine)
    assert (await peer.call("task_wait", {"task_id": state["task_id"]})).text == "accept True"
    assert len(await hands.rows()) == 1


async def test_a_question_goes_to_the_model_where_the_host_cannot_ask(peer: Peer, hands: Hands) -> None:
    calling = asyncio.create_task(peer.call("confirm"))
    await hands.run(engine)
    reply = await calling
    state = handle(reply)
    assert state["status"] == "input_required"
    assert state["next"] == "task_answer"
    assert state["questions"]["sure"]["message"] == "Sure?"
    assert "sure: Sure?" in reply.text
    answered = await peer.call("task_answer", {"task_id": state["task_id"], "answers": {"sure": {"ok": True}}})
    assert handle(answered)["next"] == "task_wait"
    await hands.run(engine)
    assert (await peer.call("task_wait", {"task_id": state["task_id"]})).text == "accept True"


async def test_a_model_cannot_stand_in_for_a_capability_the_host_lacks(settings: Settings, hands: Hands) -> None:
    """With its HTTP status, as long as no comment has begun the stream (M-TRANS-26)."""
    quiet = settings.model_copy(update={"keep_alive": timedelta(seconds=15), "inline_wait": timedelta(seconds=15)})
    async with serving(engine, quiet) as peer:
        calling = asyncio.create_task(peer.call("sampled"))
        await hands.run(engine)
        reply = await calling
    assert reply.refused == (400, -32021)
    assert reply.error["data"]["requiredCapabilities"] == {"sampling": {}}


async def test_the_same_call_joins_the_task_that_runs_for_it(peer: Peer, hands: Hands, settings: Settings) -> None:
    async with serving(engine, settings) as other:
        first, again = await asyncio.gather(peer.call("shared", {"n": 2}), other.call("shared", {"n": 2}))
        assert handle(first)["task_id"] == handle(again)["task_id"]
        assert handle(await peer.call("shared", {"n": 3}))["task_id"] != handle(first)["task_id"]
        await hands.run(engine)
        await hands.run(engine)
        calling = asyncio.create_task(peer.call("shared", {"n": 2}))
        await hands.run(engine)
        assert (await calling).text == "shared 2"
    assert len(await hands.rows()) == 3, "a task that has ended is not joined"


async def test_a_call_is_not_joined_where_the_tool_does_not_say_so(peer: Peer, hands: Hands) -> None:
    first, again = await peer.call("job"), await peer.call("job")
    assert handle(first)["task_id"] != handle(again)["task_id"]


async def test_a_stopping_front_end_lets_its_client_go_on_elsewhere(settings: Settings, hands: Hands) -> None:
    long = settings.model_copy(update={"inline_wait": timedelta(seconds=30)})
    async with serving(engine, long) as other:
        async with front_end(create_app(engine, long)) as running, peer_of(running) as peer:
            begun = asyncio.create_task(peer.call("job"))
            claim = await hands.take()
            waiting = asyncio.create_task(peer.call("task_wait", {"task_id": claim.task_id}))
            await asyncio.sleep(0.3)
            await running.stop()
            assert handle(await waiting)["status"] == "working"
            assert (await begun).result["resultType"] == "input_required"
        calling = asyncio.create_task(other.call("task_wait", {"task_id": claim.task_id}))
        await hands.complete(claim, "kept")
        assert (await calling).text == "kept"


@pytest.mark.parametrize("name", list(HANDLE_TOOLS))
def test_their_names_are_reserved(name: str) -> None:
    own = TaskEngine("own")
    with pytest.raises(DeclarationError, match=name):

        @own.tool(name=name)
        async def mine() -> str:
            """Mine."""
            return ""


def test_a_tool_without_tasks_needs_no_bridge() -> None:
    own = TaskEngine("own")
    for option in ({"inline_wait": "5s"}, {"dedupe": True}):
        with pytest.raises(DeclarationError, match=next(iter(option))):

            @own.tool(task="forbidden", **option)
            async def direct() -> str:
                """Direct."""
                return ""


async def test_a_call_with_a_key_joins_no_other_and_is_found_by_its_key(
    peer: Peer, hands: Hands, settings: Settings
) -> None:
    """Also after the task has ended that it might have joined, and on both wires."""
    meta = {"name": "shared", "arguments": {"n": 2}, "_meta": {IDEMPOTENCY_KEY: "k2"}}
    await peer.call("shared", {"n": 2})
    await peer.call("shared", {"n": 2}, meta={IDEMPOTENCY_KEY: "k1"})
    async with connected(engine, settings) as older:
        await older.initialize()
        await older.send("tools/call", meta)
        assert len(await hands.rows()) == 3
        for _ in range(3):
            await hands.run(engine)
        assert (await peer.call("shared", {"n": 2}, meta={IDEMPOTENCY_KEY: "k1"})).text == "shared 2"
        assert (await older.send("tools/call", meta)).text == "shared 2"
        assert (await older.send("tools/call", {**meta, "arguments": {"n": 3}})).error["code"] == -32602
    assert len(await hands.rows()) == 3
