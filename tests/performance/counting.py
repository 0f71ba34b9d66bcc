"""What one process sends to Postgres and to the broker, counted on the wire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

__all__ = ["Commands", "Statements", "each_command"]

_NEGOTIATIONS = {80877103, 80877104}
"""Codes of a client that asks for encryption before it begins."""


class Statements:
    """Executed statements, round trips and commits of a PostgreSQL client, over all its connections.

    What makes a connection ready (its start, preparing a statement) does not count.
    """

    def __init__(self, ignored: Callable[[str], bool]) -> None:
        self.executed: Counter[str] = Counter()
        self.trips = 0
        self.commits = 0
        self.ignored = ignored

    def tap(self) -> Callable[[bytes], None]:
        return _Session(self).feed

    def execute(self, sql: str) -> bool:
        """Whether it counts."""
        if self.ignored(sql):
            return False
        self.executed[sql] += 1
        return True


class _Session:
    """The messages of one connection."""

    def __init__(self, counts: Statements) -> None:
        self._counts = counts
        self._buffer = b""
        self._begun = False
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._pending = False
        self._in_block = False

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head = 1 if self._begun else 0
            if len(self._buffer) < head + 4:
                return
            end = head + int.from_bytes(self._buffer[head : head + 4])
            if len(self._buffer) < end:
                return
            kind, body = self._buffer[:head], self._buffer[head + 4 : end]
            self._buffer = self._buffer[end:]
            if self._begun:
                self._take(kind, body)
            else:
                self._begun = int.from_bytes(body[:4]) not in _NEGOTIATIONS

    def _take(self, kind: bytes, body: bytes) -> None:
        words = body.split(b"\0", 2)
        match kind:
            case b"P":
                self._prepared[words[0]] = words[1].decode()
            case b"B":
                self._portals[words[0]] = self._prepared[words[1]]
            case b"E":
                self._pending |= self._counts.execute(self._portals[words[0]])
            case b"S":
                self._counts.trips += self._pending
                self._counts.commits += self._pending and not self._in_block
                self._pending = False
            case b"Q":
                self._ask(words[0].decode())

    def _ask(self, sql: str) -> None:
        counted = self._counts.execute(sql)
        self._counts.trips += counted
        match sql.split(maxsplit=1)[0].rstrip(";").upper():
            case "BEGIN" | "START":
                self._in_block = True
            case "COMMIT" | "ROLLBACK" | "END":
                self._in_block = False
                self._counts.commits += counted
            case _:
                self._counts.commits += counted and not self._in_block


class Commands:
    """Commands that a client sends to Redis or Valkey, by name."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()

    def tap(self) -> Callable[[bytes], None]:
        def count(parts: list[bytes]) -> None:
            self.sent[parts[0].decode().upper()] += 1

        return each_command(count)


def each_command(take: Callable[[list[bytes]], None]) -> Callable[[bytes], None]:
    """What is to see every piece that a client sends; `take` gets each command when it is there whole, name first."""
    buffer = b""

    def feed(data: bytes) -> None:
        nonlocal buffer
        buffer += data
        while (taken := _command(buffer)) is not None:
            parts, buffer = taken
            take(parts)

    return feed


def _command(buffer: bytes) -> tuple[list[bytes], bytes] | None:
    """The parts of the first command and what follows it; None while it is not there whole."""
    count, newline, rest = buffer.partition(b"\r\n")
    if not newline:
        return None
    parts = []
    for _ in range(int(count.removeprefix(b"*"))):
        length, newline, rest = rest.partition(b"\r\n")
        size = int(length.removeprefix(b"$") or 0)
        if not newline or len(rest) < size + 2:
            return None
        parts.append(rest[:size])
        rest = rest[size + 2 :]
    return parts, rest
