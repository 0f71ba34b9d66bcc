"""What every kind of client does with a call, a question and a task; and how the revisions word it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from taskengine.wire import modern
from tests.presentations.transports import Message, Transport

POLL_S = 0.03
PATIENCE_S = 40.0
Answers = Mapping[str, dict[str, Any]]
"""What the user says, by the sentence of the question: the fields of the form."""


@dataclass(frozen=True)
class Ended:
    """What a call came to: its text, or the message and code of a JSON-RPC error."""

    text: str
    is_error: bool = False
    code: int | None = None
    structured: Any = None

    @property
    def ok(self) -> bool:
        return not self.is_error and self.code is None


class Client(ABC):
    """Its user answers the questions that stand in `user`, and keeps the others open."""

    name: ClassVar[str]
    failed_result: ClassVar[str]
    """The status of a task whose result is an error of the tool (D-15)."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.user: dict[str, dict[str, Any]] = {}
        self._ids = 0

    async def open(self) -> None:
        self.transport.told = self._told
        await self.transport.open()
        await self._greet()

    async def restart(self) -> None:
        """The front end is killed and started again."""
        await self.transport.restart()
        if not self.transport.keeps_sessions:
            await self._greet()

    async def close(self) -> None:
        await self.transport.close()

    async def call(self, tool: str, **arguments: Any) -> Ended:
        """To the end, with the user's answers."""
        return await self._to_the_end(await self.ask("tools/call", {"name": tool, "arguments": arguments}))

    async def ask(self, method: str, params: Message) -> Message:
        """The response to a request."""
        return await self.transport.request(self._request(method, params))

    @abstractmethod
    async def begin(self, tool: str, **arguments: Any) -> str:
        """The task that the call has become."""

    @abstractmethod
    async def finish(self, task_id: str) -> Ended:
        """What the task came to, once it has, with the user's answers on the way. Raises Lost."""

    @abstractmethod
    async def asked(self, task_id: str, *sentences: str) -> None:
        """Wait until just these questions are put to this client."""

    @abstractmethod
    async def answer(self, task_id: str, answers: Answers) -> None:
        """Answer these questions, and no others, once they are open."""

    @abstractmethod
    async def cancel(self, task_id: str) -> None: ...

    @abstractmethod
    async def status(self, task_id: str) -> str: ...

    @abstractmethod
    async def knows(self, task_id: str) -> bool: ...

    async def until(self, task_id: str, status: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.status(task_id) != status:
                await asyncio.sleep(POLL_S)

    # parts

    async def _greet(self) -> None:  # noqa: B027 - most kinds say nothing before their first request
        pass

    async def _told(self, message: Message) -> None:  # noqa: B027 - nor are told anything
        pass

    @abstractmethod
    async def _to_the_end(self, response: Message) -> Ended: ...

    def _request(self, method: str, params: Message) -> Message:
        self._ids += 1
        return {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}

    async def _result(self, method: str, params: Message) -> Message:
        response = await self.ask(method, params)
        assert "result" in response, response
        result: Message = response["result"]
        return result

    async def _cancel_request(self, request_id: int) -> None:
        params: Message = {"requestId": request_id, "reason": "The user gave up"}
        await self.transport.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


def ended(response: Message) -> Ended:
    if "error" in response:
        return Ended(response["error"]["message"], code=response["error"]["code"])
    result = response["result"]
    text = "\n".join(block["text"] for block in result["content"])
    return Ended(text, result.get("isError", False), None, result.get("structuredContent"))


# clients of each revision


class Modern(Client):
    """2026-07-28."""

    capabilities: ClassVar[Message]

    def _request(self, method: str, params: Message) -> Message:
        envelope = {modern.VERSION_KEY: modern.VERSION, modern.CAPABILITIES_KEY: self.capabilities}
        return super()._request(method, {"_meta": envelope, **params})

    async def _cancel_request(self, request_id: int) -> None:
        if not self.transport.ends_with_its_stream:
            await super()._cancel_request(request_id)

    def _responses(self, questions: Message, answers: Answers) -> Message:
        known = {key: answers.get(question["params"]["message"]) for key, question in questions.items()}
        return {key: accept(fields) for key, fields in known.items() if fields is not None}


class Handshake(Client):
    """The revisions that begin with `initialize`, and ask by requests of their own."""

    version: ClassVar[str]
    capabilities: ClassVar[Message]

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._pending: dict[str, Message] = {}
        """Requests of the server that wait for the user, by sentence."""

    async def _greet(self) -> None:
        self._pending.clear()
        info = {"name": self.name, "version": "1"}
        params = {"protocolVersion": self.version, "capabilities": self.capabilities, "clientInfo": info}
        assert (await self._result("initialize", params))["protocolVersion"] == self.version
        await self.transport.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def _told(self, message: Message) -> None:
        if message["method"] == "elicitation/create":
            sentence = message["params"]["message"]
            self._pending[sentence] = message
            if sentence in self.user:
                await self._respond(sentence, self.user[sentence])

    async def _respond(self, sentence: str, fields: dict[str, Any]) -> None:
        request = self._pending.pop(sentence)
        await self.transport.send({"jsonrpc": "2.0", "id": request["id"], "result": accept(fields)})


def accept(fields: dict[str, Any]) -> Message:
    return {"action": "accept", "content": fields}
