"""Translation of the 2026-07-28 wire, held against the published schemas (requirements 1.3, 1.4, 1.12 to 1.20)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskengine import Context, TaskEngine
from taskengine.lifecycle import Phase, Status
from taskengine.records import Question, TaskRecord
from taskengine.wire import modern
from taskengine.wire.jsonrpc import Request, RpcError, dumps, error_response, result_response
from tests.wire.schemas import TASKS, check

engine = TaskEngine(
    "reports", version="3", title="Reports", instructions="Ask for one.", website_url="https://example.org"
)


@engine.tool(title="Build", annotations={"readOnlyHint": True}, meta={"example.org/kind": "slow"})
async def build(dataset: str, ctx: Context, deep: bool = False) -> dict[str, int]:
    """Builds it."""
    return {}


@engine.tool(task="forbidden")
def now() -> str:
    """The time."""
    return ""


META = modern.identity(engine)
FORM = Question(
    "elicit-1",
    "elicitation/create",
    {
        "mode": "form",
        "message": "How much?",
        "requestedSchema": {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]},
    },
)
SAMPLE = Question(
    "sample-1",
    "sampling/createMessage",
    {"messages": [{"role": "user", "content": {"type": "text", "text": "Hi"}}], "maxTokens": 100},
)
ROOTS = Question("roots-1", "roots/list", {})
BEGAN = datetime(2026, 11, 22, 12, 0, 0, 125_000, tzinfo=UTC)


def record(status: Status = Status.WORKING, *, age: float = 60.0, **fields: Any) -> TaskRecord:
    phases = {Status.WORKING: Phase.RUNNING, Status.INPUT_REQUIRED: Phase.WAITING}
    known: dict[str, Any] = {
        "id": "tsk_1",
        "tool": "build",
        "status": status,
        "phase": phases.get(status, Phase.DONE),
        "attempt": 1,
        "status_message": "Running",
        "progress": None,
        "progress_total": None,
        "progress_message": None,
        "result": None,
        "is_error": False,
        "error": None,
        "created_at": BEGAN,
        "updated_at": BEGAN,
        "now": BEGAN + timedelta(seconds=age),
        "ttl_ms": 86_400_000,
        "poll_interval_ms": 30_000,
    }
    return TaskRecord(**known | fields)


def sent(value: Any) -> Any:
    return json.loads(dumps(value))


def request(meta: Any, **params: Any) -> Request:
    return Request(1, "tools/list", {**params, "_meta": meta})


def envelope(**more: Any) -> modern.Envelope:
    return modern.read_envelope(request({modern.VERSION_KEY: "2026-07-28", modern.CAPABILITIES_KEY: {}, **more}))


# the envelope


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"_meta": None},
        {"_meta": []},
        {"_meta": {modern.VERSION_KEY: "2026-07-28"}},
        {"_meta": {modern.CAPABILITIES_KEY: {}}},
        {"_meta": {modern.VERSION_KEY: 5, modern.CAPABILITIES_KEY: {}}},
        {"_meta": {modern.VERSION_KEY: "2026-07-28", modern.CAPABILITIES_KEY: []}},
        {"_meta": {modern.VERSION_KEY: "2026-07-28", modern.CAPABILITIES_KEY: {}, "progressToken": 1.5}},
        {"_meta": {modern.VERSION_KEY: "2026-07-28", modern.CAPABILITIES_KEY: {}, "progressToken": True}},
        {"_meta": {modern.VERSION_KEY: "2026-07-28", modern.CAPABILITIES_KEY: {}, modern.LOG_LEVEL_KEY: "loud"}},
    ],
)
def test_an_incomplete_or_malformed_envelope_is_invalid_params(params: dict[str, Any] | None) -> None:
    with pytest.raises(RpcError) as caught:
        modern.read_envelope(Request(1, "tools/list", params))
    assert caught.value.code == -32602
    assert modern.http_status(caught.value.code) == 400


def test_client_info_is_optional_and_unknown_keys_are_no_fault() -> None:
    assert envelope(**{"example.org/x": 1, "traceparent": "nonsense"}).capabilities == {}


@pytest.mark.parametrize("token", ["t", 7, 0, ""])
def test_a_progress_token_is_kept_with_its_type(token: str | int) -> None:
    assert envelope(progressToken=token).progress_token == token


@pytest.mark.parametrize(
    ("capabilities", "declared"),
    [
        ({}, False),
        ({"tasks": {"list": {}}}, False),
        ({"extensions": {}}, False),
        ({"extensions": {modern.TASKS: None}}, False),
        ({"extensions": []}, False),
        ({"extensions": {modern.TASKS: {}}}, True),
        ({"extensions": {modern.TASKS: {"unknown": 1}}}, True),
    ],
)
def test_only_the_extension_on_the_request_declares_tasks(capabilities: Any, declared: bool) -> None:
    assert envelope(**{modern.CAPABILITIES_KEY: capabilities}).declares_tasks is declared


# results


def test_discover_says_what_is_served() -> None:
    result = sent(modern.discover_result(engine, ["2026-07-28"], timedelta(minutes=1), META))
    check("DiscoverResult", result)
    assert result["supportedVersions"] == ["2026-07-28"]
    assert result["capabilities"] == {
        "tools": {"listChanged": True},
        "logging": {},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    }
    assert result["ttlMs"] == 60_000
    assert result["cacheScope"] == "public"
    assert result["instructions"] == "Ask for one."
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"] == {
        "name": "reports",
        "version": "3",
        "title": "Reports",
        "websiteUrl": "https://example.org",
    }
    assert "serverInfo" not in result


def test_tools_are_listed_in_order_with_their_schemas_as_they_are() -> None:
    result = sent(modern.list_tools_result(engine.tools.values(), timedelta(0), META))
    check("ListToolsResult", result)
    assert [tool["name"] for tool in result["tools"]] == ["build", "now"]
    first = result["tools"][0]
    assert first["inputSchema"] == engine.tools["build"].input_schema
    assert first["annotations"] == {"readOnlyHint": True}
    assert first["_meta"] == {"example.org/kind": "slow"}
    assert "execution" not in first
    assert result["ttlMs"] == 0
    assert "nextCursor" not in result


def test_a_call_result_is_the_stored_text_with_what_this_wire_adds() -> None:
    text = '{"content":[{"type":"text","text":"ä"}],"structuredContent":[1,2],"isError":true}'
    result = sent(modern.call_result(text, META))
    check("CallToolResult", result)
    assert result == {"resultType": "complete", "_meta": META, **json.loads(text)}


def test_the_tools_own_meta_is_kept_beside_ours() -> None:
    text = '{"content":[],"structuredContent":{"_meta":1},"_meta":{"example.org/a":123456789012345678901}}'
    result = sent(modern.call_result(text, META))
    assert result["structuredContent"] == {"_meta": 1}
    assert set(result["_meta"]) == {"example.org/a", modern.SERVER_INFO_KEY}
    inner = '{"content":[],"structuredContent":{"_meta":1}}'
    assert sent(modern.call_result(inner, META))["_meta"] == META


ENDED: dict[Status, dict[str, Any]] = {
    Status.WORKING: {},
    Status.INPUT_REQUIRED: {"open_questions": (FORM, SAMPLE, ROOTS)},
    Status.COMPLETED: {"result": '{"content":[],"isError":true}', "is_error": True},
    Status.FAILED: {"error": '{"code":1234,"message":"No.","data":{"why":[1]}}'},
    Status.CANCELLED: {},
}


@pytest.mark.parametrize("status", list(Status))
def test_a_created_task_is_flat_and_bare_in_every_status(status: Status) -> None:
    result = sent(modern.create_task_result(record(status, **ENDED[status]), META))
    check("CreateTaskResult", result, TASKS)
    assert result["resultType"] == "task"
    assert set(result) <= {
        "resultType", "taskId", "status", "statusMessage", "createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs",
        "_meta",
    }  # fmt: skip


@pytest.mark.parametrize("status", list(Status))
def test_a_task_read_has_what_its_status_has_and_nothing_else(status: Status) -> None:
    result = sent(modern.get_task_result(record(status, **ENDED[status]), META))
    check("GetTaskResult", result, TASKS)
    assert result["resultType"] == "complete"
    assert {"result", "error", "inputRequests"} & set(result) == {
        Status.INPUT_REQUIRED: {"inputRequests"},
        Status.COMPLETED: {"result"},
        Status.FAILED: {"error"},
    }.get(status, set())
    assert "requestState" not in result
    assert result["createdAt"] == "2026-11-22T12:00:00.125000Z"
    assert type(result["ttlMs"]) is int
    assert "ttl" not in result
    assert "pollInterval" not in result


def test_the_inlined_result_is_what_the_call_would_have_returned() -> None:
    result = sent(modern.get_task_result(record(Status.COMPLETED, **ENDED[Status.COMPLETED]), META))
    assert result["result"] == {"resultType": "complete", "content": [], "isError": True}
    check("CallToolResult", result["result"])


def test_the_inlined_error_is_the_one_the_call_ended_with() -> None:
    result = sent(modern.get_task_result(record(Status.FAILED, **ENDED[Status.FAILED]), META))
    assert result["error"] == {"code": 1234, "message": "No.", "data": {"why": [1]}}


def test_questions_are_requests_without_ids() -> None:
    result = sent(modern.get_task_result(record(Status.INPUT_REQUIRED, open_questions=(FORM, ROOTS)), META))
    assert result["inputRequests"] == {
        "elicit-1": {"method": "elicitation/create", "params": dict(FORM.params)},
        "roots-1": {"method": "roots/list", "params": {}},
    }


@pytest.mark.parametrize(
    ("age", "ceiling", "interval"),
    [(0.0, 30_000, 20), (10.0, 30_000, 1_000), (3600.0, 5_000, 5_000), (1e6, 1e6, 30_000)],
)
def test_the_poll_interval_grows_with_age_up_to_its_ceiling(age: float, ceiling: int, interval: int) -> None:
    assert modern.get_task_result(record(age=age, poll_interval_ms=ceiling), META)["pollIntervalMs"] == interval


def test_questions_before_a_task_are_an_input_required_result() -> None:
    result = sent(modern.input_required_result([FORM, SAMPLE], "sealed", META))
    check("InputRequiredResult", result)
    assert result["resultType"] == "input_required"
    assert set(result["inputRequests"]) == {"elicit-1", "sample-1"}
    assert "taskId" not in result
    assert "ttlMs" not in result
    again = sent(modern.input_required_result([], "sealed", META))
    check("InputRequiredResult", again)
    assert "inputRequests" not in again


def test_acknowledgements_carry_nothing_but_who_answers() -> None:
    assert sent(modern.complete(META)) == {"resultType": "complete", "_meta": META}


# errors


@pytest.mark.parametrize(
    ("code", "status"),
    [(-32700, 400), (-32600, 400), (-32602, 400), (-32020, 400), (-32021, 400), (-32022, 400), (-32601, 404),
     (-32603, 200), (1234, 200), (-31000, 200)],
)  # fmt: skip
def test_every_code_has_its_http_status(code: int, status: int) -> None:
    assert modern.http_status(code) == status


@pytest.mark.parametrize("code", [-32002, -32042, -32020, -32021, -32022, -32050, -32099])
def test_reserved_and_dropped_codes_of_a_tool_never_go_out(code: int) -> None:
    error = modern.stored_error(json.dumps({"code": code, "message": "m", "data": [1]}))
    assert (error.code, error.message, error.data) == (-32603, "m", [1])


def test_a_missing_capability_of_a_call_goes_out_as_such() -> None:
    text = '{"code":-32021,"message":"m","data":{"requiredCapabilities":{"sampling":{}}}}'
    error = modern.stored_error(text)
    assert error.code == -32021
    check("MissingRequiredClientCapabilityError", sent(error_response(1, error)))


def test_the_refusal_without_the_extension_names_it_in_full() -> None:
    error = modern.missing_tasks()
    assert error.data == {"requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}
    check("MissingRequiredClientCapabilityError", sent(error_response("a", error)))


# notifications


def test_notifications_have_their_published_shapes() -> None:
    check("ProgressNotification", sent(modern.progress_notification("t", 1.5, 3, "half")))
    check("ProgressNotification", sent(modern.progress_notification(7, 1, None, None)))
    check("LoggingMessageNotification", sent(modern.message_notification("info", {"a": 1}, "mine")))
    check("SubscriptionsAcknowledgedNotification", sent(modern.acknowledged(7, {"toolsListChanged": True})))
    check("ToolListChangedNotification", sent(modern.tools_changed_notification("s")))
    check("SubscriptionsListenResult", sent(modern.listen_result(7, META)))
    check("SubscriptionsListenResultResponse", sent(result_response(7, modern.listen_result(7, META))))


@pytest.mark.parametrize("status", list(Status))
def test_a_task_notification_is_the_whole_task_with_the_subscription(status: Status) -> None:
    message = sent(modern.task_notification(7, record(status, **ENDED[status])))
    check("TaskStatusNotification", message, TASKS)
    assert message["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 7}
    task = sent(modern.get_task_result(record(status, **ENDED[status]), META))
    assert {**message["params"], "_meta": META, "resultType": "complete"} == task
