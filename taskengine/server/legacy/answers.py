"""Responses of clients: from the id of our request to the task, or the running tool, that asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from taskengine.errors import BadAnswer, TaskNotFound
from taskengine.questions import check_answer
from taskengine.records import Question
from taskengine.server.caller import Caller
from taskengine.server.legacy.front import Front, fingerprint
from taskengine.server.legacy.session import Session
from taskengine.store.sessions import Notice
from taskengine.wire import legacy
from taskengine.wire.jsonrpc import INVALID_REQUEST, Response, RpcError, dumps

__all__ = ["DIRECT", "QUESTION", "take_response"]

audit = logging.getLogger("taskengine.audit")

DIRECT = "asked"
QUESTION = "question"


async def take_response(front: Front, caller: Caller, session: Session, response: Response) -> None:
    """The answer is stored, or with the tool that waits for it; a late one is ignored (A-26).

    Raises RpcError for a response to nothing this session was asked (X-SEC-08), BadAnswer for one that does not fit:
    the question is then put again. Raises StoreUnavailable.
    """
    try:
        facts = front.tokens.open(response.id, DIRECT, QUESTION) if isinstance(response.id, str) else {}
    except ValueError:
        facts = {}
    if facts.get("s") != session.id:
        raise RpcError(INVALID_REQUEST, "There is no request of the server that this could answer")
    assert isinstance(response.id, str)
    if facts["kind"] == DIRECT:
        await _hand_over(front, session, response.id, response.body)
    else:
        await _store(front, caller, facts["t"], facts["k"], response)


async def _hand_over(front: Front, session: Session, request_id: str, body: Mapping[str, Any]) -> None:
    future = front.answers.get(request_id)
    if future is None:
        await front.service.store.sessions.post(fingerprint(request_id), dumps(body).decode())
        await front.service.store.sessions.tell(Notice(session.id, "answer", fingerprint(request_id)))
    elif not future.done():
        future.set_result(body)


async def _store(front: Front, caller: Caller, task_id: str, key: str, response: Response) -> None:
    service = front.service
    try:
        record = await service.store.tasks.get(task_id, caller.owner)
    except TaskNotFound:
        return
    question = next((each for each in record.open_questions if each.key == key), None)
    if question is None:
        return
    try:
        answer = read_answer(question, response.body)
    except BadAnswer:
        await service.store.inputs.take_back(task_id, key=key)
        raise
    assert isinstance(response.id, str)
    front.remember_answer(response.id)
    doorbell = await service.store.inputs.answer(task_id, caller.owner, {key: answer})
    audit.info("task %s got an answer from %s", task_id, caller.owner)
    if doorbell is not None:
        service.bell.ring(doorbell)


def read_answer(question: Question, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is kept of a response. Raises BadAnswer."""
    if "error" in body:
        return legacy.read_refusal(question.method, body)
    answer: Mapping[str, Any] = body.get("result")  # type: ignore[assignment]
    check_answer(question, answer)
    return answer
