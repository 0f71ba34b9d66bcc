"""The official client finds the authorization server by itself, gets a token, and calls (mcp 2.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from taskengine.server import create_app
from taskengine.settings import Settings
from tests.auth.authorization_server import AuthorizationServer
from tests.auth.tools import engine
from tests.e2e.official import TasksExtension
from tests.processes import free_port
from tests.server.peer import Hands, front_end


class Storage:
    """Keeps what the client has got."""

    def __init__(self) -> None:
        self.token: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.token

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.token = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Browser:
    """A user who follows addresses and agrees."""

    def __init__(self) -> None:
        self.scopes: list[str] = []
        self._back: dict[str, list[str]] = {}

    async def go(self, url: str) -> None:
        self.scopes.append(parse_qs(urlsplit(url).query).get("scope", [""])[0])
        async with httpx2.AsyncClient(trust_env=False) as http:
            answer = await http.get(url)
        self._back = parse_qs(urlsplit(answer.headers["location"]).query)

    async def come_back(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult(
            code=self._back["code"][0], state=self._back["state"][0], iss=self._back["iss"][0]
        )


@asynccontextmanager
async def reachable(settings: Settings) -> AsyncIterator[str]:
    """A front end at the address that its metadata names."""
    port = free_port()
    url = f"http://127.0.0.1:{port}{settings.path}"
    app = create_app(engine, settings.model_copy(update={"auth_resource": url}))
    async with front_end(app, settings.path, port=port) as running:
        assert running.url == url
        yield url


async def test_it_logs_in_and_steps_up(settings: Settings, issuer: AuthorizationServer, hands: Hands) -> None:
    """X-AUTH-01 to X-AUTH-06 as a client of others reads them."""
    browser, storage = Browser(), Storage()
    async with reachable(settings) as url:
        auth = OAuthClientProvider(
            url,
            OAuthClientMetadata(redirect_uris=["http://127.0.0.1:9/callback"], client_name="test"),  # type: ignore[list-item]
            storage,
            browser.go,
            browser.come_back,
        )
        async with httpx2.AsyncClient(auth=auth, trust_env=False, timeout=20) as http:
            tasks = TasksExtension()
            async with Client(streamable_http_client(url, http_client=http), extensions=[tasks]) as client:
                said = (await client.call_tool("who_direct", {})).structured_content
                assert said is not None
                assert (said["issuer"], said["subject"]) == (issuer.issuer, "ann")
                assert storage.client is not None
                assert said["client"] == storage.client.client_id
                calling = asyncio.create_task(client.call_tool("who", {}))
                await hands.run(engine)
                assert (await calling).structured_content == said
                assert browser.scopes == ["tools:call"]
                assert (await client.call_tool("write_report", {})).content[0].text == "written"  # type: ignore[union-attr]
    assert len(browser.scopes) == 2
    assert "reports:write" in browser.scopes[1].split()
    assert storage.token is not None
    assert {row.id for row in await hands.rows()} == set(tasks.tasks)


async def test_a_machine_logs_in_by_itself(settings: Settings, issuer: AuthorizationServer) -> None:
    """SEP-1046."""
    async with reachable(settings) as url:
        auth = ClientCredentialsOAuthProvider(url, Storage(), "nightly", "secret", issuer=issuer.issuer)
        async with (
            httpx2.AsyncClient(auth=auth, trust_env=False, timeout=20) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            said: Any = (await client.call_tool("who_direct", {})).structured_content
    assert (said["subject"], said["client"]) == ("nightly", "nightly")
