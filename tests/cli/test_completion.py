"""Completion in the shells, as the scripts that `--install-completion` puts there ask for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """`taskengine` on the path."""
    command = tmp_path / "taskengine"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m taskengine "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def _run(command: list[str], env: dict[str, str], **more: str) -> str:
    return subprocess.run(command, check=False, env={**env, **more}, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["taskengine", "ca"], ["call", "cancel"]),
        (["taskengine", "connect", "v"], ["vscode"]),
        (["taskengine", "ls", "--status", "f"], ["failed"]),
        (["taskengine", "call", "--rev"], ["--revision"]),
    ],
)
def test_bash_completes_commands_options_and_choices(env: dict[str, str], words: list[str], found: list[str]) -> None:
    script = _run(["taskengine"], env, _TASKENGINE_COMPLETE="source_bash")
    line = " ".join(f"'{word}'" for word in words)
    asked = (
        f'COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _taskengine_completion taskengine; echo "${{COMPREPLY[@]}}"'
    )
    assert sorted(_run(["bash", "-c", f"{script}\n{asked}"], env).split()) == sorted(found)


@pytest.mark.parametrize(
    ("shell", "more"),
    [
        ("zsh", {"_TYPER_COMPLETE_ARGS": "taskengine wat"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "taskengine wat", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_zsh_and_fish_get_what_their_scripts_ask_for(env: dict[str, str], shell: str, more: dict[str, str]) -> None:
    assert "complete" in _run(["taskengine"], env, _TASKENGINE_COMPLETE=f"source_{shell}")
    assert "watch" in _run(["taskengine"], env, _TASKENGINE_COMPLETE=f"complete_{shell}", **more)
