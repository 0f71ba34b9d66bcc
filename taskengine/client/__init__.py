"""A thin client of the 2026-07-28 wire: tool calls, tasks, questions, progress. Over HTTP, for any server.

async with Client("http://127.0.0.1:8080/mcp") as client:
    outcome = await client.call("audit_source", {"path": "."}, on_progress=print, on_question=ask_somebody)
    print(outcome.text)
"""

from __future__ import annotations

from taskengine.client.client import Client, OnProgress, OnQuestion
from taskengine.client.results import Outcome, Progress, Remote, RemoteError, ServerUnreachable

__all__ = [
    "Client",
    "OnProgress",
    "OnQuestion",
    "Outcome",
    "Progress",
    "Remote",
    "RemoteError",
    "ServerUnreachable",
]
