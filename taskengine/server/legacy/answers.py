"""Responses of clients: from the id of our request to the task, or the running tool, that asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from taskengine.errors import BadAnswer, TaskNotFound
from taskengine.questions import ELICIT, check_answer
from taskengine.records import Question
from taskengine.server.caller import Caller
from taskengine.server.legacy.front import Front
from taskengine.server.legacy.requests import fingerprint
from taskengine.server.legacy.session import Session
from taskengine.store.sessions import Notice
from taskengine.wire import legacy
from taskengine.wire.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, Response, RpcError, dumps

__all__ = ["DIRECT", "OFFERS", "QUESTION", "read_answer", "read_question_id", "take_response"]

audit = logging.getLogger("taskengine.audit")

DIRECT = "asked"
QUESTION = "question"
OFFERS = 3
"""How often one stream puts a question whose answers do not fit; then it counts as not answered."""


async def take_response(front: Front, caller: Caller, session: Session, response: Response) -> None:
    """The answer is stored, or with the tool that waits for it; a late one is ignored (A-26).

    Raises RpcError for a response to nothing this session was asked (X-SEC-08), BadAnswer for one that does not fit:
    the question is then put again. Raises StoreUnavailable.
    """
    facts = read_question_id(front, session, response.id)
    if facts is None:
        front.service.trail.note(caller.owner, "refuse", detail="an answer to what its session was not asked")
        raise RpcError(INVALID_REQUEST, "There is no request of the server that this could answer")
    assert isinstance(response.id, str)
    if facts["kind"] == DIRECT:
        await _hand_over(front, session, response.id, response.body)
    else:
        await _store(front, caller, session, facts, response)


def read_question_id(front: Front, session: Session, request_id: object) -> dict[str, Any] | None:
    """What the id of a request of ours leads to; None for what this session was not asked."""
    try:
        facts = front.tokens.open(request_id, DIRECT, QUESTION) if isinstance(request_id, str) else {}
    except ValueError:
        return None
    return facts if facts.get("s") == session.id else None


async def _hand_over(front: Front, session: Session, request_id: str, body: Mapping[str, Any]) -> None:
    future = front.answers.get(request_id)
    if future is None:
        await front.service.store.sessions.post(fingerprint(request_id), dumps(body).decode())
        await front.service.store.sessions.tell(Notice(session.id, "answer", fingerprint(request_id)))
    elif not future.done():
        future.set_result(body)


async def _store(front: Front, caller: Caller, session: Session, facts: Mapping[str, Any], response: Response) -> None:
    service, task_id, key = front.service, facts["t"], facts["k"]
    try:
        record = await service.store.tasks.get(task_id, caller.owner)
    except TaskNotFound:
        return
    question = next((each for each in record.open_questions if each.key == key), None)
    if question is None:
        return
    assert isinstance(response.id, str)
    await front.remember_answer(session, response.id)
    refused = None
    try:
        answer = read_answer(question, response.body)
    except BadAnswer as error:
        if facts["n"] < OFFERS:
            await service.store.inputs.take_back(task_id, key=key)
            raise
        refused, answer = error, _given_up(question)
    doorbell = await service.store.inputs.answer(task_id, caller.owner, {key: answer})
    audit.info("task %s got an answer from %s", task_id, caller.owner)
    if doorbell is not None:
        service.bell.ring(doorbell)
    if refused is not None:
        raise refused


def read_answer(question: Question, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is kept of a response. Raises BadAnswer."""
    if "error" in body:
        return legacy.read_refusal(question.method, body)
    answer: Mapping[str, Any] = body.get("result")  # type: ignore[assignment]
    check_answer(question, answer)
    return answer


def _given_up(question: Question) -> Mapping[str, Any]:
    """What the tool gets of a client whose answers never fit: no task waits for such a one for ever (L-ELIC-31)."""
    if question.method == ELICIT:
        return {"action": "cancel"}
    return {"error": {"code": INVALID_PARAMS, "message": "The client's answers did not fit what was asked"}}
