"""The bridge for hosts that know no tasks: what their models are told of a task, and the four tools that serve it.

A durable call of such a host stays open for a while. What is not done by then goes on as a task, and the call ends
with an ordinary result that names it. From there on the host needs nothing but `tools/call`. Pure, and neutral of any
wire: results are the neutral JSON text of `content`, and the front end does what the tools ask for (`server.handles`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from taskengine.content import encode_json, text_result
from taskengine.declaration import make_tool
from taskengine.durations import describe
from taskengine.lifecycle import Status
from taskengine.questions import ELICIT, ROOTS, SAMPLE
from taskengine.records import Question, TaskRecord
from taskengine.tool import Tool

if TYPE_CHECKING:
    from taskengine.settings import Settings

__all__ = [
    "HANDLE_TOOLS",
    "Action",
    "Answer",
    "Cancel",
    "List",
    "Wait",
    "after_answer",
    "after_cancel",
    "joined_by",
    "listed",
    "lists_tasks",
    "offered",
    "read_action",
    "read_answers",
    "refusal",
    "shown_list",
    "shown_state",
    "shown_to_others",
    "wait_of",
    "with_answers_by_model",
]

DECISIONS = ("accept", "decline", "cancel")
UNNAMED_MODEL = "unknown"
LIST = "task_list"
HANDLE_SCHEMA = {"type": "object", "properties": {"task_id": {"type": "string"}}, "required": ["task_id"]}
"""What structured content is when the call ended with a task instead of its own result."""


# what the four tools are asked for


@dataclass(frozen=True, slots=True)
class Wait:
    task_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    task_id: str
    answers: Mapping[str, Any]
    """As the model gave them, by key."""


@dataclass(frozen=True, slots=True)
class Cancel:
    task_id: str


@dataclass(frozen=True, slots=True)
class List:
    pass


Action = Wait | Answer | Cancel | List

TaskId = Annotated[str, Field(description="The task_id of the result that named the task.")]
Answers = Annotated[
    dict[str, Any],
    Field(description='By question key: an object with the form\'s fields, or "accept", "decline" or "cancel".'),
]


def task_wait(task_id: TaskId) -> Action:
    """Wait for a task and return its result. Call again while it runs; when it asks, ask the user, then task_answer."""
    return Wait(task_id)


def task_answer(task_id: TaskId, answers: Answers) -> Action:
    """Answer the open questions of a task with what the user said. Ask the user; never make up an answer."""
    return Answer(task_id, answers)


def task_cancel(task_id: TaskId) -> Action:
    """Stop a task for good. There will be no result."""
    return Cancel(task_id)


def task_list() -> Action:
    """List the tasks that are open or ended in the last hour, newest first: finds a task_id that was lost."""
    return List()


def _declared(function: Any, **hints: bool) -> Tool:
    return make_tool(function, task="forbidden", structured=False, annotations={"openWorldHint": False, **hints})


HANDLE_TOOLS: Mapping[str, Tool] = MappingProxyType(
    {
        tool.name: tool
        for tool in (
            _declared(task_wait, readOnlyHint=True),
            _declared(task_answer, readOnlyHint=False, destructiveHint=False),
            _declared(task_cancel, readOnlyHint=False, destructiveHint=True, idempotentHint=True),
            _declared(task_list, readOnlyHint=True),
        )
    }
)
"""The tools of the engine itself, by name. No application may declare one of these names."""


def read_action(tool: Tool, arguments: Mapping[str, Any]) -> Action:
    """What a call of one of the four asks for. Raises InvalidArguments."""
    tool.check_arguments(arguments)
    action: Action = tool.function(**tool.bind(arguments, None))
    return action


# policy


def offered(settings: Settings) -> Mapping[str, Tool]:
    """Those of the four that this front end offers; none when the setting hides them."""
    if settings.handle_tools == "none":
        return {}
    hidden = set() if lists_tasks(settings) else {LIST}
    return {name: tool for name, tool in HANDLE_TOOLS.items() if name not in hidden}


def lists_tasks(settings: Settings) -> bool:
    """Whether callers may list tasks, by `task_list` or by the protocol (L-TASK-04).

    Without authorization all callers are one owner, and a list shows everybody's: it is there only where they are one
    person, which `single_user` says where it cannot be known. `handle_tools` offers tools, and makes nobody known.
    """
    if settings.handle_tools == "without_list":
        return False
    return settings.authorized or settings.one_owner


def listed(tool: Tool) -> Tool:
    """The bridged tool as it is listed: its output schema allows for the result that names a task (X-TOOL-14)."""
    if tool.output_schema is None:
        return tool
    inner = dict(tool.output_schema)
    moves = "$id" not in inner and _only_definitions(inner)
    outer: dict[str, Any] = {key: inner.pop(key) for key in ("$schema", "$defs") if key in inner and moves}
    if not moves:
        inner = {"$id": f"urn:taskengine:{tool.name}", **inner}
    kind = {"type": "object"} if inner.get("type") == "object" else {}
    return replace(tool, output_schema={**outer, **kind, "anyOf": [inner, HANDLE_SCHEMA]})


def _only_definitions(schema: Any) -> bool:
    """Every reference in the schema leads into its `$defs`, and so goes on to do so when they move to a new root."""
    if isinstance(schema, Mapping):
        reference = schema.get("$ref", "#/$defs/")
        fits = not isinstance(reference, str) or reference.startswith("#/$defs/")
        return fits and "$dynamicRef" not in schema and all(_only_definitions(part) for part in schema.values())
    return not isinstance(schema, list) or all(_only_definitions(part) for part in schema)


def wait_of(tool: Tool, allowed: timedelta | None, settings: Settings) -> timedelta:
    """How long a call of `tool` stays open; `allowed` is what its host allows, where that is known."""
    if allowed is None:
        return settings.inline_wait if tool.inline_wait is None else tool.inline_wait
    return allowed if tool.inline_wait is None else min(tool.inline_wait, allowed)


def joined_by(tool: Tool, arguments: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    """What calls have in common that join each other's task while it runs; None when the tool's calls do not."""
    if not tool.dedupe:
        return None
    text = json.dumps([tool.name, arguments, first], sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode()).hexdigest()


def with_answers_by_model(declared: Mapping[str, Any]) -> dict[str, Any]:
    """The capabilities of a bridged call: `task_answer` can answer every elicitation, whatever the host declared."""
    return {**declared, "elicitation": {"form": {}, "url": {}}}


# results


def shown_state(record: TaskRecord) -> str:
    """What a model gets for the task: its result, or how it stands and what to do next."""
    match record.status:
        case Status.COMPLETED:
            assert record.result is not None
            return record.result
        case Status.FAILED:
            assert record.error is not None
            error = json.loads(record.error)
            return refusal(f"{record.tool} failed: {error['message']} ({error['code']})")
        case Status.CANCELLED:
            return refusal(f"{record.tool} was cancelled before it ended.")
        case Status.INPUT_REQUIRED:
            lines = "\n".join(_asked(question) for question in record.open_questions)
            text = (
                f"{record.tool} waits for answers (task_id {record.id}):\n{lines}\n"
                "Ask the user, then call task_answer with this task_id and the answers by key."
            )
            return _result(text, _state(record, "task_answer"))
        case _:
            text = (
                f"{record.tool} is still running{_how_far(record)}. To get its result, call task_wait with task_id "
                f"{record.id}. Do not call {record.tool} again for it."
            )
            return _result(text, _state(record, "task_wait"))


def shown_to_others(record: TaskRecord) -> str:
    """What a model gets for a task whose questions it may not answer."""
    lines = "\n".join(f"- {question.params.get('message', question.method)}" for question in record.open_questions)
    text = (
        f"{record.tool} waits for a person, who must answer by the client that began it:\n{lines}\n"
        f"Tell the user. Once it is answered, call task_wait with task_id {record.id}."
    )
    return _result(text, _state(record, "task_wait"))


def after_answer(record: TaskRecord, taken: int) -> str:
    """What a model gets for answers that were taken."""
    if record.status is Status.INPUT_REQUIRED:
        return shown_state(record)
    text = f"Answered ({taken}). {record.tool} goes on: call task_wait with task_id {record.id} for its result."
    return _result(text, _state(record, "task_wait"))


def after_cancel(record: TaskRecord) -> str:
    if record.status is Status.CANCELLED:
        return _result(f"{record.tool} is cancelled.", _state(record, None))
    text = f"{record.tool} had ended before ({record.status}): call task_wait with task_id {record.id} for its result."
    return _result(text, _state(record, "task_wait"))


def shown_list(records: Sequence[TaskRecord], *, more: bool) -> str:
    if not records:
        return _result("There are no open tasks, and none ended in the last hour.", {"tasks": []})
    lines = [
        f"{record.id} {record.tool}: {record.status}{_how_far(record)}, begun {_ago(record)} ago" for record in records
    ]
    if more:
        lines.append("There are more, which began earlier.")
    return _result("\n".join(lines), {"tasks": [_state(record, None) for record in records]})


def refusal(text: str) -> str:
    """An error result that a model can act on."""
    return encode_json(text_result(text, is_error=True))


def _result(text: str, structured: Mapping[str, Any]) -> str:
    return encode_json({**text_result(text), "structuredContent": structured})


def _state(record: TaskRecord, next_tool: str | None) -> dict[str, Any]:
    state: dict[str, Any] = {"task_id": record.id, "tool": record.tool, "status": record.status.value}
    if record.status_message:
        state["status_message"] = record.status_message
    if record.status is Status.WORKING and record.progress is not None:
        state["progress"] = record.progress
        if record.progress_total is not None:
            state["total"] = record.progress_total
    if record.status is Status.INPUT_REQUIRED:
        state["questions"] = {
            question.key: {"method": question.method, **question.params} for question in record.open_questions
        }
    if next_tool is not None:
        state["next"] = next_tool
    return state


def _how_far(record: TaskRecord) -> str:
    live = record.status is Status.WORKING and record.status_message
    return f" ({record.status_message})" if live else ""


def _ago(record: TaskRecord) -> str:
    return describe(max(record.now - record.created_at, timedelta(seconds=1)))


def _asked(question: Question) -> str:
    params = question.params
    if question.method == ROOTS:
        return f"- {question.key}: which folders to work in; answer with a list of file:// addresses"
    if question.method == SAMPLE:
        return f"- {question.key}: answer with the text of your reply to {json.dumps(dict(params), ensure_ascii=False)}"
    if params.get("mode") == "url":
        return f'- {question.key}: {params["message"]} Show the user {params["url"]}; answer "accept" when it is done'
    schema = params["requestedSchema"]
    fields = json.dumps(schema.get("properties", {}), ensure_ascii=False, separators=(",", ":"))
    needed = ", ".join(schema.get("required", ())) or "none"
    return f"- {question.key}: {params['message']} Fields: {fields}; required: {needed}"


# answers


def read_answers(questions: Sequence[Question], answers: Mapping[str, Any]) -> dict[str, Any]:
    """The responses to open questions in the shape of the protocol; answers to others are left out.

    They are not checked: what has no meaning here is passed on as it is.
    """
    answered = [question for question in questions if question.key in answers]
    return {question.key: _response(question, answers[question.key]) for question in answered}


def _response(question: Question, given: Any) -> Any:
    if question.method == ROOTS:
        return {"roots": [{"uri": uri} for uri in given]} if isinstance(given, list) else given
    if question.method == SAMPLE:
        if not isinstance(given, str):
            return given
        return {"role": "assistant", "content": {"type": "text", "text": given}, "model": UNNAMED_MODEL}
    if question.method == ELICIT and isinstance(given, str):
        return {"action": given}
    if not isinstance(given, Mapping) or _is_whole(question, given):
        return given
    return {"action": "accept", "content": given}


def _is_whole(question: Question, given: Mapping[str, Any]) -> bool:
    """Whether the answer is an `ElicitResult` already, and not the fields of a form."""
    fields = question.params.get("requestedSchema", {}).get("properties", {})
    return given.get("action") in DECISIONS and "action" not in fields and set(given) <= {"action", "content"}
