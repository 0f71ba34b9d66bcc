"""Who may send a request: tokens from its headers, scopes for its method, and the answers 400, 401 and 403.

Decided before a message is dispatched, and before anything is written (X-AUTH-22). Every request is authorized by its
own token, whatever session, connection or task it refers to (X-AUTH-15).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from taskengine.auth.resource import Resource, challenge
from taskengine.auth.scopes import ScopeRules
from taskengine.auth.verifier import Verified, Verifier
from taskengine.engine import TaskEngine
from taskengine.errors import IssuerUnavailable, SettingsError, TokenRefused
from taskengine.identity import AccessToken
from taskengine.server.caller import Caller, anonymous, patience_of, vouched
from taskengine.server.checks import Refusal
from taskengine.settings import Settings
from taskengine.wire.headers import RawHeaders, values
from taskengine.wire.jsonrpc import Batch, Message, Notification, Request

__all__ = ["Guard"]

logger = logging.getLogger("taskengine.auth")

RETRY_AFTER_S = 5
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_BEHIND = {
    "task_wait": "tasks/get",
    "task_list": "tasks/list",
    "task_answer": "tasks/update",
    "task_cancel": "tasks/cancel",
}
"""What the engine's own tools do, as methods."""
ANSWERS = "tasks/update"
"""What an answer to a question is like, whichever way it comes."""
STREAM = "subscriptions/listen"
"""What opening the stream of a session is like: it tells of tasks."""


