"""What becomes of messages that a worker has fetched from Redis when its connection ends."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.transport import redis

from taskengine.jobs import transport
from taskengine.jobs.app import JOB, make_app, make_queue
from taskengine.jobs.bell import Bell
from taskengine.records import Doorbell
from taskengine.settings import Settings


def _fetched(settings: Settings) -> tuple[Connection, list[Any]]:
    """A worker's connection, and the message that it has been given and has not done with."""
    url = settings.broker_url.get_secret_value()
    options = make_app(settings).conf.broker_transport_options
    connection = Connection(url, transport=f"{transport.__name__}:Transport", transport_options=options)
    messages: list[Any] = []
    consumer = connection.Consumer(
        [make_queue(settings, "default")], on_message=messages.append, accept=["json"], auto_declare=True
    )
    consumer.consume()
    while not messages:
        connection.drain_events(timeout=30)
    return connection, messages


@pytest.mark.parametrize("broker_is_there", [True, False])
def test_what_was_fetched_is_left_to_the_relay(
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broker_is_there: bool,
) -> None:
    """Nothing is tried again and again, nothing is written to a file, and nothing stands on Redis for it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bell = Bell(settings)
    bell._send(Doorbell("tsk_a", 1, "default"))
    connection, messages = _fetched(settings)
    client = connection.default_channel.client
    assert [key for key in client.scan_iter(f"{settings.namespace}:*") if b"unacked" in key] == []
    if not broker_is_there:

        def away(*_: Any, **__: Any) -> Any:
            raise ConnectionError("away")

        monkeypatch.setattr(connection.default_channel, "_put", away)
        monkeypatch.setattr(connection.default_channel, "conn_or_acquire", away)
    with caplog.at_level(logging.INFO):
        connection.default_channel.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(messages) == 1
    assert bell._depth("default") == 0
    bell._disconnect()
    connection.release()


def test_a_connection_publishes_with_the_client_it_has(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    initialised = redis.PrefixedStrictRedis.__init__

    def counted(self: Any, *args: Any, **options: Any) -> None:
        made.append(self)
        initialised(self, *args, **options)

    monkeypatch.setattr(redis.PrefixedStrictRedis, "__init__", counted)
    bell = Bell(settings)
    bell._send(Doorbell("tsk_0", 1, "default"))
    made.clear()
    bell._send(Doorbell("tsk_1", 1, "default"))
    assert bell._depth("default") == 2
    assert made == []
    bell._disconnect()
    bell._send(Doorbell("tsk_2", 1, "default"))
    assert bell._depth("default") == 3
    bell._disconnect()
    _fetched(settings)[0].release()


@pytest.mark.parametrize("more", [(), (Doorbell("tsk_b", 2, "default"),)], ids=["one", "two"])
def test_a_message_is_the_one_that_celery_sends_itself(settings: Settings, more: tuple[Doorbell, ...]) -> None:
    """The bell goes around `send_task`; a worker, of this version or another, is to see no difference."""
    bell = Bell(settings)
    bell._send(Doorbell("tsk_a", 1, "default"), *more)
    connection, (ours,) = _fetched(settings)
    connection.release()
    app = make_app(settings, ["default"])
    app.send_task(
        JOB,
        args=["tsk_a", 1],
        kwargs={"more": [(each.task_id, each.attempt) for each in more]} if more else {},
        queue=make_queue(settings, "default").name,
        ignore_result=True,
        retry=False,
        argsrepr="",
        kwargsrepr="",
    )
    connection, (its,) = _fetched(settings)
    connection.release()
    bell._disconnect()
    assert ours.payload == its.payload
    assert (ours.content_type, ours.content_encoding) == (its.content_type, its.content_encoding)
    own = {"id", "root_id"}
    assert {**ours.headers, **dict.fromkeys(own)} == {**its.headers, **dict.fromkeys(own)}
    assert ours.headers["id"] == ours.headers["root_id"] == ours.properties["correlation_id"]
    different = {"correlation_id", "delivery_tag", "reply_to"}  # nobody replies
    slipped = {"argsrepr", "kwargsrepr"}  # two headers, which `send_task` takes for properties as well
    expected = {name: value for name, value in its.properties.items() if name not in slipped}
    assert {**ours.properties, **dict.fromkeys(different)} == {**expected, **dict.fromkeys(different)}
