"""Settings of a deployment: from `TASKENGINE_*` variables, then the file named by `TASKENGINE_CONFIG` (TOML).

What a tool needs is declared with the tool; what a machine or an operator decides is here. `docs/settings.md` is
made from this module (`taskengine settings`).
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from taskengine.durations import Duration
from taskengine.errors import SettingsError

__all__ = ["Settings", "load_settings", "without_password"]

PREFIX = "TASKENGINE_"
MEBIBYTE = 1 << 20


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
    max_body_bytes: int = Field(4 * MEBIBYTE, ge=1024, description="Largest request body.")
    max_result_bytes: int = Field(16 * MEBIBYTE, ge=1024, description="Largest result of a tool, as JSON.")
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
        description="The tools task_wait, task_answer, task_cancel, task_list for clients without tasks; `auto` leaves "
        "out task_list when the front end listens on more than this machine.",
    )
    ttl: Duration = Field(
        timedelta(days=1), gt=timedelta(0), description="Retention from creation, for tools that give none."
    )
    max_ttl: Duration = Field(
        timedelta(days=30),
        gt=timedelta(0),
        description="Longest retention a tool may give; a task that waits for answers longer than this fails.",
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
    presence_lock: bool = Field(
        True, description="Hold a session lock as sign of life; off behind a transaction-mode pooler."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

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
    def _ttl_within_maximum(self) -> Settings:
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


_NOT_SETTINGS = {f"{PREFIX}CONFIG", f"{PREFIX}TARGET"}
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
