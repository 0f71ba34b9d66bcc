"""What is sensitive stays hidden from operators: on the screen, in the logs, in the database, in what errors say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from taskengine.client import Client
from taskengine.records import Question
from taskengine.sensitive import HIDDEN
from tests.planted import MARK, found_in, plant, plant_key
from tests.processes import ROOT, Processes, deployed, environment
from tests.services import Services
from tests.store.sql import execute

APP = str(ROOT / "tests" / "security" / "guarded_app.py") + ":engine"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def deployment(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    settings: dict[str, Any] = {
        "log_format": "json",
        "log_level": "debug",
        "secret": SecretStr(plant("secret-of-the-front-ends-32-characters")),
        "encryption_keys": [SecretStr(plant_key("newest")), SecretStr(plant_key("older"))],
    }
    with deployed(services, tmp_path_factory.mktemp("hiding"), APP, **settings) as started:
        yield started


@pytest.fixture(scope="module")
def url(deployment: Processes) -> str:
    return deployment.serve(APP)[1]


def command(deployment: Processes, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "taskengine", *words],
        env=environment(deployment.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert MARK not in done.stderr
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


async def begun(url: str, tool: str, **arguments: Any) -> str:
    """The id of a task that has ended."""
    async with Client(url, headers={"traceparent": PARENT}) as client:
        task = await client.submit(tool, arguments)
        assert task.id is not None
        await task.wait()
        return task.id


def lines(deployment: Processes, task_id: str) -> list[dict[str, Any]]:
    """What all processes have logged of the task; each line is one JSON object."""
    texts = [path.read_text() for path in deployment.folder.glob("*.log")]
    found = [json.loads(line) for text in texts for line in text.splitlines()]
    return [line for line in found if task_id in json.dumps(line)]


async def test_a_sensitive_parameter_is_hidden_wherever_the_tool_has_written_it(
    deployment: Processes, url: str
) -> None:
    password = plant("password")
    task_id = await begun(url, "log_in", user="ann", password=password)
    for words in (("show", task_id), ("show", task_id, "--json"), ("ls",), ("ls", "--json"), ("logs", task_id)):
        assert MARK not in command(deployment, *words), words
    shown = json.loads(command(deployment, "show", task_id, "--json"))
    assert shown["arguments"] == {"user": "ann", "password": HIDDEN}
    assert shown["traceback"].endswith(f"RuntimeError: ann: '{HIDDEN}' was not accepted\n")
    assert shown["logs"][0]["data"] == f"logging in with {HIDDEN}"
    async with Client(url) as client:  # its owner sees what it said
        assert password in (await client.wait(task_id)).text


@pytest.mark.parametrize("fail", [True, False])
async def test_nothing_of_a_sensitive_tool_is_shown_but_that_it_ran(
    deployment: Processes, url: str, fail: bool
) -> None:
    task_id = await begun(url, "diagnose", ctx_patient=plant("patient"), fail=fail)
    shown = json.loads(command(deployment, "show", task_id, "--json"))
    assert (shown["tool"], shown["status"], shown["is_error"]) == ("diagnose", "completed", fail)
    assert (shown["arguments"], shown["result"]) == (HIDDEN, HIDDEN)
    assert MARK not in command(deployment, "show", task_id) + command(deployment, "ls")


async def test_the_questions_and_answers_of_a_sensitive_tool_are_hidden(deployment: Processes, url: str) -> None:
    async def answer(question: Question) -> dict[str, Any]:
        return {"action": "accept", "content": {"pin": plant("pin")}}

    async with Client(url, capabilities={"elicitation": {"form": {}}}) as client:
        task = await client.submit("ask_pin", {})
        assert (await task.wait(on_question=answer)).text == plant("pin")
        assert task.id is not None
        shown = json.loads(command(deployment, "show", task.id, "--json"))
    assert shown["questions"][0]["response"] == HIDDEN
    assert "PIN" not in command(deployment, "show", task.id)


async def test_what_is_said_of_arguments_that_do_not_fit_does_not_repeat_them(url: str) -> None:
    async with Client(url) as client:
        too_long = await client.call("log_in", {"user": "ann", "password": plant("x" * 100)})
        wrong_type = await client.call("log_in", {"user": "ann", "password": [plant("list")]})
        picky = await client.call("log_in", {"user": "ann", "password": plant("bad")})
        whole = await client.call("diagnose", {"ctx_patient": [plant("patient")], "fail": False})
    for outcome in (too_long, wrong_type, picky, whole):
        assert outcome.is_error
        assert MARK not in json.dumps(outcome.result)
    assert "`password` does not fit its schema (maxLength)" in too_long.text
    assert "`password` does not fit" in picky.text


async def test_log_lines_say_which_task_attempt_owner_tool_and_trace_and_no_secret(
    deployment: Processes, url: str
) -> None:
    """The worker logs the exception of the async tool, and the process of a sync tool logs its own."""
    for tool, arguments in (
        ("log_in", {"user": "bob", "password": plant("other-password")}),
        ("diagnose", {"ctx_patient": plant("other-patient"), "fail": True}),
    ):
        task_id = await begun(url, tool, **arguments)
        said = [line for line in lines(deployment, task_id) if "raised RuntimeError" in line["message"]]
        assert said
        facts = {name: said[0][name] for name in ("task", "attempt", "owner", "tool", "trace")}
        assert facts == {"task": task_id, "attempt": 1, "owner": "anonymous", "tool": tool, "trace": TRACE}
    assert not list(found_in(deployment.folder))


async def test_the_database_holds_no_payload_that_can_be_read(deployment: Processes, url: str) -> None:
    await begun(url, "diagnose", ctx_patient=plant("at-rest"), fail=False)
    address = deployment.settings.database_url.get_secret_value()
    names = await execute(address, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for row in names:
        assert not await execute(address, f"SELECT 1 FROM \"{row[0]}\" t WHERE t::text LIKE '%{MARK}%' LIMIT 1"), row[0]


async def test_rekey_seals_what_is_under_an_older_key_while_everything_runs(deployment: Processes, url: str) -> None:
    older = deployment.settings.model_copy(
        update={"encryption_keys": deployment.settings.encryption_keys[1:], "port": 0}
    )
    task_id = await begun(url, "diagnose", ctx_patient=plant("rotated"), fail=False)
    address = older.database_url.get_secret_value()
    (row,) = await execute(address, "SELECT result FROM tasks WHERE id = $1", task_id)
    assert "everything is under the newest key" in command(deployment, "rekey")
    reversed_keys = {"TASKENGINE_ENCRYPTION_KEYS": json.dumps([plant_key("older"), plant_key("newest")])}
    done = subprocess.run(
        [sys.executable, "-m", "taskengine", "rekey"],
        env=environment(deployment.settings) | reversed_keys,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (again,) = await execute(address, "SELECT result FROM tasks WHERE id = $1", task_id)
    assert again["result"] != row["result"]
    async with Client(url) as client:
        assert (await client.wait(task_id)).text == f"{plant('rotated')} is well"
    assert "everything is under the newest key" in command(deployment, "rekey")


def test_rekey_without_keys_says_what_to_do(deployment: Processes, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taskengine", "rekey"],
        env=environment(deployment.settings) | {"TASKENGINE_ENCRYPTION_KEYS": "[]"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "set TASKENGINE_ENCRYPTION_KEYS" in done.stderr
