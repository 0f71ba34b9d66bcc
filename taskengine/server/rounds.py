"""The rounds of a `tools/call` that asks before it can end: what this request brings, and what it is asked back."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taskengine.errors import MissingCapability
from taskengine.questions import missing_capabilities
from taskengine.records import Answered, Question
from taskengine.server.call import Call
from taskengine.server.request_state import RequestState, RequestStateError, digest
from taskengine.tool import Tool
from taskengine.wire import modern
from taskengine.wire.jsonrpc import INVALID_PARAMS, RpcError

__all__ = ["Rounds", "fingerprint", "read_rounds"]


@dataclass(frozen=True, slots=True)
class Rounds:
    """A call with the memory of its earlier rounds; each round is a request of its own (M-MRTR-11)."""

    call: Call
    tool: Tool
    arguments: Mapping[str, Any]
    state: RequestState
    """With no rounds behind it for a call that begins, with answers or without (M-MRTR-19)."""
    responses: Mapping[str, Any]
    """Raw `inputResponses` of this request."""

    def was_other(self, question: Question) -> bool:
        """Whether an earlier round asked something else under this key, so that its answer cannot be used."""
        return self.state.asked.get(question.key, fingerprint(question)) != fingerprint(question)

    async def ask(self, questions: Sequence[Question], answered: Iterable[Answered]) -> dict[str, Any]:
        """The result that asks these questions; all answers so far travel in its state. Raises MissingCapability."""
        new = list(answered)
        answers = {**self.state.answers, **{each.question.key: each.response for each in new}}
        asked = {question.key: fingerprint(question) for question in (*(each.question for each in new), *questions)}
        still_open = {question.key for question in questions}
        state = replace(
            self.state,
            answers={key: answer for key, answer in answers.items() if key not in still_open},
            asked={**self.state.asked, **asked},
            nonce=self.state.nonce or secrets.token_urlsafe(16),
        )
        return await self._input_required(questions, state)

    async def ask_for_task(self, task_id: str, questions: Sequence[Question] = ()) -> dict[str, Any]:
        """The result that makes the client come back to a task it does not know of (A-53), to answer these questions
        or, without any, only to go on waiting (M-MRTR-21). Raises MissingCapability."""
        return await self._input_required(questions, replace(self.state, answers={}, task_id=task_id))

    async def _input_required(self, questions: Sequence[Question], state: RequestState) -> dict[str, Any]:
        missing = missing_capabilities(questions, self.call.envelope.capabilities)
        if missing:
            raise MissingCapability(missing)
        service = self.call.service
        sealed = replace(state, digest=_identifier(self.call, self.tool, self.arguments), rounds=state.rounds + 1)
        token = await service.sealer.seal(sealed)
        return modern.input_required_result(questions, token, service.meta)


def fingerprint(question: Question) -> str:
    return digest(question.method, question.key, question.params)


async def read_rounds(call: Call, tool: Tool, arguments: Mapping[str, Any]) -> Rounds:
    """What `inputResponses` and `requestState` bring. Raises RpcError and RequestStateError (M-MRTR-07, M-MRTR-17)."""
    responses = call.mapping("inputResponses") if "inputResponses" in call.params else {}
    if "requestState" not in call.params:
        return Rounds(call, tool, arguments, RequestState(call.caller.owner), responses)
    token = call.params["requestState"]
    if not isinstance(token, str):
        raise RpcError(INVALID_PARAMS, "params.requestState must be a string")
    state = await call.service.sealer.open(token, call.caller.owner, _identifier(call, tool, arguments))
    if state.nonce is not None and tool.ask_first and state.age > call.service.ttl_of(tool):
        # The task it once made may be swept by now, and would be made a second time (M-MRTR-10).
        raise RequestStateError("The requestState is too old: start again without it and without inputResponses")
    return Rounds(call, tool, arguments, state, responses)


def _identifier(call: Call, tool: Tool, arguments: Mapping[str, Any]) -> str:
    """Of the call, in all its rounds. It is worked out only where a state is sealed or opened."""
    return digest(call.request.method, tool.name, arguments)
