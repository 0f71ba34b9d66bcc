"""Celery's own way in: `TASKENGINE_TARGET=file.py:engine celery -A workers.celery_app worker`.

`taskengine worker TARGET` does the same with fewer words; this entry is for those who run Celery workers by their own
means (a process manager's template, `celery multi`).
"""

from __future__ import annotations

import os

from taskengine.errors import SettingsError
from taskengine.garbage import spare_what_stays
from taskengine.jobs.worker import make_worker_app
from taskengine.logs import configure
from taskengine.settings import load_settings
from taskengine.target import load_target

__all__ = ["app"]

settings = load_settings()
configure(settings)
target = os.environ.get("TASKENGINE_TARGET")
if not target:
    raise SettingsError("TASKENGINE_TARGET is not set: name the engine, for example workers.demo:engine")
app = make_worker_app(load_target(target), target, settings, on_ready=spare_what_stays)
