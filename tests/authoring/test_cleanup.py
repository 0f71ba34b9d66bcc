"""Declaring and running `on_cancel`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from taskengine import Cancelled, Context, DeclarationError, TaskEngine
from taskengine.cleanup import clean_up_async, clean_up_sync
from taskengine.tool import Tool


class City(BaseModel):
    name: str


def book(city: City, days: int = 2) -> str:
    """Book a stay."""
    return city.name * days


async def book_async(city: City, ctx: Context, days: int = 2) -> str:
    """Book a stay."""
    return city.name * days


def declared(function: Any, **options: Any) -> Tool:
    return TaskEngine("cleanup").add_tool(function, **options)


def undo(cancelled: Cancelled) -> None: ...


async def undo_async(cancelled: Cancelled) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        (book, {"on_cancel": undo_async}, "make it a plain def"),
        (book_async, {"on_cancel": undo}, "make it an async def"),
        (book, {"on_cancel": "undo"}, "give a function"),
        (book, {"on_cancel": Cancelled}, "give a function"),
        (book, {"on_cancel": lambda: None}, "called with one value"),
        (book, {"on_cancel": undo, "task": "forbidden"}, "on_cancel is for tasks"),
    ],
)
def test_an_on_cancel_that_cannot_work_is_refused(function: Any, options: Any, sentence: str) -> None:
    with pytest.raises(DeclarationError, match=sentence):
        declared(function, **options)


@pytest.mark.parametrize("function", [book, book_async])
def test_it_is_told_the_arguments_as_the_function_got_them(function: Any) -> None:
    tool = declared(function)
    cancelled = tool.cancelled("tsk_1", 3, {"city": {"name": "Oslo"}})
    assert cancelled == Cancelled("tsk_1", tool.name, 3, {"city": City(name="Oslo"), "days": 2})


def test_arguments_that_no_longer_fit_are_told_as_they_were_sent() -> None:
    assert declared(book).cancelled("tsk_1", 1, {"town": "Oslo"}).arguments == {"town": "Oslo"}


async def test_what_goes_wrong_in_it_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Cancelled) -> None:
        raise ValueError("too late")

    async def fail_async(_: Cancelled) -> None:
        raise SystemExit(1)

    cancelled = Cancelled("tsk_1", "book", 1, {})
    assert clean_up_sync(undo, cancelled) is None
    assert await clean_up_async(undo_async, cancelled) is None
    assert clean_up_sync(fail, cancelled) == "its cleanup failed"
    assert await clean_up_async(fail_async, cancelled) == "its cleanup failed"
    assert "too late" in caplog.text
    assert "tsk_1" in caplog.text
