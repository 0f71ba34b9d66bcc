"""`taskengine worker`."""

from __future__ import annotations

import logging

import typer

from taskengine import logs
from taskengine.cli.screen import Target
from taskengine.garbage import spare_what_stays
from taskengine.jobs.worker import run_worker
from taskengine.settings import load_settings

__all__ = ["worker"]

logger = logging.getLogger("taskengine.worker")


def worker(target: Target) -> None:
    """Run the calls of TARGET's durable tools, and the janitors. Stops on SIGTERM: what runs goes on elsewhere."""
    settings = load_settings()
    logs.configure(settings)
    raise typer.Exit(run_worker(target, settings, on_ready=_ready))


def _ready() -> None:
    spare_what_stays()
    logger.info("taskengine ready: worker")
