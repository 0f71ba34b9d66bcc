"""A host that starts `taskengine stdio` and talks to it line by line."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TASKS = "io.modelcontextprotocol/tasks"
PREFIX = "io.modelcontextprotocol/"
WAIT_S = 60.0


class Host:
    def __init__(self, arguments: list[str], env: Mapping[str, str], errors: Path) -> None:
        with errors.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "taskengine", "stdio", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(env),
                start_new_session=True,
            )
        self.errors = errors
        self.kept: list[dict[str, Any]] = []
        """Messages that were read while another was waited for."""
        self.raw: list[bytes] = []
        """Every line of the output, as it was."""
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._last_id = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.raw.append(line)
            self._lines.put(line)
        self._lines.put(b"")

    def send_line(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, message: Mapping[str, Any]) -> None:
        self.send_line(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def modern(self, method: str, params: Mapping[str, Any], *, tasks: bool = True, **meta: Any) -> int:
        """Send a request of 2026-07-28; its id."""
        self._last_id += 1
        capabilities: dict[str, Any] = {"elicitation": {}}
        if tasks:
            capabilities["extensions"] = {TASKS: {}}
        envelope = {f"{PREFIX}protocolVersion": "2026-07-28", f"{PREFIX}clientCapabilities": capabilities}
        info = {f"{PREFIX}clientInfo": {"name": "host", "version": "1"}}
        self.send({"id": self._last_id, "method": method, "params": {**params, "_meta": {**envelope, **info, **meta}}})
        return self._last_id

    def receive(self, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The next message. Raises queue.Empty when there is none."""
        line = self._lines.get(timeout=timeout_s)
        assert line, f"the output ended: {self.errors.read_text()[-3000:]}"
        message: dict[str, Any] = json.loads(line)  # nothing but messages, each on one line (X-STDIO-01, X-STDIO-02)
        assert message["jsonrpc"] == "2.0"
        return message

    def answer_to(self, request_id: int | str) -> dict[str, Any]:
        """The answer to a request; what comes before is kept, as the answers to others are until they are asked for."""
        for kept in self.kept:
            if kept.get("id") == request_id and "method" not in kept:
                self.kept.remove(kept)
                return kept
        while True:
            message = self.receive()
            if message.get("id") == request_id and "method" not in message:
                return message
            self.kept.append(message)

    def ask(self, method: str, params: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """The result of a request of 2026-07-28."""
        answer = self.answer_to(self.modern(method, params, **options))
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def quiet(self, seconds: float) -> bool:
        """Whether nothing is said for so long."""
        try:
            self.kept.append(self.receive(seconds))
        except queue.Empty:
            return True
        return False

    def initialize(self, **capabilities: Any) -> dict[str, Any]:
        """Begin a session of 2025-11-25; what the server says to that."""
        info = {"name": "host", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": info}
        result = self.legacy("initialize", params)
        self.send({"method": "notifications/initialized"})
        return result

    def begin(self, method: str, params: Mapping[str, Any]) -> int:
        """Send a request of the session; its id."""
        self._last_id += 1
        self.send({"id": self._last_id, "method": method, "params": params})
        return self._last_id

    def legacy(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a request of the session."""
        answer = self.answer_to(self.begin(method, params))
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def said(self, text: str) -> None:
        """Wait until its standard error has the text."""
        deadline = time.monotonic() + WAIT_S
        while text not in self.errors.read_text(errors="replace"):
            assert time.monotonic() < deadline, f"{text!r} is not in {self.errors.read_text(errors='replace')[-3000:]}"
            time.sleep(0.02)

    def close(self) -> int:
        """End the input, as a host does; the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(WAIT_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self._reader.join(5)
        self.process.stdout.close()


def clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKENGINE_")}
    return kept | {"PYTHONDONTWRITEBYTECODE": ""}  # or each start would compile the engine anew
