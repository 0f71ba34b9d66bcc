"""Refusals and their order, codes and words (requirements 1.2, 1.5, 1.7, 1.13 and 1.23)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from taskengine import DeclarationError
from taskengine.declaration import make_tool
from taskengine.errors import InvalidArguments
from taskengine.settings import Settings
from tests.processes import ROOT
from tests.requirements.conftest import Front
from tests.server.peer import EXTENSION, Hands

VERSION = {"mcp-protocol-version": "2026-07-28"}
JSON = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


async def test_an_error_is_one_short_sentence_that_says_what_to_do(front: Front, hands: Hands) -> None:
    """X-BASE-05, X-BASE-06, M-TASK-67, L-TASK-66."""
    peer, session = await front.modern(), await front.legacy()
    odd: Any = {"_meta": []}
    replies: list[Any] = [
        await peer.get("tsk_none"),
        await peer.send("tasks/get", {"taskId": "tsk_1"}),
        await peer.send("tasks/update", {"taskId": "tsk_1"}, capabilities=EXTENSION),
        await peer.send("tasks/list"),
        await peer.send("tools/list", {"cursor": "x"}),
        await peer.send("subscriptions/listen"),
        await peer.send("tools/list", headers={"mcp-method": "tools/call"}),
        await peer.call("nonsense"),
        await peer.call("greet", requestState="forged", capabilities={"elicitation": {}}, inputResponses={}),
        await peer.post("{", JSON | VERSION),
        await peer.post("[]", JSON | VERSION),
        await session.send("tasks/get", {"taskId": "tsk_none"}),
        await session.send("tasks/list", {"cursor": "x"}),
        await session.send("tools/call", odd),
        await session.call("greet", task={}),
        await session.call("job", task=5),
        await session.send("logging/setLevel", {"level": "loud"}),
        await session.send("ping", headers={"mcp-session-id": None}),
        await session.send("initialize", {"protocolVersion": 5}),
    ]
    for reply in (each for each in replies if "error" in each.body):
        assert type(reply.error["code"]) is int
        assert 10 < len(reply.error["message"]) <= 250, reply.error
        assert len(reply.error["message"].splitlines()) == 1
    assert sum("error" in each.body for each in replies) >= len(replies) - 1
    for unknown in (replies[0], replies[11]):
        assert "unknown or expired" in unknown.error["message"].lower()


def test_our_own_codes_are_outside_the_reserved_range() -> None:
    """M-BASE-13, M-BASE-15: what is taken from within it has its defined meaning, or is named to be kept away."""
    defined = {-32700, -32600, -32601, -32602, -32603, -32020, -32021, -32022}
    kept_away = {-32768, -32000, -32002, -32042, -32099, -32019}
    sources = "".join(path.read_text() for path in (ROOT / "taskengine").rglob("*.py"))
    written = {int(found.replace("_", "")) for found in re.findall(r"-3[1-3]_?\d{3}\b", sources)}
    assert defined <= written
    assert {code for code in written - defined - kept_away if -32768 <= code <= -32000} == set()


async def test_a_message_that_cannot_be_accepted_is_refused_without_an_id(front: Front) -> None:
    """M-TRANS-10, M-TRANS-13, X-TRANS-11, A-18."""
    peer = await front.modern()
    refused: list[tuple[Any, int]] = [
        ([], -32600),
        ([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], -32600),
        ({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": []}, -32600),
        ({"jsonrpc": "2.0", "method": 5}, -32600),
        ({"jsonrpc": "1.0", "method": "notifications/cancelled"}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, -32600),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, -32600),
    ]
    for message, code in refused:
        reply = await peer.post(json.dumps(message), JSON | VERSION)
        assert reply.refused == (400, code), message
        if not isinstance(message, dict) or "result" in message or message.get("id") is None:
            assert "id" not in reply.body


async def test_large_headers_are_refused_before_anything_is_read(front: Front) -> None:
    """X-TRANS-28, X-TRANS-29."""
    peer = await front.modern()
    large = {"mcp-param-region": "=?base64?" + "!" * 40_000}
    assert (await peer.post("{not json", JSON | VERSION | large)).status == 431
    page = (ROOT / "docs" / "bad-input.md").read_text()
    assert all(status in page for status in ("431", "413"))


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_a_name_that_differs_from_the_task_is_refused_before_the_task_is_touched(
    front: Front, hands: Hands, method: str
) -> None:
    """M-HDR-05, M-HDR-06, A-11."""
    peer = await front.modern()
    task_id = (await peer.call("report", tasks=True)).result["taskId"]
    params = {"taskId": task_id, "inputResponses": {}}
    for name in ("tsk_other", task_id.upper(), None):
        reply = await peer.send(method, params, capabilities=EXTENSION, headers={"mcp-name": name})
        assert reply.refused == (400, -32020)
    assert [row.status for row in await hands.rows()] == ["working"]


def test_a_server_is_reachable_from_its_own_machine_only_unless_told_otherwise() -> None:
    """X-TRANS-05."""
    assert Settings.model_fields["host"].default == "127.0.0.1"


DIALECTS = {
    "4": "http://json-schema.org/draft-04/schema#",
    "6": "http://json-schema.org/draft-06/schema#",
    "7": "http://json-schema.org/draft-07/schema#",
    "2019-09": "https://json-schema.org/draft/2019-09/schema",
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
}


def test_the_dialects_that_are_documented_are_read() -> None:
    """X-JS-03."""

    def tool() -> None:
        """Do nothing."""

    page = (ROOT / "docs" / "bad-input.md").read_text()
    (listed,) = re.findall(r"draft ([\w\s,-]+) or ([\d-]+), which", page)
    assert [name.strip() for name in f"{listed[0]},{listed[1]}".split(",")] == list(DIALECTS)
    for address in DIALECTS.values():
        make_tool(tool, input_schema={"$schema": address, "type": "object"})


def test_a_schema_is_read_in_its_dialect_and_in_2020_12_by_default() -> None:
    """X-JS-01, X-JS-02. `prefixItems` came with 2020-12; before, a list under `items` meant that."""
    pair = [{"type": "string"}, {"type": "integer"}]

    def tool(a: Any) -> None:
        """Take a pair."""

    def schema(**keywords: Any) -> dict[str, Any]:
        dialect = {"$schema": keywords.pop("dialect")} if "dialect" in keywords else {}
        return {**dialect, "type": "object", "properties": {"a": {"type": "array", **keywords}}}

    older = "http://json-schema.org/draft-07/schema#"
    for right in (schema(prefixItems=pair), schema(items=pair, dialect=older)):
        made = make_tool(tool, input_schema=right)
        made.check_arguments({"a": ["x", 1]})
        with pytest.raises(InvalidArguments):
            made.check_arguments({"a": ["x", "y"]})
    make_tool(tool, input_schema=schema(prefixItems=pair, dialect=older)).check_arguments({"a": [1, "y"]})
    for wrong in (schema(items=pair), schema(dialect="https://json-schema.org/draft/2099-01/schema")):
        with pytest.raises(DeclarationError):
            make_tool(tool, input_schema=wrong)
