"""Durable tasks for MCP: tool calls that run for hours, survive anything and wait for people.

    from taskengine import Context, TaskEngine

    engine = TaskEngine("reports")

    @engine.tool(ttl="7d", timeout="6h")
    async def build_report(dataset: str, ctx: Context) -> str:
        "Build the yearly report of a dataset."
        await ctx.progress(1, 3, "reading")
        ...

`taskengine.testing` calls such a tool in a test; `taskengine dev app.py:engine` serves it.
"""

from taskengine.arrivals import CallOutcome
from taskengine.calls import ToolResult
from taskengine.cleanup import Cancelled
from taskengine.context import Context, SyncContext
from taskengine.engine import TaskEngine
from taskengine.errors import (
    BadAnswer,
    CallFailed,
    DeclarationError,
    EngineError,
    MissingCapability,
    ProtocolError,
    ReplayMismatch,
    StepFailed,
    TooDeep,
    ToolError,
    Unanswered,
)
from taskengine.identity import AccessToken, Identity
from taskengine.limits import Limit, per, total
from taskengine.questions import Answer, Form, Root, Roots, Sample, SampleAnswer, Url
from taskengine.sensitive import Sensitive
from taskengine.tool import Tool

__all__ = [
    "AccessToken",
    "Answer",
    "BadAnswer",
    "CallFailed",
    "CallOutcome",
    "Cancelled",
    "Context",
    "DeclarationError",
    "EngineError",
    "Form",
    "Identity",
    "Limit",
    "MissingCapability",
    "ProtocolError",
    "ReplayMismatch",
    "Root",
    "Roots",
    "Sample",
    "SampleAnswer",
    "Sensitive",
    "StepFailed",
    "SyncContext",
    "TaskEngine",
    "TooDeep",
    "Tool",
    "ToolError",
    "ToolResult",
    "Unanswered",
    "Url",
    "per",
    "total",
]