class Guard:
    """Knows every caller of one front end."""

    def __init__(self, engine: TaskEngine, settings: Settings) -> None:
        self._engine = engine
        self._rules = ScopeRules(settings.auth_scopes, settings.auth_scope_includes)
        issuers = [issuer.issuer for issuer in settings.auth_issuers]
        self.resource: Resource | None = None
        """None where no authorization server is named: then there is nothing to be found."""
        if issuers:
            name = engine.title or engine.name
            self.resource = Resource(settings.resource, issuers, self._rules.basic, name)
        if engine.wants_tokens and settings.authorized and not settings.key_ring():
            raise SettingsError(
                f"{engine.name} has tools that keep the token of their caller (token=True), which is never stored "
                "unsealed: set encryption_keys, or leave token=True out"
            )
        self._verifier: Verifier | None = None
        if settings.authorized:
            self._verifier = Verifier(
                settings.auth_issuers,
                settings.static_tokens(),
                audience=None if self.resource is None else self.resource.uri,
                expand=self._rules.expanded,
                kept_claims=settings.auth_claims,
                leeway_s=settings.auth_leeway.total_seconds(),
                cache_s=settings.auth_cache.total_seconds(),
                insecure=settings.auth_insecure,
            )

    async def close(self) -> None:
        if self._verifier is not None:
            await self._verifier.close()

    async def identify(self, scope: Mapping[str, Any], headers: RawHeaders) -> Caller:
        """The caller of an HTTP request, by verified credentials only (X-SEC-16).

        Without authorization everybody is one caller, and a task's unguessable id is what protects it (M-SEC-07).
        Raises Refusal 400, 401 and 503.
        """
        caller = vouched(scope)
        if caller is not None:
            return caller
        query = scope.get("query_string")
        patience = patience_of(query) if query else None
        if self._verifier is None:
            return anonymous(patience)
        token = self._token(headers)
        found = self._verifier.known(token) or await self._verified(self._verifier, token)
        # To those it is shown to, it is good until it expires: what clocks may be off is for us alone to grant.
        handed_over = AccessToken(token, _time(found.expires_at)) if self._engine.wants_tokens else None
        return Caller(found.owner, patience, found.identity, found.scopes, found.accepted_until, handed_over)

    def check_scopes(self, caller: Caller, messages: Message | Batch | None, method: str, *, handshake: bool) -> None:
        """The token allows what is asked. Raises Refusal 403, which names all that it takes (M-AUTH-07).

        Without a message, `method` is what HTTP asks for. On revisions with a `handshake` the challenge repeats the
        scopes that the client has, which it would lose otherwise (L-AUTH-08).
        """
        if caller.scopes is None:
            return
        needed = self._needed(messages, method)
        if needed <= caller.scopes:
            return
        granted = caller.identity.scopes if handshake and caller.identity is not None else frozenset()
        wanted = self._rules.fewest(needed | (granted & self._known_scopes()))
        missing = ", ".join(sorted(needed - caller.scopes))
        logger.info("refused to %s: lacks the scopes %s", caller.owner, missing)
        raise Refusal(
            403,
            f"The token lacks scopes: {missing}",
            self._challenge("insufficient_scope", f"This needs the scopes {missing}", wanted),
        )

    async def metadata(self, _: HttpRequest) -> JSONResponse:
        """The document of RFC 9728, for everybody (X-AUTH-19)."""
        assert self.resource is not None, "it is served only where there is one"
        return JSONResponse(self.resource.metadata, headers={"cache-control": "public, max-age=300"})

    def _token(self, headers: RawHeaders) -> str:
        """The bearer token of the request. Raises Refusal 401 when there is none, 400 for a malformed one (X-AUTH-10).

        Only the header counts: what stands in the address ends up in logs (X-AUTH-14).
        """
        given = values(headers, "authorization")
        if len(given) > 1:
            raise self._malformed("There is more than one Authorization header")
        scheme, _, token = given[0].strip().partition(" ") if given else ("", "", "")
        if scheme.lower() != "bearer":
            raise Refusal(
                401,
                "Authorization is required: send a bearer token in the Authorization header",
                self._challenge(scopes=self._rules.basic),
            )
        if not _TOKEN.fullmatch(token.strip()):
            raise self._malformed("The Authorization header holds no bearer token")
        return token.strip()

    async def _verified(self, verifier: Verifier, token: str) -> Verified:
        try:
            return await verifier.verify(token)
        except TokenRefused as refused:
            logger.info("refused: %s", refused.reason)
            raise Refusal(
                401, refused.reason, self._challenge("invalid_token", refused.reason, self._rules.basic)
            ) from None
        except IssuerUnavailable as error:
            logger.warning("%s", error)
            raise Refusal(
                503,
                "The authorization server cannot be asked whether the token is good: try again",
                ((b"retry-after", str(RETRY_AFTER_S).encode()),),
            ) from None

    def _needed(self, messages: Message | Batch | None, method: str) -> frozenset[str]:
        methods: list[str] = []
        further: list[str] = []
        for called, name, answers in _operations(messages, method):
            methods.append(called)
            if answers:
                methods.append(ANSWERS)
            if called == "tools/call" and name is not None:
                tool = self._engine.get_tool(name)
                if tool is not None:
                    further += tool.scopes
                elif name in _BEHIND:
                    methods.append(_BEHIND[name])
        return self._rules.needed(methods, further)

    def _known_scopes(self) -> frozenset[str]:
        """All that this server ever asks for."""
        further = [scope for tool in self._engine.tools.values() for scope in tool.scopes]
        return self._rules.expanded([*self._rules.basic, *further])

    def _malformed(self, why: str) -> Refusal:
        return Refusal(400, why, self._challenge("invalid_request", why))

    def _challenge(
        self, error: str | None = None, description: str | None = None, scopes: Iterable[str] = ()
    ) -> tuple[tuple[bytes, bytes], ...]:
        text = challenge(self.resource, error=error, description=description, scopes=scopes)
        return ((b"www-authenticate", text.encode()),)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _operations(messages: Message | Batch | None, method: str) -> Iterator[tuple[str, str | None, bool]]:
    """What is asked: methods, with the tool that is called, and whether questions are answered beside."""
    if isinstance(messages, Batch):
        for value in messages.values:
            if isinstance(value, dict):
                yield _operation(value.get("method", ANSWERS), value.get("params"))
    elif isinstance(messages, Request | Notification):
        yield _operation(messages.method, messages.params)
    elif messages is not None:
        yield ANSWERS, None, False  # a response
    elif method == "GET":
        yield STREAM, None, False


def _operation(method: Any, params: Any) -> tuple[str, str | None, bool]:
    if method == "notifications/cancelled":
        return "tasks/cancel", None, False
    given = params if isinstance(params, dict) else {}
    name = given.get("name")
    return str(method), name if isinstance(name, str) else None, method == "tools/call" and "inputResponses" in given
