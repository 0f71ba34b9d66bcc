"""Standard input and output are the protocol's alone, whatever a tool or a library does."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.processes import Processes, environment
from tests.stdio.conftest import APP, NOISY, Start
from tests.stdio.host import Host

NOISES = ("print", "saved", "descriptor", "library", "child")


def test_nothing_but_messages_reaches_the_output(start_host: Start) -> None:
    """X-STDIO-02, X-STDIO-03: what is written at import and by a tool, on every level, is on standard error."""
    host = start_host(NOISY)
    assert host.ask("tools/call", {"name": "noisy", "arguments": {}}, tasks=False)["content"][0]["text"] == "said"
    host.initialize()
    assert host.legacy("tools/call", {"name": "noisy", "arguments": {}})["content"][0]["text"] == "said"
    assert host.close() == 0
    for line in host.raw:
        assert json.loads(line)["jsonrpc"] == "2.0"
    errors = host.errors.read_text()
    for noise in NOISES:
        assert f"{noise} import" in errors
        assert errors.count(f"{noise} tool") == 2


def test_each_message_is_one_line_of_utf8(host: Host) -> None:
    """X-STDIO-01, in both revisions."""
    text = "a\nb\r\nc\u2028d\x0bé😀"
    host.initialize()
    for ask in (host.ask, host.legacy):
        assert ask("tools/call", {"name": "quick", "arguments": {"text": text}})["content"][0]["text"] == text
    assert host.close() == 0
    for line in host.raw:
        assert line.endswith(b"\n")
        assert b"\r" not in line
        assert json.loads(line.decode("utf-8"))["jsonrpc"] == "2.0"


def test_a_tool_that_reads_standard_input_gets_none_of_the_messages(start_host: Start) -> None:
    host = start_host(NOISY)
    reading = host.modern("tools/call", {"name": "greedy", "arguments": {}}, tasks=False)
    listed = [host.modern("tools/list", {}) for _ in range(3)]
    for request_id in listed:
        assert "result" in host.answer_to(request_id)
    answer = next((each for each in host.kept if each.get("id") == reading), None) or host.answer_to(reading)
    assert answer["result"]["content"][0]["text"] == "''"


def test_no_request_is_written_in_2026_07_28(host: Host) -> None:
    """M-STDIO-06: a question is part of a result."""
    asked = host.ask("tools/call", {"name": "greet", "arguments": {}}, tasks=False)
    assert asked["resultType"] == "input_required"
    assert host.close() == 0
    assert not [line for line in host.raw if {"id", "method"} <= json.loads(line).keys()]


def test_a_host_that_closed_standard_error_is_served(deployment: Processes) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "taskengine", "stdio", NOISY],
        input=b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
        capture_output=True,
        env=environment(deployment.settings),
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_without_standard_input_it_says_what_is_wrong(deployment: Processes) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "taskengine", "stdio", APP],
        capture_output=True,
        text=True,
        env=environment(deployment.settings),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input is closed" in done.stderr
    assert "Traceback" not in done.stderr
