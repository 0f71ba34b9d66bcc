"""Encryption at rest: what is stored, who can open it, and what a missing key costs."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import SecretStr

from taskengine.errors import Unreadable
from taskengine.identity import Identity
from taskengine.records import Entry, NewTask
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.store.rekey import PLACES
from taskengine.store.sealing import MARK, NOT_SEALED, Sealing, key_id
from tests.store.calls import OWNER, claimed, new_task, question, take, worker
from tests.store.sql import execute

OLD, NEW = bytes([1] * 32), bytes([2] * 32)
SECRET = "the-zq7-secret"


def keyed(settings: Settings, *keys: bytes) -> Settings:
    texts = [SecretStr(base64.b64encode(key).decode()) for key in keys]
    return settings.model_copy(update={"encryption_keys": texts})


async def opened(settings: Settings, *keys: bytes) -> Store:
    return await Store.open(keyed(settings, *keys))


async def everything(url: str) -> str:
    """The text of every column of every table of ours."""
    names = await execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found = [await execute(url, f'SELECT t::text FROM "{row[0]}" t') for row in names]
    return "\n".join(row[0] for rows in found for row in rows)


async def used(store: Store, **changes: object) -> NewTask:
    """A task that has asked, logged, taken steps and ended; its payload all holds the secret."""
    holder = f"w-{id(changes)}"
    written: dict[str, Any] = {
        "arguments": {"text": SECRET},
        "first": {"a": {"value": SECRET}},
        "capabilities": {"elicitation": {}, "experimental": {SECRET: {}}},
        "progress_token": SECRET,
        "caller": Identity("https://login.example", "ann", claims={"email": SECRET}),
    }
    claim = await claimed(store, holder, **written | changes)
    await store.attempts.progress(claim, 1, 2, SECRET, f"Working: {SECRET}")
    await store.attempts.log(claim, [{"level": "info", "logger": SECRET, "data": json.dumps(SECRET)}])
    await store.journal.record(claim, [Entry("1", "step", "fetch", value=json.dumps(SECRET))])
    await store.attempts.suspend(claim, [question("name")], f"Asks about {SECRET}")
    doorbell = await store.inputs.answer(claim.task_id, OWNER, {"name": {"action": "accept", "content": {"n": SECRET}}})
    assert doorbell is not None
    again = await take(store, doorbell, holder)
    assert again is not None
    result = json.dumps({"content": [{"type": "text", "text": SECRET}]})
    await store.attempts.complete(again, result, is_error=True, status_message=SECRET, traceback=SECRET)
    return new_task(id=claim.task_id)


async def test_nothing_of_what_a_caller_or_a_tool_wrote_can_be_read_in_the_database(
    settings: Settings, database_url: str
) -> None:
    store = await opened(settings, NEW)
    task = await used(store)
    await store.sessions.post("letter", json.dumps(SECRET))
    assert SECRET not in await everything(database_url)
    record = await store.tasks.get(task.id, OWNER)
    assert record.result is not None
    assert SECRET in record.result
    assert (record.status_message, record.progress_message) == (SECRET, SECRET)
    assert record.progress_token == SECRET
    lines = await store.tasks.lines(task.id, OWNER, 0, 9)
    assert [(line.logger, line.data) for line in lines] == [(SECRET, json.dumps(SECRET))]
    assert [(line["logger"], line["data"]) for line in await store.inspection.logs(task.id)] == [(SECRET, SECRET)]
    shown = await store.inspection.show(task.id)
    assert shown["arguments"] == {"text": SECRET}
    assert shown["questions"][0]["response"]["content"] == {"n": SECRET}
    assert (await store.journal.load(task.id))["1"].value == json.dumps(SECRET)
    assert await store.sessions.fetch("letter") == json.dumps(SECRET)
    await store.close()


async def test_the_call_of_another_task_is_sealed_for_the_task_it_makes(settings: Settings, database_url: str) -> None:
    store = await opened(settings, NEW)
    parent = await claimed(store, capabilities={"experimental": {SECRET: {}}}, arguments={"text": SECRET})
    child = new_task(parent=parent.task_id, capabilities=parent.capabilities, arguments=parent.arguments)
    entry = Entry("1", "call", "count", done=False, child_id=child.id)
    (doorbell,) = await store.journal.record(parent, [entry], [child])
    assert SECRET not in await everything(database_url)
    claim = await take(store, doorbell)
    assert claim is not None
    assert (claim.capabilities, claim.arguments) == (parent.capabilities, {"text": SECRET})
    await store.close()


async def test_the_shared_secret_of_the_front_ends_is_sealed_too(settings: Settings, database_url: str) -> None:
    store = await opened(settings, NEW)
    secret = await store.keys.secret()
    assert base64.b64encode(secret).decode() not in await everything(database_url)
    assert await store.keys.secret() == secret
    await store.close()


async def test_a_result_that_was_moved_to_another_task_or_column_is_refused(
    settings: Settings, database_url: str
) -> None:
    store = await opened(settings, NEW)
    first, second = await used(store), await used(store)
    await execute(
        database_url,
        "UPDATE tasks SET result = (SELECT result FROM tasks WHERE id = $1) WHERE id = $2",
        first.id,
        second.id,
    )
    with pytest.raises(Unreadable, match=f"result of {second.id} cannot be read: it was changed"):
        await store.tasks.get(second.id, OWNER)
    await execute(database_url, "UPDATE tasks SET result = arguments WHERE id = $1", first.id)
    with pytest.raises(Unreadable, match="it was changed"):
        await store.tasks.get(first.id, OWNER)
    await store.close()


async def test_a_missing_key_is_named_and_its_return_brings_everything_back(settings: Settings) -> None:
    before = await opened(settings, OLD)
    task = await used(before)
    without = await opened(settings, NEW)
    with pytest.raises(Unreadable, match=f"under key {key_id(OLD)}, which is not in the key ring"):
        await without.tasks.get(task.id, OWNER)
    unsealed = await Store.open(settings)
    with pytest.raises(Unreadable, match=key_id(OLD)):
        await unsealed.tasks.get(task.id, OWNER)
    (listed,) = await without.inspection.list()  # one such task does not hide all others
    assert key_id(OLD) in listed["status_message"]
    both = await opened(settings, NEW, OLD)
    assert SECRET in str((await both.tasks.get(task.id, OWNER)).result)
    for store in (before, without, unsealed, both):
        await store.close()


async def test_a_claim_that_cannot_be_read_leaves_the_task_to_be_handed_back(settings: Settings) -> None:
    before = await opened(settings, OLD)
    _, doorbell = await before.tasks.create(new_task())
    assert doorbell is not None
    without = await opened(settings, NEW)
    await worker(without, "w1")
    with pytest.raises(Unreadable):
        await without.attempts.claim(doorbell, "w1")
    held = await without.workers.renew("w1", 15.0)
    assert held is not None
    ((task_id, attempt),) = held
    await without.attempts.hand_back(task_id, attempt, "w1")
    await worker(before, "w2")
    claim = await before.attempts.claim_next(["default"], "w2")
    assert claim is not None
    assert claim.arguments == {"n": 1}
    await before.close()
    await without.close()


async def test_sealing_again_leaves_nothing_plain_and_nothing_under_an_old_key(
    settings: Settings, database_url: str
) -> None:
    plain = await Store.open(settings)
    formerly_plain = await used(plain)
    await plain.keys.secret()
    old = await opened(settings, OLD)
    formerly_old = await used(old)
    new = await opened(settings, NEW, OLD)
    assert await new.rekey.left() > 0
    for place in PLACES:
        after, rounds = None, 0
        while rounds == 0 or after is not None:  # in batches of one: a run that is broken off is one of these
            _, after = await new.rekey.batch(place, after, 1)
            rounds += 1
    assert await new.rekey.left() == 0
    stored = await everything(database_url)
    assert SECRET not in stored
    assert f"{MARK}{key_id(OLD)}" not in stored
    alone = await opened(settings, NEW)
    for task in (formerly_plain, formerly_old):
        assert SECRET in str((await alone.tasks.get(task.id, OWNER)).result)
        assert (await alone.inspection.show(task.id))["traceback"] == SECRET
    for store in (plain, old, new, alone):
        await store.close()


async def test_what_is_written_while_it_is_sealed_again_is_not_overwritten(
    settings: Settings, database_url: str
) -> None:
    """Staged: the batch has read the row, and an attempt writes before the batch does."""
    old = await opened(settings, OLD)
    claim = await claimed(old)
    await old.attempts.progress(claim, 1, None, None, "before")
    new = await opened(settings, NEW, OLD)
    run, tasks = new.rekey._database.run, PLACES[0]

    async def overtaken(statement: object, parameters: object = None) -> object:
        if str(statement).startswith("UPDATE"):
            await old.attempts.progress(claim, 2, None, None, "after")
        return await run(statement, parameters)  # type: ignore[arg-type]

    new.rekey._database.run = overtaken  # type: ignore[method-assign,assignment]
    changed, _ = await new.rekey.batch(tasks, None)
    assert changed == 0
    assert (await old.tasks.get(claim.task_id, OWNER)).status_message == "after"
    new.rekey._database.run = run  # type: ignore[method-assign]
    assert (await new.rekey.batch(tasks, None))[0] == 1
    assert (await new.tasks.get(claim.task_id, OWNER)).status_message == "after"
    await old.close()
    await new.close()


async def test_the_note_on_a_cancelled_run_can_still_be_added_after_sealing_again(settings: Settings) -> None:
    plain = await Store.open(settings)
    claim = await claimed(plain)
    await plain.tasks.cancel(claim.task_id, OWNER)
    new = await opened(settings, NEW)
    for place in PLACES:
        await new.rekey.batch(place, None)
    assert await new.stops.note(claim.task_id, claim.attempt, "the tool stopped")
    message = (await new.tasks.get(claim.task_id, OWNER)).status_message
    assert message is not None
    assert message.startswith("Cancelled; the tool stopped after")
    await plain.close()
    await new.close()


def test_without_keys_a_text_is_stored_as_it_is_unless_it_looks_sealed() -> None:
    assert NOT_SEALED.seal("t", "f", "hello") == "hello"
    forged = f"{MARK}00000000:AAAA"
    assert NOT_SEALED.open("t", "f", NOT_SEALED.seal("t", "f", forged)) == f" {forged}"


def test_the_same_text_is_never_sealed_twice_to_the_same() -> None:
    sealing = Sealing([NEW])
    assert len({sealing.seal("t", "f", "text") for _ in range(100)}) == 100
