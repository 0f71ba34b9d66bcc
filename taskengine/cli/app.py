"""The commands in the order in which `taskengine --help` lists them."""

from __future__ import annotations

import typer

from taskengine.cli.demo import demo
from taskengine.cli.dev import dev
from taskengine.cli.doctor import doctor
from taskengine.cli.migrate import migrate
from taskengine.cli.serve import serve
from taskengine.cli.settings import settings
from taskengine.cli.version import version
from taskengine.cli.worker import worker

__all__ = ["app"]

app = typer.Typer(
    name="taskengine",
    help="Durable tasks for MCP: tool calls that run for hours, survive anything and wait for people.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (dev, demo, serve, worker, migrate, doctor, settings, version):
    app.command()(command)
