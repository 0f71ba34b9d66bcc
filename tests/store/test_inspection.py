"""What an operator sees of tasks whose tools have something to hide."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskengine.cli.place import LocalTasks
from taskengine.client import RemoteError
from taskengine.sensitive import HIDDEN
from taskengine.store import Store
from tests.store.calls import claimed, question

HARD = ['say "hunter" twice', "back\\slash", "two\nlines", "pässwörd-ключ", 8675309, 1234.5]
"""Values that JSON writes in another way than they are, or without quotes."""


def spellings(value: str | int | float) -> list[str]:
    return [str(value), json.dumps(value).strip('"'), json.dumps(value, ensure_ascii=False).strip('"')]


def assert_hidden(value: str | int | float, shown: Any) -> None:
    for text in (str(shown), json.dumps(shown, default=str), json.dumps(shown, default=str, ensure_ascii=False)):
        for spelled in spellings(value):
            assert spelled not in text, (spelled, text)


@pytest.mark.parametrize("value", HARD)
async def test_a_sensitive_value_is_hidden_in_log_lines_however_it_is_written(
    store: Store, value: str | int | float
) -> None:
    claim = await claimed(store, arguments={"n": 1, "pin": value}, sensitive=("pin",))
    said: list[Any] = [
        f"got {value}",
        {"pin": value, "n": 1, "deep": [value, {str(value): True}]},
        json.dumps({"pin": value}),
        value,
    ]
    lines = [{"level": "info", "logger": f"for {value}", "data": json.dumps(each)} for each in said]
    await store.attempts.log(claim, lines)
    shown = await store.inspection.logs(claim.task_id)
    assert len(shown) == len(said)
    assert_hidden(value, shown)
    assert shown[0]["data"] == f"got {HIDDEN}"
    assert shown[1]["data"]["n"] == 1
    assert {line["logger"] for line in shown} == {f"for {HIDDEN}"}


@pytest.mark.parametrize("value", HARD)
async def test_a_sensitive_value_is_hidden_in_all_that_is_shown_of_a_task(
    store: Store, value: str | int | float
) -> None:
    claim = await claimed(store, arguments={"n": 1, "pin": value}, sensitive=("pin",))
    structured = {"pin": value, str(value): 1, "n": 17}
    result = {"content": [{"type": "text", "text": json.dumps(structured)}], "structuredContent": structured}
    await store.attempts.complete(
        claim, json.dumps(result), is_error=False, status_message=f"did {value}", traceback=f"said {value!r}"
    )
    shown = await store.inspection.show(claim.task_id)
    assert_hidden(value, shown)
    assert shown["result"]["structuredContent"]["n"] == 17
    assert shown["attempt"] == 1
    seen = await LocalTasks(store).get(claim.task_id)
    assert_hidden(value, seen.wire)
    assert seen.result is not None
    assert seen.result["structuredContent"]["n"] == 17


@pytest.mark.parametrize("value", [1, 1000, "attempt", "params", "message", "response", "content"])
async def test_a_value_that_is_like_a_part_of_the_record_does_not_break_it(store: Store, value: Any) -> None:
    claim = await claimed(store, arguments={"pin": value}, sensitive=("pin",))
    await store.attempts.suspend(claim, [question()], "Waiting")
    shown = await store.inspection.show(claim.task_id)
    assert shown["attempt"] == 1
    assert set(shown["questions"][0]) >= {"key", "method", "params", "response"}


async def test_the_result_of_a_sensitive_tool_is_not_read_at_the_database(store: Store) -> None:
    claim = await claimed(store, arguments={"who": "patient zero"}, sensitive=("*",))
    result = '{"content":[{"type":"text","text":"patient zero is ill"}],"structuredContent":{"a":"patient zero"}}'
    await store.attempts.complete(claim, result, is_error=False, status_message="saw patient zero")
    seen = await LocalTasks(store).get(claim.task_id)
    assert seen.result is not None
    assert seen.result["content"] == [{"type": "text", "text": HIDDEN}]
    assert "patient" not in json.dumps(seen.wire)


async def test_the_error_of_a_sensitive_tool_is_not_read_at_the_database(store: Store) -> None:
    claim = await claimed(store, arguments={"who": "patient zero"}, sensitive=("*",))
    error = '{"code":-32603,"message":"patient zero left","data":{"who":"patient zero"}}'
    await store.attempts.fail(claim, error, status_message="patient zero left")
    seen = await LocalTasks(store).get(claim.task_id)
    assert seen.error is not None
    assert (seen.error["code"], seen.error["message"]) == (-32603, HIDDEN)
    assert "patient" not in json.dumps(seen.wire)


async def test_the_questions_of_a_sensitive_tool_are_not_read_at_the_database(store: Store) -> None:
    claim = await claimed(store, sensitive=("*",))
    await store.attempts.suspend(claim, [question("pin")], "Who is it?")
    seen = await LocalTasks(store).get(claim.task_id)
    assert [(each.key, each.params) for each in seen.questions] == [("pin", {"message": HIDDEN})]
    assert "Who" not in json.dumps(seen.wire)


async def test_what_is_not_sensitive_is_read_at_the_database_as_it_is(store: Store) -> None:
    claim = await claimed(store)
    await store.attempts.complete(
        claim, '{"content":[{"type":"text","text":"kept"}]}', is_error=False, status_message="Done"
    )
    seen = await LocalTasks(store).get(claim.task_id)
    assert seen.result is not None
    assert (seen.result["content"][0]["text"], seen.message) == ("kept", "Done")
    with pytest.raises(RemoteError, match="Unknown or expired"):
        await LocalTasks(store).get("tsk_not_there")
