"""Settings of authorization: static tokens for development, and what is refused at the start."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from taskengine import bridge
from taskengine.auth.config import Issuer, canonical_uri
from taskengine.auth.resource import challenge
from taskengine.auth.scopes import ScopeRules
from taskengine.cli.settings import settings_page
from taskengine.declaration import make_tool
from taskengine.errors import DeclarationError, SettingsError
from taskengine.server import create_app
from taskengine.settings import Settings, load_settings
from tests.auth.tools import engine
from tests.processes import ROOT
from tests.server.peer import Hands, front_end, peer_of

ANN, BOB = "a-token-of-ann-1234", "a-token-of-bob-1234"
pytestmark = pytest.mark.timeout(300)
LOGIN = "https://login.example"


@pytest.fixture
def issuer() -> None:
    """Nobody is asked here."""


@pytest.fixture
def settings(database_url: str, services: Any, tmp_path: Path) -> Settings:
    path = tmp_path / "tokens"
    path.write_text(f"# for development\n\n{BOB}:bob:tasks:read\n")
    return Settings(
        database_url=database_url,
        broker_url=services.broker_url,
        handle_tools="none",
        auth_tokens=[f"{ANN}:ann"],
        auth_tokens_file=path,
    )


async def test_static_tokens_are_owners_with_scopes(settings: Settings, hands: Hands) -> None:
    async with front_end(create_app(engine, settings), settings.path) as running, peer_of(running) as peer:
        answer = await peer.http.post(peer.url, json={})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer scope="tools:call"')
        assert (await peer.http.get(f"{running.base}/.well-known/oauth-protected-resource")).status_code == 404
        peer.http.headers["authorization"] = f"Bearer {ANN}x"
        assert (await peer.http.post(peer.url, json={})).status_code == 401
        peer.http.headers["authorization"] = f"Bearer {ANN}"
        assert (await peer.call("write_report")).text == "written", "without scopes it has them all"
        task_id = (await peer.call("who", tasks=True)).result["taskId"]
        peer.http.headers["authorization"] = f"Bearer {BOB}"
        assert (await peer.get(task_id)).refused == (400, -32602)
        assert (await peer.call("who", tasks=True)).status == 403
    assert [row.id for row in await hands.rows("""owner = '["static",null,"ann"]'""")] == [task_id]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"auth_tokens": [f"{ANN}:ann"], "host": "0.0.0.0"}, "for development"),
    ({"auth_issuers": [LOGIN], "host": "0.0.0.0"}, "auth_resource"),
    ({"auth_issuers": [LOGIN], "port": 0}, "auth_resource"),
    ({"auth_issuers": ["http://login.example"]}, "no TLS"),
    ({"auth_issuers": [{"issuer": LOGIN, "jwks_url": "http://login.example/k"}]}, "no TLS"),
    ({"auth_issuers": [LOGIN, LOGIN]}, "twice"),
    ({"auth_issuers": ["login.example"]}, "addresses such as"),
    ({"auth_issuers": ["https://u:p@login.example"]}, "leave name and password out"),
    ({"auth_issuers": [{"issuer": LOGIN, "client_id": "x"}]}, "go together"),
    ({"auth_issuers": [{"issuer": LOGIN, "introspect": "all"}]}, "client_secret"),
    ({"auth_issuers": [{"issuer": LOGIN, "algorithms": ["HS256"]}]}, "only RS256"),
    ({"auth_issuers": [{"issuer": LOGIN, "algorithms": ["none"]}]}, "only RS256"),
    ({"auth_issuers": [{"issuer": LOGIN, "colour": "red"}]}, "COLOUR"),
    (
        {
            "auth_issuers": [
                {"issuer": f"{LOGIN}/{name}", "client_id": "x", "client_secret": "y"} for name in ("one", "two")
            ]
        },
        "only one may introspect",
    ),
    ({"auth_resource": "tools.example/mcp"}, "give an address"),
    ({"auth_resource": "https://tools.example/mcp#x"}, "give an address"),
    ({"auth_scopes": {"tasks/steal": []}}, "scopes can be given to"),
    ({"auth_scopes": {"tools/call": ["a b"]}}, "not a scope"),
    ({"auth_scopes": {"tools/call": ["offline_access"]}}, "leave it out"),
    ({"auth_leeway": "1h"}, "5 minutes"),
]


@pytest.mark.parametrize(("given", "why"), REFUSED, ids=lambda each: each if isinstance(each, str) else "")
def test_what_cannot_work_is_refused_at_the_start(given: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(**given)
    assert why in str(refused.value)


@pytest.mark.parametrize("line", [ANN, f"{ANN}:", "short:ann", f'{ANN}:ann:a"b', f"tokén-{ANN}:ann"])
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(line: str) -> None:
    with pytest.raises(SettingsError, match="static token 1") as refused:
        create_app(engine, load_settings(auth_tokens=[line]))
    assert ANN not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        create_app(engine, load_settings(auth_tokens_file=tmp_path / "none"))


def test_development_may_be_declared() -> None:
    load_settings(auth_tokens=[f"{ANN}:ann"], host="0.0.0.0", auth_insecure=True)
    load_settings(auth_issuers=["http://keycloak:8080/realms/dev"], auth_insecure=True)
    load_settings(auth_issuers=["http://127.0.0.1:8080/realms/dev"])


def test_settings_come_from_the_environment_and_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    issuers = [LOGIN, {"issuer": f"{LOGIN}/two", "client_id": "engine", "client_secret": "planted-secret"}]
    monkeypatch.setenv("TASKENGINE_AUTH_ISSUERS", json.dumps(issuers))
    monkeypatch.setenv("TASKENGINE_AUTH_TOKENS", json.dumps([f"{ANN}:ann"]))
    monkeypatch.setenv("TASKENGINE_TOKEN", "of-the-commands")
    settings = load_settings()
    assert [issuer.issuer for issuer in settings.auth_issuers] == [LOGIN, f"{LOGIN}/two"]
    assert "planted-secret" not in repr(settings)
    assert ANN not in repr(settings)
    assert settings.resource == "http://127.0.0.1:8080/mcp"


@pytest.mark.parametrize(
    ("given", "single"),
    [
        ({}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "0.0.0.0", "single_user": True}, True),
        ({"host": "0.0.0.0", "handle_tools": "all"}, False),
        ({"single_user": False}, False),
        ({"allowed_hosts": ["LocalHost", "::1"]}, True),
        ({"allowed_hosts": ["localhost", "tools.example"]}, False),
        ({"allowed_hosts": ["*"]}, False),
        ({"allowed_hosts": ["tools.example"], "single_user": True}, True),
        ({"auth_issuers": [LOGIN]}, False),
        ({"auth_tokens": [f"{ANN}:ann"]}, False),
    ],
)
async def test_without_authorization_tasks_are_listed_to_a_single_user_only(
    given: dict[str, Any], single: bool
) -> None:
    """L-TASK-04, L-TASK-61; with authorization everybody is listed what is theirs."""
    settings = load_settings(**{"auth_resource": "https://tools.example/mcp", **given})
    assert settings.one_owner is single
    app = create_app(engine, settings)
    offered = app.state.service.handles
    assert ("task_list" in offered) is (single or settings.authorized)
    assert bridge.lists_tasks(settings) is (single or settings.authorized)


def test_the_address_has_one_form() -> None:
    """X-AUTH-18."""
    assert canonical_uri("HTTPS://Tools.Example:443/mcp/") == "https://tools.example/mcp"
    assert canonical_uri("http://[::1]:8080/MCP") == "http://[::1]:8080/MCP"
    for wrong in (
        "",
        "mcp",
        "ftp://x/y",
        "https://",
        "https://a@b/c",
        "https://x:port/",
        "https://to\tols/",
        "http://a/ /",
    ):
        with pytest.raises(ValueError):
            canonical_uri(wrong)


def test_scopes_include_others_at_any_remove_and_in_circles() -> None:
    """M-AUTH-09."""
    rules = ScopeRules({}, {"admin": ["write"], "write": ["read"], "a": ["b"], "b": ["a"]})
    assert rules.expanded(["admin"]) == {"admin", "write", "read"}
    assert rules.fewest(["read", "write", "other"]) == ["other", "write"]
    assert rules.fewest(["a", "b", "read"]) == ["a", "read"]
    assert rules.needed(["ping", "initialize", "tools/list"]) == frozenset()


def test_a_challenge_cannot_be_broken_out_of() -> None:
    assert challenge(None, error="x", description='a "b" \\ c') == 'Bearer error="x", error_description="a \'b\' / c"'


def test_scopes_of_a_tool_are_checked_where_it_is_declared() -> None:
    def one() -> None:
        """Do it."""

    assert make_tool(one, scopes=["a:b", "c", "c"]).scopes == ("a:b", "c")
    for wrong in ("a", ["a b"], [""], ["offline_access"], [5]):
        with pytest.raises(DeclarationError):
            make_tool(one, scopes=wrong)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="token"):
        make_tool(one, task="forbidden", token=True)


def test_an_issuer_may_be_written_as_its_address_alone() -> None:
    assert Issuer.model_validate(LOGIN) == Issuer(issuer=LOGIN)


def test_the_page_of_settings_has_them() -> None:
    assert "TASKENGINE_AUTH_ISSUERS" in settings_page()
    page = (ROOT / "docs" / "security.md").read_text()
    for name in ("AUTH_ISSUERS", "AUTH_RESOURCE", "AUTH_TOKENS", "AUTH_SCOPES", "AUTH_SCOPE_INCLUDES", "AUTH_CLAIMS"):
        assert name in page


async def test_the_commands_send_a_token_and_say_what_a_server_wants(settings: Settings) -> None:
    async with front_end(create_app(engine, settings), settings.path) as running:
        without = await _taskengine("tools", "--url", running.url)
        assert "HTTP 401 (it wants a token, or another one)" in without
        assert "scope: tools:call" in without
        wrong = await _taskengine("tools", "--url", running.url, "--token", f"{ANN}x")
        assert "HTTP 401" in wrong
        assert ANN not in wrong
        assert "write_report" in await _taskengine("tools", "--url", running.url, token=ANN)
        lacking = await _taskengine("call", "who", "--url", running.url, token=BOB)
        assert "HTTP 403" in lacking
        assert "tools:call" in lacking


async def _taskengine(*words: str, token: str | None = None) -> str:
    """All that a command says."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("TASKENGINE_")}
    given = {} if token is None else {"TASKENGINE_TOKEN": token}
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "taskengine",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**found, **given, "COLUMNS": "300", "NO_COLOR": "1"},
        cwd=ROOT,
    )
    said, _ = await running.communicate()
    return " ".join(said.decode().split())
