"""What a tool learns of its caller: claims always, the token only where it is handed over (real workers)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from taskengine import TaskEngine
from taskengine.client import Client
from taskengine.errors import SettingsError, ToolError
from taskengine.execution.handover import HandedOver
from taskengine.identity import AccessToken, Identity
from taskengine.records import Claim
from taskengine.server import create_app
from taskengine.settings import Settings
from taskengine.store import Store
from taskengine.testing import call
from tests.auth import handing, tools
from tests.auth.authorization_server import AuthorizationServer
from tests.auth.conftest import RESOURCE
from tests.processes import Processes
from tests.server.peer import Hands, front_end

pytestmark = pytest.mark.timeout(300)

KEY = SecretStr("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
CLAIMS = {"email": "ann@example.org", "groups": ["a", "b"]}


@asynccontextmanager
async def served(engine: TaskEngine, settings: Settings, token: str) -> AsyncIterator[Client]:
    async with (
        front_end(create_app(engine, settings), settings.path) as running,
        Client(running.url, auth=token) as client,
    ):
        yield client


@pytest.mark.parametrize("further", [{"auth_claims": ["email", "groups", "phone"]}])
async def test_a_tool_knows_its_caller_wherever_it_runs(
    settings: Settings, issuer: AuthorizationServer, processes: Processes
) -> None:
    """X-AUTH-13: in the front end and its threads, in a worker, in a process, and below another tool."""
    processes.worker("tests/auth/tools.py:engine", wait=False)  # calls wait for it
    token = issuer.token(aud=RESOURCE, scope="tools:call extra", phone=None, secret="s", **CLAIMS)
    async with served(tools.engine, settings, token) as client:
        for name in ("who_direct", "who_direct_sync", "who", "who_sync", "who_below"):
            said = (await client.call(name)).structured
            assert said == {
                "owner": Identity(issuer.issuer, "ann", "app").owner,
                "issuer": issuer.issuer,
                "subject": "ann",
                "client": "app",
                "scopes": ["extra", "tools:call"],
                "claims": CLAIMS,
            }, name


@pytest.mark.parametrize("further", [{"encryption_keys": [KEY]}])
async def test_a_token_that_is_handed_over_is_sealed_renewed_and_gone_at_the_end(
    settings: Settings, issuer: AuthorizationServer, processes: Processes, store: Store
) -> None:
    processes.worker("tests/auth/handing.py:engine", wait=False)
    token = issuer.token(aud=RESOURCE)
    async with served(handing.engine, settings, token) as client:
        assert (await client.call("held_sync")).text == token[-8:]
        assert (await client.call("held")).structured == [token[-8:], token[-8:]]
        assert (await client.call("held_below")).text == token[-8:]
        # One that expires too soon is renewed. A sleep of this length ends the attempt: the next one finds the same.
        said = await client.call("held", {"pause": 6, "valid_for": "10m"})
        assert said.structured == ["ann~1", "ann~1"]
        assert (await client.call("held_sync", {"valid_for": "10m"})).text == "ann~1"
        for tool in ("not_held", "not_held_sync"):
            refused = await client.call(tool)
            assert refused.is_error, tool
            assert "token=True" in refused.text, tool
        task = await client.submit("waiting")
        assert task.id is not None
        rows = await _rows(store)
        assert [row.token is not None for row in rows if row.id == task.id] == [True]
        assert [row.id for row in rows if row.token is not None] == [task.id], "those that ended have none"
        assert all(token not in row.everything and token.split(".")[2] not in row.everything for row in rows)
        await client.cancel(task.id)
        assert [row.token for row in await _rows(store)] == [None] * len(rows)


async def _rows(store: Store) -> Any:
    return await store._database.run(text("SELECT id, token, row_to_json(tasks)::text AS everything FROM tasks"))


async def test_without_a_key_ring_no_token_is_handed_over(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="encryption_keys"):
        create_app(handing.engine, settings)
    create_app(tools.engine, settings)


@pytest.mark.parametrize("further", [{"encryption_keys": [KEY], "auth_leeway": timedelta(minutes=5)}])
async def test_a_token_that_was_handed_over_expires_when_it_says_so(
    settings: Settings, issuer: AuthorizationServer, hands: Hands
) -> None:
    """The leeway is for clocks here: whoever the token is shown to next may grant none."""
    token = issuer.token(aud=RESOURCE, lasts_s=60)
    async with served(handing.engine, settings, token) as client:
        await client.submit("held")
        claim = await hands.take()
    held = HandedOver(claim, hands.store, handing.renew)
    assert (await held.token(timedelta(seconds=1))).value == token
    assert (await held.token(timedelta(minutes=2))).value == "ann~1"


async def test_a_test_may_say_who_calls() -> None:
    ann = Identity("https://login.example", "ann", "app", frozenset({"a"}), {"email": "a@example.org"})
    run = await call(tools.engine, "who", caller=ann)
    assert run.structured == {**ann.dump(), "owner": ann.owner}
    assert (await call(tools.engine, "who")).structured == {}
    token = AccessToken(secrets.token_urlsafe(16), datetime.now(UTC) + timedelta(hours=1))
    assert token.value not in repr(token)
    assert (await call(handing.engine, "held_sync", caller=ann, token=token)).text == token.value[-8:]
    assert (await call(handing.engine, "held_sync", caller=ann)).is_error


def test_a_failed_renewal_says_nothing_of_the_token() -> None:
    async def broken(token: AccessToken, caller: Identity) -> AccessToken:
        raise RuntimeError(token.value)

    async def ask() -> str:
        facts: dict[str, Any] = dict.fromkeys(("worker_id", "tool", "owner", "queue"), "x")
        facts |= {name: {} for name in ("arguments", "capabilities", "first", "answers")}
        token = AccessToken("hidden", datetime.now(UTC))
        claim = Claim("tsk_1", 1, ran_ms=0, token=token, caller=Identity("i", "s"), **facts)
        with pytest.raises(ToolError) as raised:
            await HandedOver(claim, None, broken).token(timedelta(minutes=1))  # type: ignore[arg-type]
        return f"{raised.value} {raised.value.__cause__} {raised.value.__suppress_context__}"

    said = asyncio.run(ask())
    assert "hidden" not in said
    assert said.endswith("None True")
