"""A client for any MCP server over HTTP: tool calls, tasks, questions, progress; on 2026-07-28, 2025-11-25 and older.

async with Client("http://127.0.0.1:8080/mcp") as client:
    outcome = await client.call("audit_source", {"path": "."}, on_progress=print, on_question=ask_somebody)
    print(outcome.text)

    task = await client.submit("audit_source", {"path": "."})  # goes on by itself; task.id is all that is needed
    async for change in client.task(task.id):
        print(change.status, change.message)
"""

from __future__ import annotations

from taskengine.client.client import Client
from taskengine.client.handle import OnProgress, OnQuestion, Source, Task
from taskengine.client.results import Outcome, Progress, QuestionFirst, Remote, RemoteError, ServerUnreachable
from taskengine.client.revisions import REVISIONS
from taskengine.client.transport import Auth

__all__ = [
    "REVISIONS",
    "Auth",
    "Client",
    "OnProgress",
    "OnQuestion",
    "Outcome",
    "Progress",
    "QuestionFirst",
    "Remote",
    "RemoteError",
    "ServerUnreachable",
    "Source",
    "Task",
]
