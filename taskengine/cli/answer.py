"""`taskengine answer`: what a task asks, answered at the prompt or on the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from taskengine.cli.follow import DETACHED, DONE, FAILED, WAITING, Json, code_of, print_json, report, report_error
from taskengine.cli.form import Unanswered, answer_at_prompt, can_ask, content_of
from taskengine.cli.pairs import read_pairs
from taskengine.cli.place import Data, Revision, Token, Url, Where
from taskengine.cli.screen import complain, good
from taskengine.cli.watch import TaskId
from taskengine.client import Outcome, Remote, RemoteError, ServerUnreachable, Task
from taskengine.errors import BadAnswer, SettingsError
from taskengine.lifecycle import Status
from taskengine.records import Question

__all__ = ["answer"]


def answer(
    task_id: TaskId,
    values: Annotated[
        list[str] | None,
        typer.Argument(help="name=text or name:=json for each field.", metavar="[NAME=TEXT|NAME:=JSON]..."),
    ] = None,
    *,
    question: Annotated[str | None, typer.Option("--question", "-q", help="Key of the question, of several.")] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Accept what has no fields, such as a page to open.")
    ] = False,
    decline: Annotated[bool, typer.Option("--decline", help="Decline to answer.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Answer that the question was dismissed.")] = False,
    url: Url = None,
    token: Token = None,
    data: Data = None,
    revision: Revision = None,
    as_json: Annotated[bool, Json] = False,
) -> None:
    """Answer what a task asks: at the prompt, or by values. Exit code 0 when it was taken, 4 when there are questions
    and no answers."""
    if [accept, decline, dismiss, bool(values)].count(True) > 1:
        raise SettingsError("give one of: values, --accept, --decline, --dismiss")
    where = Where(url, data, token, revision)
    given = read_pairs(values or ())
    action = "accept" if accept else "decline" if decline else "cancel" if dismiss else None

    async def run() -> int:
        async with where.open() as place:
            task = place.task(task_id)
            seen = await task.status()
            if not seen.questions:
                return _not_asking(seen, as_json)
            responses = await _responses(seen)
            if responses is None:
                waiting = Outcome(Status.INPUT_REQUIRED, {}, task_id, seen.questions)
                return report(waiting, where, as_json=as_json)
            return await _send(task, responses, where, as_json)

    async def _responses(seen: Remote) -> Mapping[str, Any] | None:
        if given or action is not None:
            chosen = _chosen(seen.questions, question)
            return {chosen.key: {"action": action} if action in {"decline", "cancel"} else content_of(chosen, given)}
        if can_ask() and not as_json:
            wanted = [_chosen(seen.questions, question)] if question is not None else seen.questions
            return {each.key: await answer_at_prompt(each) for each in wanted}
        return None

    try:
        code = asyncio.run(run())
    except (BadAnswer, ValueError) as error:
        code = report_error(error, as_json=as_json)
    except Unanswered:
        complain("left unanswered")
        code = WAITING
    except KeyboardInterrupt:
        complain("left unanswered")
        code = DETACHED
    except (RemoteError, ServerUnreachable) as error:
        code = report_error(error, as_json=as_json)
    raise typer.Exit(code)


async def _send(task: Task, responses: Mapping[str, Any], where: Where, as_json: bool) -> int:
    await task.answer(responses)
    if as_json:
        print_json({"taskId": task.id, "answered": list(responses)})
    else:
        good(f"answered; follow it with: {where.command('watch', str(task.id))}")
    return DONE


def _not_asking(seen: Remote, as_json: bool) -> int:
    if as_json:
        print_json({"taskId": seen.id, "status": seen.status.value, "answered": []})
    else:
        waits = seen.status is Status.INPUT_REQUIRED
        complain(
            f"the task asks nothing {'here: somebody else is being asked' if waits else 'now'} ({seen.status.value})"
        )
    return FAILED if code_of(seen) != WAITING else WAITING


def _chosen(questions: tuple[Question, ...], key: str | None) -> Question:
    keys = ", ".join(question.key for question in questions)
    if key is None and len(questions) > 1:
        raise SettingsError(f"the task asks several things ({keys}): name one with --question")
    for question in questions:
        if key is None or question.key == key:
            return question
    raise SettingsError(f"the task does not ask {key}; it asks {keys}")
