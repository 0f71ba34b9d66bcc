"""An authorization server over real HTTP with real keys, which can be told to misbehave."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@dataclass
class Key:
    """A private key, and what is published of it."""

    kid: str
    algorithm: str
    private: Any
    published: dict[str, Any]

    @classmethod
    def make(cls, algorithm: str = "ES256", *, bits: int = 2048, **members: Any) -> Key:
        made: dict[str, Any] = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }
        private = made.get(algorithm, lambda: rsa.generate_private_key(65537, bits))()
        kid = secrets.token_hex(4)
        public = get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        published = {**public, "kid": kid, "alg": algorithm, "use": "sig", **members}
        return cls(kid, algorithm, private, {name: value for name, value in published.items() if value is not None})


@dataclass
class AuthorizationServer:
    """What it issues, publishes and answers. `requests` counts what was asked of it, by path."""

    issuer: str
    keys: list[Key]
    discovery: tuple[str, ...] = ("oauth", "openid")
    """Which documents it has: `oauth`, `openid` (with the path appended) and `openid-inserted`."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What its metadata says otherwise."""
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Opaque tokens, and what introspection says of them."""
    requests: list[str] = field(default_factory=list)
    broken: bool = False
    """It answers 500."""
    hold: asyncio.Event | None = None
    """Answers wait for it."""
    introspection_client: tuple[str, str] = ("engine", "s3cret/%")
    clients: dict[str, dict[str, Any]] = field(default_factory=dict)
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return urlsplit(self.issuer).path

    def count(self, path: str) -> int:
        return sum(each.endswith(path) for each in self.requests)

    def token(
        self,
        *,
        key: Key | None = None,
        header: Mapping[str, Any] | None = None,
        algorithm: str | None = None,
        lasts_s: float = 300,
        **claims: Any,
    ) -> str:
        """A signed access token; a claim given as None is left out."""
        key = key or self.keys[0]
        now = int(time.time())
        usual = {
            "iss": self.issuer,
            "sub": "ann",
            "client_id": "app",
            "scope": "tools:call",
            "iat": now,
            "exp": now + int(lasts_s),
            "jti": secrets.token_hex(8),
        }
        payload = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        headers = {"kid": key.kid, "typ": "at+jwt", **(header or {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(payload, key.private, algorithm or key.algorithm, headers=headers)

    def opaque(self, *, lasts_s: float | None = 300, **claims: Any) -> str:
        """A token that says nothing by itself."""
        token = secrets.token_urlsafe(24)
        now = int(time.time())
        usual = {
            "active": True,
            "iss": self.issuer,
            "sub": "ann",
            "client_id": "app",
            "scope": "tools:call",
            "exp": None if lasts_s is None else now + int(lasts_s),
        }
        self.active[token] = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return token

    def rotate(self, algorithm: str = "ES256") -> Key:
        """A new key takes the place of all others."""
        self.keys = [Key.make(algorithm)]
        return self.keys[0]

    # -- HTTP

    def routes(self) -> list[Route]:
        well_known = "/.well-known"
        places = {
            "oauth": f"{well_known}/oauth-authorization-server{self.path}",
            "openid-inserted": f"{well_known}/openid-configuration{self.path}",
            "openid": f"{self.path}{well_known}/openid-configuration",
        }
        found = [Route(place, self._document(kind)) for kind, place in places.items()]
        return [
            *found,
            Route(f"{self.path}/jwks", self._jwks),
            Route(f"{self.path}/introspect", self._introspect, methods=["POST"]),
            Route(f"{self.path}/register", self._register, methods=["POST"]),
            Route(f"{self.path}/authorize", self._authorize),
            Route(f"{self.path}/token", self._token, methods=["POST"]),
        ]

    async def _asked(self, request: Request) -> Response | None:
        self.requests.append(request.url.path)
        if self.hold is not None:
            await self.hold.wait()
        return Response(status_code=500) if self.broken else None

    def _document(self, kind: str) -> Any:
        async def serve(request: Request) -> Response:
            refused = await self._asked(request)
            if refused is not None:
                return refused
            if kind not in self.discovery:
                return Response(status_code=404)
            base = self.issuer.rstrip("/")
            return JSONResponse(
                {
                    "issuer": self.issuer,
                    "jwks_uri": f"{base}/jwks",
                    "introspection_endpoint": f"{base}/introspect",
                    "authorization_endpoint": f"{base}/authorize",
                    "token_endpoint": f"{base}/token",
                    "registration_endpoint": f"{base}/register",
                    "response_types_supported": ["code"],
                    "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials", JWT_BEARER],
                    "code_challenge_methods_supported": ["S256"],
                    "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
                    "authorization_response_iss_parameter_supported": True,
                    **self.metadata,
                }
            )

        return serve

    async def _jwks(self, request: Request) -> Response:
        return await self._asked(request) or JSONResponse({"keys": [key.published for key in self.keys]})

    async def _introspect(self, request: Request) -> Response:
        refused = await self._asked(request)
        if refused is not None:
            return refused
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        given = base64.b64decode(credentials).decode() if scheme.lower() == "basic" else ""
        name, _, secret = given.partition(":")
        if (name, parse_qs(f"s={secret}")["s"][0] if secret else "") != self.introspection_client:
            return Response(status_code=401)
        form = parse_qs((await request.body()).decode())
        return JSONResponse(self.active.get(form["token"][0], {"active": False}))

    async def _register(self, request: Request) -> Response:
        registered = await request.json()
        client_id = secrets.token_hex(6)
        self.clients[client_id] = registered
        return JSONResponse({**registered, "client_id": client_id}, 201)

    async def _authorize(self, request: Request) -> Response:
        """Its user, who is Ann, agrees to everything."""
        self.requests.append(request.url.path)
        asked = dict(request.query_params)
        code = secrets.token_urlsafe(12)
        self.codes[code] = asked
        back = {"code": code, "state": asked.get("state", ""), "iss": self.issuer}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}", 302)

    async def _token(self, request: Request) -> Response:
        self.requests.append(request.url.path)
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        client = form.get("client_id") or self._client_of(request)
        match form["grant_type"]:
            case "authorization_code":
                asked = self.codes.pop(form["code"])
                verifier = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
                if verifier.decode().rstrip("=") != asked["code_challenge"]:
                    return JSONResponse({"error": "invalid_grant"}, 400)
                granted = self._granted(form, asked.get("scope"), sub="ann", client_id=asked["client_id"])
            case "client_credentials":
                granted = self._granted(form, form.get("scope"), sub=client, client_id=client)
            case kind if kind == JWT_BEARER:
                # The grant of the enterprise's identity provider, which this server trusts (SEP-990).
                assertion = jwt.decode(form["assertion"], options={"verify_signature": False})
                granted = self._granted(form, form.get("scope"), sub=assertion["sub"], client_id=client)
            case _:
                return JSONResponse({"error": "unsupported_grant_type"}, 400)
        return JSONResponse(granted, headers={"cache-control": "no-store"})

    def _granted(self, form: Mapping[str, str], scope: str | None, **claims: Any) -> dict[str, Any]:
        token = self.token(aud=form.get("resource"), scope=scope or "", **claims)
        return {"access_token": token, "token_type": "Bearer", "expires_in": 300, "scope": scope or ""}

    @staticmethod
    def _client_of(request: Request) -> str:
        _, _, credentials = request.headers.get("authorization", "").partition(" ")
        return base64.b64decode(credentials).decode().partition(":")[0]


@asynccontextmanager
async def authorization_server(
    path: str = "/realms/acme", algorithm: str = "ES256"
) -> AsyncIterator[AuthorizationServer]:
    """One that runs, with a key."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        issuer = f"http://127.0.0.1:{listening.getsockname()[1]}{path}"
        made = AuthorizationServer(issuer, [Key.make()])
        server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=made.routes()), log_config=None, access_log=False, lifespan="off")
        )
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield made
        finally:
            if made.hold is not None:
                made.hold.set()
            server.should_exit = True
            await serving


def tampered(token: str, **claims: Any) -> str:
    """The token with other claims under the signature that it had."""
    header, payload, signature = token.split(".")
    changed = json.loads(base64.urlsafe_b64decode(payload + "==")) | claims
    encoded = base64.urlsafe_b64encode(json.dumps(changed).encode()).rstrip(b"=").decode()
    return f"{header}.{encoded}.{signature}"
