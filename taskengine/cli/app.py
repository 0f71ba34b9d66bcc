"""The commands in the order in which `taskengine --help` lists them."""

from __future__ import annotations

import typer

from taskengine.cli.answer import answer
from taskengine.cli.audit import audit
from taskengine.cli.call import call
from taskengine.cli.cancel import cancel
from taskengine.cli.connect import connect
from taskengine.cli.demo import demo
from taskengine.cli.dev import dev
from taskengine.cli.doctor import doctor
from taskengine.cli.keep import keep
from taskengine.cli.logs import logs
from taskengine.cli.ls import ls
from taskengine.cli.migrate import migrate
from taskengine.cli.queues import pause, resume
from taskengine.cli.rekey import rekey
from taskengine.cli.result import result
from taskengine.cli.serve import serve
from taskengine.cli.settings import settings
from taskengine.cli.show import show
from taskengine.cli.stdio import stdio
from taskengine.cli.tools import tools
from taskengine.cli.version import version
from taskengine.cli.watch import watch
from taskengine.cli.worker import worker

__all__ = ["app"]

app = typer.Typer(
    name="taskengine",
    help="Durable tasks for MCP: tool calls that run for hours, survive anything and wait for people.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ENGINE = (dev, demo, serve, stdio, connect, worker, pause, resume, migrate, rekey, doctor, settings, version)
TASKS = (tools, call, watch, ls, show, logs, result, answer, cancel, audit)
for command in (*ENGINE, *TASKS):
    app.command()(command)
app.command(hidden=True)(keep)
