"""The five kinds of clients: with tasks and without, on three revisions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from taskengine.wire import modern
from tests.presentations.clients import PATIENCE_S, POLL_S, Answers, Client, Ended, Handshake, Modern, ended
from tests.presentations.transports import Lost, Message

# with tasks


class ModernTasks(Modern):
    name = "2026-07-28 with tasks"
    failed_result = "completed"
    capabilities: ClassVar[Message] = {"elicitation": {}, "extensions": {modern.TASKS: {}}}

    async def begin(self, tool: str, **arguments: Any) -> str:
        result = await self._result("tools/call", {"name": tool, "arguments": arguments})
        assert result["resultType"] == "task", result
        return str(result["taskId"])

    async def _to_the_end(self, response: Message) -> Ended:
        if response.get("result", {}).get("resultType") == "task":
            return await self.finish(response["result"]["taskId"])
        return ended(response)

    async def finish(self, task_id: str) -> Ended:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                task = await self._get(task_id)
                match task["status"]:
                    case "completed":
                        return ended(task)
                    case "failed":
                        return ended({"error": task["error"]})
                    case "cancelled":
                        return Ended(task["statusMessage"], is_error=True)
                    case "input_required":
                        await self._update(task_id, task, self.user)
                await asyncio.sleep(POLL_S)

    async def asked(self, task_id: str, *sentences: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                questions = (await self._get(task_id)).get("inputRequests", {})
                if {question["params"]["message"] for question in questions.values()} == set(sentences):
                    return
                await asyncio.sleep(POLL_S)

    async def answer(self, task_id: str, answers: Answers) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                task = await self._get(task_id)
                if len(self._responses(task.get("inputRequests", {}), answers)) == len(answers):
                    break
                await asyncio.sleep(POLL_S)
        await self._update(task_id, task, answers)

    async def cancel(self, task_id: str) -> None:
        await self._result("tasks/cancel", {"taskId": task_id})

    async def status(self, task_id: str) -> str:
        return str((await self._get(task_id))["status"])

    async def knows(self, task_id: str) -> bool:
        response = await self.ask("tasks/get", {"taskId": task_id})
        assert "result" in response or response["error"]["code"] == -32602, response
        return "result" in response

    async def _get(self, task_id: str) -> Message:
        return await self._result("tasks/get", {"taskId": task_id})

    async def _update(self, task_id: str, task: Message, answers: Answers) -> None:
        responses = self._responses(task.get("inputRequests", {}), answers)
        if responses:
            await self._result("tasks/update", {"taskId": task_id, "inputResponses": responses})


class LegacyTasks(Handshake):
    name = "2025-11-25 with tasks"
    failed_result = "failed"
    version = "2025-11-25"
    capabilities: ClassVar[Message] = {"elicitation": {"form": {}}}

    async def call(self, tool: str, **arguments: Any) -> Ended:
        params = {"name": tool, "arguments": arguments, "task": {}}
        return await self._to_the_end(await self.ask("tools/call", params))

    async def begin(self, tool: str, **arguments: Any) -> str:
        result = await self._result("tools/call", {"name": tool, "arguments": arguments, "task": {}})
        assert result["task"]["status"] == "working"
        return str(result["task"]["taskId"])

    async def _to_the_end(self, response: Message) -> Ended:
        if "task" in response.get("result", {}):
            return await self.finish(response["result"]["task"]["taskId"])
        return ended(response)

    async def finish(self, task_id: str) -> Ended:
        return ended(await self.ask("tasks/result", {"taskId": task_id}))

    async def asked(self, task_id: str, *sentences: str) -> None:
        """What is asked comes on the stream of `tasks/result`, which is left afterwards."""
        self._pending.clear()
        request = self._request("tasks/result", {"taskId": task_id})
        waiting = asyncio.create_task(self.transport.request(request))
        async with asyncio.timeout(PATIENCE_S):
            while set(self._pending) != set(sentences):
                assert not waiting.done(), waiting.result()
                await asyncio.sleep(POLL_S)
        await self._leave(request["id"], waiting)

    async def answer(self, task_id: str, answers: Answers) -> None:
        """On the stream of a `tasks/result`, which is left afterwards."""
        self._pending.clear()
        request = self._request("tasks/result", {"taskId": task_id})
        waiting = asyncio.create_task(self.transport.request(request))
        async with asyncio.timeout(PATIENCE_S):
            while not set(answers) <= set(self._pending):
                assert not waiting.done(), waiting.result()
                await asyncio.sleep(POLL_S)
        before = (await self._result("tasks/get", {"taskId": task_id}))["lastUpdatedAt"]
        for sentence, fields in answers.items():
            await self._respond(sentence, fields)
        async with asyncio.timeout(PATIENCE_S):  # over stdio nothing acknowledges a response
            while (await self._result("tasks/get", {"taskId": task_id}))["lastUpdatedAt"] == before:
                await asyncio.sleep(POLL_S)
        await self._leave(request["id"], waiting)

    async def cancel(self, task_id: str) -> None:
        assert (await self._result("tasks/cancel", {"taskId": task_id}))["status"] == "cancelled"

    async def status(self, task_id: str) -> str:
        return str((await self._result("tasks/get", {"taskId": task_id}))["status"])

    async def knows(self, task_id: str) -> bool:
        response = await self.ask("tasks/get", {"taskId": task_id})
        assert "result" in response or response["error"]["code"] == -32602, response
        return "result" in response

    async def _leave(self, request_id: int, waiting: asyncio.Task[Message]) -> None:
        """End a wait, and nothing else (L-CANC-13)."""
        await self._cancel_request(request_id)
        waiting.cancel()
        with suppress(asyncio.CancelledError, Lost):  # nothing answers a request that was cancelled (L-CANC-10)
            await waiting
        self._pending.clear()


# without tasks


class Bridged(Client):
    """A client that knows no tasks: its model does what results tell it to, by the engine's own tools."""

    failed_result = "completed"

    async def begin(self, tool: str, **arguments: Any) -> str:
        state = self._read(ended(await self._handle(tool, **arguments)))
        return await self.newest(tool) if state is None else state.task_id  # a quick one had its result already

    async def finish(self, task_id: str) -> Ended:
        return await self._to_the_end(await self._wait(task_id))

    async def newest(self, tool: str) -> str:
        """The latest task of the tool: what a model looks for that has lost a call."""
        tasks = ended(await self._handle("task_list")).structured["tasks"]
        return next(str(task["task_id"]) for task in tasks if task["tool"] == tool)

    async def _to_the_end(self, response: Message) -> Ended:
        async with asyncio.timeout(PATIENCE_S):
            while (state := self._read(found := ended(response))) is not None:
                given = {key: self.user[said] for key, said in state.questions.items() if said in self.user}
                if given:
                    response = await self._handle("task_answer", task_id=state.task_id, answers=given)
                else:
                    response = await self._wait(state.task_id)
            return found

    async def asked(self, task_id: str, *sentences: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                state = self._read(ended(await self._wait(task_id)))
                assert state is not None
                if set(state.questions.values()) == set(sentences):
                    return

    async def answer(self, task_id: str, answers: Answers) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                state = self._read(ended(await self._wait(task_id)))
                assert state is not None
                keys = {said: key for key, said in state.questions.items()}
                if set(answers) <= set(keys):
                    break
        given = {keys[said]: fields for said, fields in answers.items()}
        taken = ended(await self._handle("task_answer", task_id=task_id, answers=given))
        assert taken.ok, taken

    async def cancel(self, task_id: str) -> None:
        assert ended(await self._handle("task_cancel", task_id=task_id)).ok

    async def knows(self, task_id: str) -> bool:
        found = ended(await self._wait(task_id))
        return not (found.is_error and found.text.startswith("Unknown or expired task"))

    async def give_up(self, calling: asyncio.Task[Ended]) -> None:
        """End an open call, the latest request, for good."""
        await self._cancel_request(self._ids)
        calling.cancel()
        with suppress(asyncio.CancelledError, Lost):
            await calling

    async def _wait(self, task_id: str) -> Message:
        return await self._handle("task_wait", task_id=task_id)

    async def _handle(self, tool: str, **arguments: Any) -> Message:
        return await self.ask("tools/call", {"name": tool, "arguments": arguments})

    def _read(self, found: Ended) -> State | None:
        """The task that the result names, or None for the result of the tool."""
        state = found.structured
        if not isinstance(state, dict) or "next" not in state:
            return None
        return State(state["task_id"], {key: asked["message"] for key, asked in state.get("questions", {}).items()})

    async def status(self, task_id: str) -> str:
        tasks = ended(await self._handle("task_list")).structured["tasks"]
        return next(str(task["status"]) for task in tasks if task["task_id"] == task_id)


@dataclass(frozen=True)
class State:
    task_id: str
    questions: Mapping[str, str]
    """Sentences by key."""


class ModernPlain(Modern, Bridged):
    name = "2026-07-28 without tasks"
    capabilities: ClassVar[Message] = {"elicitation": {}}

    async def call(self, tool: str, **arguments: Any) -> Ended:
        params: Message = {"name": tool, "arguments": arguments}
        response = await self.ask("tools/call", params)
        while response.get("result", {}).get("resultType") == "input_required":
            result = response["result"]
            responses = self._responses(result["inputRequests"], self.user)
            response = await self.ask(
                "tools/call", {**params, "inputResponses": responses, "requestState": result["requestState"]}
            )
        return await self._to_the_end(response)


class LegacyPlain(Handshake, Bridged):
    name = "2025-11-25 without tasks"
    version = "2025-11-25"
    capabilities: ClassVar[Message] = {"elicitation": {"form": {}}}


class Older(Handshake, Bridged):
    """Cannot be asked, and its model reads text only."""

    name = "2025-06-18"
    version = "2025-06-18"
    capabilities: ClassVar[Message] = {}

    def _read(self, found: Ended) -> State | None:
        named = re.search(r"task_id (tsk_[\w-]+)", found.text)
        if named is None:
            return None
        asked = re.findall(r"^- (\w+): (.*?) Fields: (\{.*\}); required: ", found.text, re.MULTILINE)
        assert all(json.loads(fields) for _, _, fields in asked)
        return State(named[1], {key: sentence for key, sentence, _ in asked})

    async def newest(self, tool: str) -> str:
        text = ended(await self._handle("task_list")).text
        found = re.search(rf"^(tsk_[\w-]+) {tool}: ", text, re.MULTILINE)
        assert found is not None, text
        return found[1]

    async def status(self, task_id: str) -> str:
        text = ended(await self._handle("task_list")).text
        found = re.search(rf"^{re.escape(task_id)} \w+: (\w+)", text, re.MULTILINE)
        assert found is not None, text
        return found[1]


KINDS: dict[str, type[Client]] = {
    "modern_tasks": ModernTasks,
    "modern_plain": ModernPlain,
    "legacy_tasks": LegacyTasks,
    "legacy_plain": LegacyPlain,
    "older": Older,
}
