"""Settings of a deployment: from `TASKENGINE_*` variables, then the file named by `TASKENGINE_CONFIG` (TOML).

What a tool needs is declared with the tool; what a machine or an operator decides is here. `docs/settings.md` is
made from this module (`taskengine settings`).
"""

from __future__ import annotations

import base64
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from limits import parse as parse_rate
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from taskengine.auth.config import LOCAL_HOSTS, METHODS, Issuer, canonical_uri, is_scope, problem
from taskengine.auth.static import StaticToken, read_tokens, token_lines
from taskengine.durations import Duration
from taskengine.errors import SettingsError

__all__ = ["Settings", "load_settings", "without_password"]

PREFIX = "TASKENGINE_"
MEBIBYTE = 1 << 20
KEY_BYTES = 32
WILDCARDS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    # services
    database_url: SecretStr = Field(
        SecretStr("postgresql://127.0.0.1:5432/taskengine"), description="PostgreSQL 14 or later."
    )
    broker_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis or Valkey (redis://…) or RabbitMQ (amqp://…)."
    )
    namespace: str = Field(
        "taskengine", pattern=r"^[a-z][a-z0-9_]{0,30}$", description="Prefix of the queues and keys on the broker."
    )
    database_pool: int = Field(10, ge=2, le=200, description="Most database connections of one process.")
    prepared_statements: bool = Field(
        True,
        description="Keep statements prepared in each database session; off behind a pooler in transaction mode that "
        "does not keep them for its clients (PgBouncer before 1.21, or with `max_prepared_statements=0`).",
    )

    # front end
    host: str = Field("127.0.0.1", description="Address the front end listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port the front end listens on; 0 takes a free one.")
    path: str = Field("/mcp", pattern=r"^/\S*$", description="Path of the MCP endpoint.")
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="Host names (without port) that may appear in Host and Origin, beside localhost; `*` for any.",
    )
    secret: SecretStr | None = Field(
        None, description="Key for requestState, 32 characters or more. Without it one is kept in the database."
    )
    encryption_keys: list[SecretStr] = Field(
        default_factory=list,
        description="Keys that seal arguments, answers, results and journals at rest, newest first, each the output of "
        "`openssl rand -base64 32`; none: they are stored as they are.",
    )
    encryption_keys_file: Path | None = Field(
        None, description="File with such keys, one a line, newest first; they come after those of the variable."
    )
    max_connections: int = Field(
        10_000,
        ge=10,
        description="Most connections of one front end; one that is not being answered makes room for the next.",
    )
    max_body_bytes: int = Field(4 * MEBIBYTE, ge=1024, description="Largest request body.")
    max_result_bytes: int = Field(16 * MEBIBYTE, ge=1024, description="Largest result of a tool, as JSON.")
    max_argument_bytes: int = Field(
        4 * MEBIBYTE, ge=1024, description="Largest arguments of a call, as JSON; `max_body_bytes` limits them too."
    )
    call_rate: str | None = Field(
        None,
        description="Calls of tools per owner, such as `600/minute` or `10/second`; 0 for no limit. Without it "
        "600/minute where callers are authorized, else no limit.",
    )
    poll_rate: str | None = Field(
        None,
        description="Polls per owner that come sooner than their pollIntervalMs, and other requests about tasks, "
        "sessions and streams, beside a burst; written and defaulted as `call_rate`. Polls that are on time are not "
        "limited.",
    )
    max_open_tasks_per_owner: int | None = Field(
        None,
        ge=0,
        description="Most tasks of one owner that have not ended; 0 for no limit. Without it 1000 where callers are "
        "authorized, else no limit.",
    )
    max_open_tasks: int = Field(0, ge=0, description="Most tasks that have not ended, of all owners; 0 for no limit.")
    max_queued: int = Field(
        0, ge=0, description="When so many tasks wait for a worker, new calls get the busy error; 0 for no limit."
    )
    max_queued_per_queue: int = Field(
        0, ge=0, description="The same for each queue, where async and sync tools count apart; 0 for no limit."
    )
    max_streams_per_owner: int | None = Field(
        None,
        ge=0,
        description="Most streams of one owner that are open at all front ends together (docs/limits.md); 0 for no "
        "limit. Without it 1000 where callers are authorized, else no limit.",
    )
    keep_alive: Duration = Field(
        timedelta(seconds=15), gt=timedelta(0), description="Interval of comment lines on open streams."
    )
    request_state_ttl: Duration = Field(
        timedelta(days=1), gt=timedelta(0), description="How long a client may take to retry an input_required call."
    )
    session_ttl: Duration = Field(
        timedelta(days=30), gt=timedelta(0), description="How long a 2025-11-25 session lasts; its tasks outlive it."
    )
    stream_limit: Duration = Field(
        timedelta(0),
        description="After this time a response stream of 2025-11-25 is closed for the client to come back for the "
        "rest; 0 for never.",
    )
    shutdown_grace: Duration = Field(
        timedelta(seconds=5), description="How long open requests may go on when the front end stops."
    )
    list_ttl: Duration = Field(timedelta(seconds=60), description="How long clients may cache tools/list and discover.")

    # who may call
    auth_issuers: list[Issuer] = Field(
        default_factory=list,
        description="Authorization servers whose tokens are accepted, as addresses or as objects (docs/security.md); "
        "none, and no `auth_tokens`: anybody who reaches the endpoint may call.",
    )
    auth_resource: str | None = Field(
        None,
        description="Address of the endpoint as clients know it, which is the audience of their tokens; default: made "
        "of `host`, `port` and `path`.",
    )
    auth_tokens: list[SecretStr] = Field(
        default_factory=list,
        description="Tokens for development, each `token:owner` or `token:owner:scope scope`; without scopes it may do "
        "everything.",
    )
    auth_tokens_file: Path | None = Field(None, description="File with such tokens, one a line.")
    auth_insecure: bool = Field(
        False,
        description="Allow what is meant for development: `auth_tokens` where other machines reach the endpoint, and "
        "issuers without TLS on other machines.",
    )
    auth_scopes: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Scopes that a method needs, where it is not the usual (docs/security.md); `*` for all methods not "
        'named: `{"*": ["mcp"]}`.',
    )
    auth_scope_includes: dict[str, list[str]] = Field(
        default_factory=lambda: {"tools:call": ["tasks:write"], "tasks:write": ["tasks:read"]},
        description="Scopes that stand for others as well.",
    )
    auth_claims: list[str] = Field(
        default_factory=list,
        description="Claims of the token that tools see in `ctx.caller.claims`, and that are stored with the task.",
    )
    auth_leeway: Duration = Field(
        timedelta(seconds=30),
        le=timedelta(minutes=5),
        description="How far the clocks of issuers may be off.",
    )
    auth_cache: Duration = Field(
        timedelta(minutes=1),
        le=timedelta(hours=1),
        description="How long a token that was checked is not checked again: one that is revoked is accepted so long.",
    )
    single_user: bool | None = Field(
        None,
        description="Without authorization: all who reach the endpoint are one person, who may list tasks; default: "
        "where it listens on this machine only, and `allowed_hosts` names no other.",
    )

    # tasks
    quick_wait: Duration = Field(
        timedelta(milliseconds=300),
        description="How long tools/call waits for a plain result before it answers with a task.",
    )
    inline_wait: Duration = Field(
        timedelta(seconds=25),
        description="How long a call of a client without tasks stays open before it ends with the task's id.",
    )
    handle_tools: Literal["auto", "all", "without_list", "none"] = Field(
        "auto",
        description="The tools task_wait, task_answer, task_cancel, task_list for clients without tasks; `auto` and "
        "`all` leave out task_list where callers are neither authorized nor surely one person (`single_user`).",
    )
    ttl: Duration = Field(
        timedelta(days=1), gt=timedelta(0), description="Retention from creation, for tools that give none."
    )
    max_ttl: Duration = Field(
        timedelta(days=30),
        gt=timedelta(0),
        description="Longest retention a tool may give; a task that waits for answers longer than this fails.",
    )
    min_ttl: Duration = Field(
        timedelta(seconds=1), gt=timedelta(0), description="Shortest retention that a client may ask for."
    )
    max_questions: int = Field(1_000, ge=1, description="Most questions of one task; one that asks more fails.")
    max_log_lines: int = Field(
        10_000, ge=0, description="Most log lines kept of one task; the rest is dropped, and a last line says so."
    )
    show_exceptions: bool = Field(
        True, description="Name the exception in the result of a tool that raised; else a neutral sentence."
    )
    max_crashes: int = Field(3, ge=1, description="Lost attempts after which a task fails.")

    linger: Duration = Field(
        timedelta(seconds=1),
        description="How long an attempt that asks, or calls another tool, waits where it is before it ends; 0 for "
        "not at all. Only while its worker has a free slot beside it.",
    )

    # workers
    async_slots: int = Field(500, ge=1, description="Async tool calls one worker runs at once.")
    sync_slots: int = Field(
        default_factory=lambda: max(2, os.cpu_count() or 2),
        ge=0,
        description="Sync tool calls one worker runs at once, each in a process; default: the number of cores.",
    )
    queues: list[str] = Field(
        default_factory=list, description="Queues this worker serves; default: all queues the tools name."
    )
    lease: Duration = Field(
        timedelta(seconds=15), ge=timedelta(seconds=1), description="A worker unheard of for this long is dead."
    )
    drain_grace: Duration = Field(
        timedelta(seconds=20), description="How long running attempts may go on when a worker stops."
    )
    cancel_grace: Duration = Field(
        timedelta(seconds=10),
        description="How long a cancelled tool may go on before its process is replaced: its own, for a sync tool; an "
        "async tool's is the worker, which starts anew once nothing else runs in it.",
    )
    cleanup_limit: Duration = Field(
        timedelta(seconds=30), gt=timedelta(0), description="How long the `on_cancel` of a tool may run."
    )
    audit: bool = Field(
        True,
        description="Record who created, answered and cancelled tasks, read their results, listed them or was refused.",
    )
    audit_retention: Duration = Field(
        timedelta(days=30), gt=timedelta(0), description="How long entries of the audit log are kept."
    )
    presence_lock: bool = Field(
        True, description="Hold a session lock as sign of life; off behind a transaction-mode pooler."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["text", "json"] = Field(
        "text", description="Log lines for people, or each as a JSON object for a collector."
    )

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme not in {"postgresql", "postgres"}:
            raise ValueError("give a PostgreSQL address: postgresql://user@host:5432/database")
        return url

    @field_validator("broker_url")
    @classmethod
    def _is_broker(cls, url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme not in {"redis", "rediss", "amqp", "amqps"}:
            raise ValueError(
                "give a Redis or Valkey address (redis://host:6379/0) or a RabbitMQ one (amqp://host:5672)"
            )
        return url

    @field_validator("secret")
    @classmethod
    def _is_long(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < 32:
            raise ValueError("give 32 characters or more, for example the output of `openssl rand -hex 32`")
        return secret

    @model_validator(mode="after")
    def _keys_can_seal(self) -> Settings:
        self.key_ring()
        return self

    def key_ring(self) -> tuple[bytes, ...]:
        """The keys of the ring, newest first. Raises ValueError, which shows none of them."""
        given = [("encryption_keys", key.get_secret_value()) for key in self.encryption_keys]
        if self.encryption_keys_file is not None:
            name = f"encryption_keys_file ({self.encryption_keys_file})"
            try:
                lines = self.encryption_keys_file.read_text("utf-8").splitlines()
            except (OSError, ValueError):
                raise ValueError(f"{name} cannot be read") from None
            given += [(name, line.strip()) for line in lines if line.strip() and not line.startswith("#")]
        keys: list[bytes] = []
        for number, (source, text) in enumerate(given, 1):
            try:
                key = base64.b64decode(text, validate=True)
            except ValueError:
                key = b""
            if len(key) != KEY_BYTES:
                raise ValueError(
                    f"{source}: key {number} is not the base64 of {KEY_BYTES} bytes: make one with "
                    "`openssl rand -base64 32`"
                )
            keys.append(key)
        return tuple(dict.fromkeys(keys))

    @field_validator("auth_resource")
    @classmethod
    def _is_resource(cls, address: str | None) -> str | None:
        return None if address is None else canonical_uri(address)

    @field_validator("auth_scopes", "auth_scope_includes")
    @classmethod
    def _are_scopes(cls, scopes: dict[str, list[str]]) -> dict[str, list[str]]:
        for scope in (each for named in scopes.values() for each in named):
            if not is_scope(scope):
                raise ValueError(f"{scope!r} is not a scope: give visible ASCII without quotes, spaces and backslashes")
            if scope == "offline_access":  # whether a client may go on without its user is not ours to ask (M-AUTH-16)
                raise ValueError("offline_access is between clients and their authorization server: leave it out")
        return scopes

    @field_validator("auth_scopes")
    @classmethod
    def _are_methods(cls, scopes: dict[str, list[str]]) -> dict[str, list[str]]:
        unknown = sorted(set(scopes) - set(METHODS) - {"*"})
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: scopes can be given to {', '.join(METHODS)} and *")
        return scopes

    @model_validator(mode="after")
    def _authorization_can_work(self) -> Settings:
        found = problem(
            self.auth_issuers,
            host=self.host,
            has_address=self.auth_resource is not None or not (self.port == 0 or self.host in WILDCARDS),
            has_tokens=bool(self.auth_tokens) or self.auth_tokens_file is not None,
            insecure=self.auth_insecure,
        )
        if found is not None:
            raise ValueError(found)
        return self

    @property
    def authorized(self) -> bool:
        """Every request must say who sends it."""
        return bool(self.auth_issuers or self.auth_tokens) or self.auth_tokens_file is not None

    @property
    def one_owner(self) -> bool:
        """Whoever calls is surely one person."""
        return not self.authorized and (self._only_here if self.single_user is None else self.single_user)

    @property
    def _only_here(self) -> bool:
        """Only this machine can reach the endpoint: a name that others know it by means that a proxy is before it."""
        return self.host in LOCAL_HOSTS and {name.lower() for name in self.allowed_hosts} <= LOCAL_HOSTS

    @property
    def resource(self) -> str:
        """The address of the endpoint, in its canonical form."""
        if self.auth_resource is not None:
            return self.auth_resource
        host = f"[{self.host}]" if ":" in self.host else self.host
        return canonical_uri(f"http://{host}:{self.port}{self.path}")

    def static_tokens(self) -> dict[bytes, StaticToken]:
        """By digest. Raises SettingsError, which shows none of them."""
        lines = [token.get_secret_value() for token in self.auth_tokens]
        if self.auth_tokens_file is not None:
            lines += token_lines(self.auth_tokens_file)
        return read_tokens(lines)

    @field_validator("call_rate", "poll_rate")
    @classmethod
    def _is_rate(cls, rate: str | None) -> str | None:
        if rate is None or rate.strip() == "0":
            return None if rate is None else "0"
        try:
            parse_rate(rate)
        except ValueError:
            raise ValueError("give a number per second, minute, hour or day, such as 600/minute, or 0") from None
        return rate

    @model_validator(mode="after")
    def _ttl_within_maximum(self) -> Settings:
        if self.min_ttl > self.max_ttl:
            raise ValueError("min_ttl is longer than max_ttl: lower min_ttl or raise max_ttl")
        if self.ttl > self.max_ttl:
            raise ValueError("ttl is longer than max_ttl: lower ttl or raise max_ttl")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        path = os.environ.get(f"{PREFIX}CONFIG")
        files = (TomlConfigSettingsSource(settings_cls, Path(path)),) if path else ()
        return (init_settings, env_settings, *files)


_NOT_SETTINGS = {f"{PREFIX}CONFIG", f"{PREFIX}TARGET", f"{PREFIX}TOKEN"}
"""Variables with the prefix that are read elsewhere; `TASKENGINE_TEST_*` are the tests'."""


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process; `overrides` win. Raises SettingsError, which names every wrong one."""
    problems = [
        f"{name} is not a setting: see `taskengine settings` for the list"
        for name in sorted(os.environ)
        if name.startswith(PREFIX)
        and name not in _NOT_SETTINGS
        and not name.startswith(f"{PREFIX}TEST_")
        and name.removeprefix(PREFIX).lower() not in Settings.model_fields
    ]
    path = os.environ.get(f"{PREFIX}CONFIG")
    if path and not Path(path).is_file():
        problems.append(f"{PREFIX}CONFIG names {path}, which is not a file")
    try:
        if problems:
            raise SettingsError("\n".join(problems))
        return Settings(**overrides)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{PREFIX}{name.upper()}: {message}" if name else message)
        raise SettingsError("\n".join(problems)) from None


def without_password(url: str) -> str:
    """The address fit for a log or a screen."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:***@{host}").geturl()
