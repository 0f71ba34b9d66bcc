"""The official Python client (`mcp` 2.3) with the tasks extension, which it leaves to others to bring."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import mcp_types
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError
from pydantic import ConfigDict, Field

TASKS = "io.modelcontextprotocol/tasks"


class TaskParams(mcp_types.RequestParams):
    model_config = ConfigDict(extra="allow", populate_by_name=True)
    task_id: str = Field(alias="taskId")
    input_responses: dict[str, Any] | None = Field(None, alias="inputResponses")


class TaskRequest(mcp_types.Request[TaskParams, str]):
    name_param: ClassVar[str | None] = "taskId"


class DetailedTask(mcp_types.Result):
    model_config = ConfigDict(extra="allow", populate_by_name=True)
    task_id: str = Field(alias="taskId")
    status: str
    poll_interval_ms: int = Field(1000, alias="pollIntervalMs")
    input_requests: dict[str, Any] = Field(default_factory=dict, alias="inputRequests")
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class CreatedTask(mcp_types.Result):
    model_config = ConfigDict(extra="allow", populate_by_name=True)
    result_type: Literal["task"] = Field("task", alias="resultType")
    task_id: str = Field(alias="taskId")


class TasksExtension(ClientExtension):
    """Polls a task to its end; `answers` maps the key of a question to the content of an accepted form."""

    identifier = TASKS

    def __init__(self, answers: dict[str, dict[str, Any]] | None = None) -> None:
        self.answers = answers or {}
        self.tasks: list[str] = []
        self.statuses: list[str] = []

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=CreatedTask, resolve=self._resolve)]

    async def _resolve(self, created: CreatedTask, context: ClaimContext) -> mcp_types.CallToolResult:
        self.tasks.append(created.task_id)
        while True:
            task = await context.session.send_request(
                TaskRequest(method="tasks/get", params=TaskParams(taskId=created.task_id)), DetailedTask
            )
            self.statuses.append(task.status)
            match task.status:
                case "completed":
                    return mcp_types.CallToolResult.model_validate(task.result)
                case "failed":
                    assert task.error is not None
                    raise MCPError(code=task.error["code"], message=task.error["message"])
                case "cancelled":
                    raise MCPError(code=-32800, message="cancelled")
                case "input_required":
                    await self._answer(task, context)
            await asyncio.sleep(task.poll_interval_ms / 1000)

    async def _answer(self, task: DetailedTask, context: ClaimContext) -> None:
        responses = {key: {"action": "accept", "content": self.answers[key]} for key in task.input_requests}
        params = TaskParams(taskId=task.task_id, inputResponses=responses)
        await context.session.send_request(TaskRequest(method="tasks/update", params=params), mcp_types.EmptyResult)
