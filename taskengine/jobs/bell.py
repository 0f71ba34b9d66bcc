"""Rings doorbells without ever holding up a request.

`ring` only puts the doorbell into a bounded buffer; one thread publishes, and what has gathered while it was busy goes
into one message. Under load each message may hold twice what the last one held, and soon after one that held several
the thread waits a moment for more; after a lull the first goes alone. So a steady load costs few messages, calls made
at one moment are spread over the workers, and doorbells that come one at a time are published at once. A broker that
is away, slow or frozen costs that thread its time-outs and nobody else anything: what could not be published is dropped
here and rung again by the relay, which finds it in Postgres.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from celery.utils import uuid

from taskengine.errors import EngineError
from taskengine.jobs import transport
from taskengine.jobs.app import JOB, make_app, make_queue, most_in_one
from taskengine.records import Doorbell
from taskengine.settings import Settings

__all__ = ["Bell", "BrokerUnavailable"]

logger = logging.getLogger("taskengine.jobs")

_T = TypeVar("_T")

BUFFER = 10_000
RETRY_S = 1.0
BUSY_S = 0.01
"""A doorbell that comes so soon after the last message is one of many."""
GATHER_S = 0.002
"""So long it waits for the others, for each that the last message held besides its first: a message costs each side
tenths of a millisecond whatever it holds, and a worker claims together what comes together."""
LONGEST_S = 0.01
"""And no longer, however many those were."""


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
        """By route, as they are on this connection: one that is not would be copied for each message."""
        self._buffer: queue.SimpleQueue[Doorbell | _Errand | _Stop] = queue.SimpleQueue()
        self._left: Doorbell | None = None
        """Taken from the buffer, and of another message than those before it."""
        self._published = float("-inf")
        """When the last message that may hold several went out."""
        self._carried = 1
        """How many doorbells it held."""
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
            self._buffer.put(_Stop())
            self._thread.join(timeout_s)
            self._thread = None

    def ring(self, doorbell: Doorbell) -> None:
        """Publish soon. Never blocks and never raises; thread-safe."""
        if self._buffer.qsize() < BUFFER:
            self._buffer.put(doorbell)
        else:
            self.dropped += 1

    def check(self, timeout_s: float = 3.0) -> None:
        """Raises BrokerUnavailable unless the broker answers within `timeout_s`. Blocks: call it in a thread."""
        self._ask(lambda: self._depth("default"), timeout_s)

    def depths(self, routes: Iterable[str], timeout_s: float = 3.0) -> dict[str, int]:
        """How many doorbells may wait in each route's queue, at most. Raises BrokerUnavailable. Blocks: call it in a
        thread."""
        return self._ask(lambda: {route: self._depth(route) * most_in_one(route) for route in routes}, timeout_s)

    def _ask(self, question: Callable[[], _T], timeout_s: float) -> _T:
        errand = _Errand(question)
        try:
            self._buffer.put(errand)
            answer: _T = errand.future.result(timeout_s)
        except BrokerUnavailable:
            raise
        except TimeoutError:
            raise BrokerUnavailable("no answer in time") from None
        except Exception as error:
            raise BrokerUnavailable(type(error).__name__) from error
        else:
            return answer

    def _publish_for_ever(self) -> None:
        while True:
            doorbells, item = self._next()
            if doorbells:
                self._publish(doorbells)
            if isinstance(item, _Errand):
                self._run(item)
            elif isinstance(item, _Stop):
                self._disconnect()
                return

    def _next(self) -> tuple[list[Doorbell], _Errand | _Stop | None]:
        """What goes into one message, and what came after it."""
        item = self._left if self._left is not None else self._buffer.get()
        self._left = None
        room = 1
        if isinstance(item, Doorbell) and time.monotonic() - self._published < BUSY_S:
            room = min(2 * self._carried, most_in_one(item.queue))
            if self._carried > 1 and self._buffer.qsize() < room - 1:
                time.sleep(min(GATHER_S * (self._carried - 1), LONGEST_S))
        doorbells: list[Doorbell] = []
        while isinstance(item, Doorbell):
            if doorbells and (item.queue != doorbells[0].queue or len(doorbells) >= room):
                self._left = item
                return doorbells, None
            doorbells.append(item)
            try:
                item = self._buffer.get_nowait()
            except queue.Empty:
                return doorbells, None
        return doorbells, item

    def _publish(self, doorbells: list[Doorbell]) -> None:
        if time.monotonic() < self._away_until:
            self.dropped += len(doorbells)
            return
        try:
            self._twice(lambda: self._send(*doorbells))
            if most_in_one(doorbells[0].queue) > 1:  # one that always goes alone tells nothing of the others
                self._published, self._carried = time.monotonic(), len(doorbells)
        except Exception as error:
            self.dropped += len(doorbells)
            self._lost(error)
        else:
            self._back()

    def _send(self, first: Doorbell, *more: Doorbell) -> None:
        queue = self._queue(first.queue)
        # Celery writes the message and Kombu publishes it. `send_task`, which lies between them, takes as long as both.
        message = self._app.amqp.as_task_v2(
            uuid(),
            JOB,
            args=[first.task_id, first.attempt],
            # Beside the arguments: a worker of a version before these hears the first and leaves the rest to the relay.
            kwargs={"more": [(doorbell.task_id, doorbell.attempt) for doorbell in more]} if more else {},
            ignore_result=True,
            argsrepr="",  # only for events, which are off; writing them takes as long as writing the message
            kwargsrepr="",
        )
        self._producer.publish(
            message.body,
            exchange="",  # the queue itself
            routing_key=queue.name,
            declare=[queue],
            delivery_mode="persistent",
            serializer="json",
            headers=message.headers,
            retry=False,
            **message.properties,
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
            transport.take(connection)
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            connection.default_channel  # noqa: B018 - opens it: Redis connects only then
            self._connection, self._producer = connection, self._app.amqp.Producer(connection)
        return self._connection

    def _depth(self, route: str) -> int:
        return int(self._queue(route).queue_declare().message_count)

    def _queue(self, route: str) -> Any:
        channel = self._connected().default_channel
        if route not in self._queues:
            queue = self._app.amqp.queues.select_add(make_queue(self._settings, route))
            self._queues[route] = queue.bind(channel)
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
        self._queues.clear()
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


class _Stop:
    """The last thing in the buffer."""
