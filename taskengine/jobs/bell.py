"""Rings doorbells without ever holding up a request.

`ring` only puts the doorbell into a bounded buffer; one thread publishes. A broker that is away, slow or frozen costs
that thread its time-outs and nobody else anything: what could not be published is dropped here and rung again by the
relay, which finds it in Postgres.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from taskengine.errors import EngineError
from taskengine.jobs.app import JOB, make_app, make_queue
from taskengine.records import Doorbell
from taskengine.settings import Settings

__all__ = ["Bell", "BrokerUnavailable"]

logger = logging.getLogger("taskengine.jobs")

_T = TypeVar("_T")

BUFFER = 10_000
RETRY_S = 1.0


class BrokerUnavailable(EngineError):
    """The broker cannot be reached; calls are accepted all the same and rung when it is back."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the broker is not available ({self.reason})"


class Bell:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app = make_app(settings)
        self._queues: dict[str, Any] = {}
        self._buffer: queue.Queue[Doorbell | _Errand | None] = queue.Queue(BUFFER)
        self._thread: threading.Thread | None = None
        self._connection: Any = None
        self._producer: Any = None
        self._away_until = 0.0
        self._away = False
        self.dropped = 0
        """Doorbells left to the relay since the start."""

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._publish_for_ever, name="bell", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Publish what is buffered, within `timeout_s`; what is left then is the relay's."""
        if self._thread is not None:
            try:
                self._buffer.put(None, timeout=timeout_s)
            except queue.Full:
                return
            self._thread.join(timeout_s)
            self._thread = None

    def ring(self, doorbell: Doorbell) -> None:
        """Publish soon. Never blocks and never raises; thread-safe."""
        try:
            self._buffer.put_nowait(doorbell)
        except queue.Full:
            self.dropped += 1

    def check(self, timeout_s: float = 3.0) -> None:
        """Raises BrokerUnavailable unless the broker answers within `timeout_s`. Blocks: call it in a thread."""
        self._ask(lambda: self._depth("default"), timeout_s)

    def depths(self, routes: Iterable[str], timeout_s: float = 3.0) -> dict[str, int]:
        """Messages that wait in each route's queue. Raises BrokerUnavailable. Blocks: call it in a thread."""
        return self._ask(lambda: {route: self._depth(route) for route in routes}, timeout_s)

    def _ask(self, question: Callable[[], _T], timeout_s: float) -> _T:
        errand = _Errand(question)
        try:
            self._buffer.put_nowait(errand)
            answer: _T = errand.future.result(timeout_s)
        except BrokerUnavailable:
            raise
        except (queue.Full, TimeoutError):
            raise BrokerUnavailable("no answer in time") from None
        except Exception as error:
            raise BrokerUnavailable(type(error).__name__) from error
        else:
            return answer

    def _publish_for_ever(self) -> None:
        while True:
            item = self._buffer.get()
            if item is None:
                self._disconnect()
                return
            if isinstance(item, Doorbell):
                self._publish(item)
            else:
                self._run(item)

    def _publish(self, doorbell: Doorbell) -> None:
        if time.monotonic() < self._away_until:
            self.dropped += 1
            return
        try:
            self._twice(lambda: self._send(doorbell))
        except Exception as error:
            self.dropped += 1
            self._lost(error)
        else:
            self._back()

    def _send(self, doorbell: Doorbell) -> None:
        self._connected()
        self._app.send_task(
            JOB,
            args=[doorbell.task_id, doorbell.attempt],
            queue=self._queue(doorbell.queue),
            producer=self._producer,
            ignore_result=True,
            retry=False,
            **({"confirm_timeout": 3} if self._confirms else {}),
        )

    def _twice(self, work: Callable[[], _T]) -> _T:
        """A connection that broke while it was idle is replaced once; a repeated doorbell does no harm."""
        fresh = self._connection is None
        try:
            return work()
        except Exception:
            self._disconnect()
            if fresh:
                raise
            return work()

    def _run(self, errand: _Errand) -> None:
        try:
            errand.future.set_result(self._twice(errand.question))
        except Exception as error:
            self._lost(error)
            errand.future.set_exception(error)
        else:
            self._back()

    def _connected(self) -> Any:
        if self._connection is None:
            connection = self._app.connection_for_write()
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            connection.default_channel  # noqa: B018 - opens it: Redis connects only then
            self._connection, self._producer = connection, self._app.amqp.Producer(connection)
        return self._connection

    def _depth(self, route: str) -> int:
        channel = self._connected().default_channel
        return int(self._queue(route)(channel).queue_declare().message_count)

    def _queue(self, route: str) -> Any:
        if route not in self._queues:
            self._queues[route] = self._app.amqp.queues.select_add(make_queue(self._settings, route))
        return self._queues[route]

    @property
    def _confirms(self) -> bool:
        return bool(self._app.conf.broker_transport_options.get("confirm_publish"))

    def _lost(self, error: Exception) -> None:
        self._disconnect()
        self._away_until = time.monotonic() + RETRY_S
        if not self._away:
            logger.warning("the broker is away (%s): calls are accepted, the relay rings later", type(error).__name__)
        self._away = True

    def _back(self) -> None:
        if self._away:
            logger.info("the broker is back")
        self._away = False

    def _disconnect(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            try:
                connection.release()
            except Exception as error:
                logger.debug("closing a broken broker connection: %s", error)


class _Errand:
    """A question that only the publishing thread may ask, because the connection is its own."""

    def __init__(self, question: Callable[[], Any]) -> None:
        self.question = question
        self.future: Future[Any] = Future()
