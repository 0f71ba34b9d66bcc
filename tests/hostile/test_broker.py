"""Whoever can write to the broker can neither run code in a worker nor stop it, nor touch a task."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import redis

from taskengine.jobs.app import JOB, queue_name
from taskengine.lifecycle import Status
from tests.jobs.calls import Calls
from tests.jobs.conftest import calls  # noqa: F401 (a fixture)
from tests.processes import ROOT, Processes

APP = str(ROOT / "tests" / "apps" / "app.py") + ":engine"


class _Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def envelope(queue: str, body: bytes, headers: dict[str, Any] | None = None, **more: Any) -> bytes:
    """A message as Celery's Redis transport writes it."""
    properties = {
        "delivery_info": {"exchange": "", "routing_key": queue},
        "delivery_tag": "forged",
        "delivery_mode": 2,
        "priority": 0,
        "body_encoding": "base64",
        "correlation_id": "forged",
        "reply_to": "",
        **more.pop("properties", {}),
    }
    known = {"lang": "py", "task": JOB, "id": "forged", "root_id": "forged", "parent_id": None, "group": None}
    message = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": known if headers is None else headers,
        "properties": properties,
        **more,
    }
    return json.dumps(message).encode()


async def test_forged_messages_do_nothing(calls: Calls, processes: Processes, tmp_path: Path) -> None:  # noqa: F811
    marker = tmp_path / "unpickled"
    worker = processes.worker(APP)
    pid = worker.pid
    task_id = await calls.submit("add", ring=False, a=1, b=2)
    settings = processes.settings
    queue = queue_name(settings, "default")
    pickled = pickle.dumps(([task_id, 1], {}, {"callbacks": _Payload(marker)}))
    as_pickle = {"content-type": "application/x-python-serialize", "content-encoding": "binary"}
    known = {"lang": "py", "task": JOB, "id": "forged", "root_id": "forged", "parent_id": None, "group": None}
    bodies: list[Any] = [
        None,
        {},
        [],
        [[]],
        [1, 2, 3],
        [[task_id], {}, {}],
        [[task_id, "1"], {}, {}],
        [[task_id, 10**40], {}, {}],
        [[task_id, -1], {}, {}],
        [[task_id, True], {}, {}],
        [["a\0b", 1], {}, {}],
        [["\ud800", 1], {}, {}],
        [["x" * 2_000_000, 1], {}, {}],
        [["'; DROP TABLE tasks; --", 1], {}, {}],
        [[task_id, 7], {"x": 1}, {"chord": {}, "errbacks": [1]}],
    ]
    forged = [
        b"",
        b"not json",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"7",
        b'{"body": 1}',
        b'{"body": "", "properties": {}, "headers": null}',
        b"[" * 100_000,
        envelope(queue, pickled, **as_pickle),
        envelope(queue, pickled, headers={}, **as_pickle),
        envelope(queue, pickled),
        envelope(queue, b"\xff"),
        envelope(queue, b"[" * 100_000),
        envelope(queue, b"[]", headers={"task": "os.system", "id": "x"}),
        envelope(queue, b"[]", headers={"task": {}, "id": []}),
        envelope(queue, b"[]", headers={"task": JOB}),
        envelope(queue, b"[]", headers={}),
        envelope(queue, b'{"task": "os.system", "args": ["x"], "id": "1"}', headers={}),
        envelope(queue, b"[]", headers=known | {"eta": "nonsense"}),
        envelope(queue, b"[]", headers=known | {"eta": "9999-12-31T23:59:59+00:00"}),
        envelope(queue, b"[]", headers=known | {"expires": {}}),
        envelope(queue, b"[]", headers=known | {"compression": "nothing"}),
        envelope(queue, gzip.compress(b" " * (1 << 24)), headers=known | {"compression": "application/x-gzip"}),
        envelope(queue, b"[]", properties={"delivery_info": 7}),
        envelope(queue, b"[]", properties={"delivery_info": {}}),
        envelope(queue, b"[]", properties={"delivery_tag": {}}),
        envelope(queue, b"[]", properties={"body_encoding": "none"}),
        *(envelope(queue, json.dumps(each).encode()) for each in bodies),
    ]
    broker = redis.Redis.from_url(settings.broker_url.get_secret_value())
    try:
        for message in forged:
            broker.lpush(f"{settings.namespace}:{queue}", message)
            try:
                ended = await calls.call("add", a=1, b=1)
            except TimeoutError:
                pytest.fail(f"the worker works no more after {message[:300]!r}:\n{worker.output()[-3000:]}")
            assert ended.status is Status.COMPLETED, message[:300]
            assert (worker.running, worker.pid) == (True, pid), (message[:300], worker.output()[-3000:])
    finally:
        broker.close()
    assert not marker.exists()
    assert (await calls.end(task_id)).attempt == 1
