"""What others chose (names, messages, log lines, questions, owners) neither commands a terminal nor forges a line."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from taskengine.cli import audit, follow, logs, ls, screen, show
from taskengine.store import Store
from tests.store.calls import claimed, question, stored, take

EVIL = "a\x1b]0;owned\x07b\x9b31mc\u202ed\re\x7ff[bold]g[/bold]:bug:\nforged\tline"
COMMANDS = ("\x1b]", "\x07", "\x9b", "\u202e", "\r", "\x7f")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the commands write at a terminal."""
    written = io.StringIO()
    written.isatty = lambda: True  # type: ignore[method-assign]
    shown = screen._Screen(file=written, force_terminal=True, width=400, highlight=False, soft_wrap=True, emoji=False)
    for module in (ls, show, logs, audit):
        monkeypatch.setattr(module, "out", shown)
    return written


async def test_what_others_chose_is_shown_and_not_obeyed(
    store: Store, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = await claimed(store, owner=EVIL, arguments={"text": EVIL})
    await store.attempts.progress(claim, 1, 2, EVIL, EVIL)
    asked = question(EVIL.replace("\n", " "))
    asked = type(asked)(asked.key, asked.method, {**asked.params, "message": EVIL})
    await store.attempts.suspend(claim, [asked], EVIL)
    row = await store.inspection.show(claim.task_id)
    line: dict[str, Any] = {"at": row["created_at"], "level": "info", "logger": "x", "data": EVIL}
    ls._print(await store.inspection.list(statuses=(), tool=None, since=None, limit=10))
    listed = terminal.getvalue()
    show._print(row, [line])
    logs._print(line)
    monkeypatch.setattr(sys, "stdout", terminal)
    follow.print_json({"data": EVIL, EVIL: [EVIL]})
    written = terminal.getvalue()
    assert not [mark for mark in COMMANDS if mark in written]
    assert "[bold]g[/bold]:bug:" in written
    assert len(listed.splitlines()) == 2  # the titles and the task
    assert not [each for each in written.splitlines() if each.lstrip("\x1b[0m").startswith("forged")]
    assert json.loads(written[written.index("{\n") :]) == {"data": EVIL, EVIL: [EVIL]}


async def test_a_pipe_gets_a_line_for_each_task(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    doorbell = await stored(store, owner=EVIL)
    assert await take(store, doorbell) is not None
    ls._print(await store.inspection.list(statuses=(), tool=None, since=None, limit=10))
    (row,) = capsys.readouterr().out.splitlines()
    assert "forged line" in row
