"""Kombu's Redis transport, made to outlive messages that are none and to publish with one client.

Kombu's raises whatever a message makes it raise, into Celery's loop, which ends the worker: anybody who can write to
the broker could stop all of them. Here such a message is dropped; the relay rings again for whatever was lost by it.
It also makes a client anew for each message that it publishes, which takes longer than to publish.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import DataError

__all__ = ["Channel", "Transport", "install", "take"]

logger = logging.getLogger("taskengine.jobs")

FORGED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DataError)
"""What reading something that is not a message of ours raises; a broker that is away raises other things."""
SCHEMES = ("redis", "rediss", "valkey", "valkeys")


class Channel(redis.Channel):  # type: ignore[misc]  # Kombu has no types
    do_restore = False
    """What was fetched and not done when a connection ends is left to the relay. Kombu would try to put each message
    back, one after the other, also while the broker is away, and then write all of them to a file."""

    _kept: Any = None
    """The client for all that does not wait: its connections are the pool's, so it holds nothing of its own."""

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()
        return self._kept

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except FORGED as error:
            _dropped(error)
            return True

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **options: Any
    ) -> Any:
        def guarded(message: Any) -> Any:
            try:
                return callback(message)
            except FORGED as error:
                _dropped(error)
                message.ack()  # else it would hold a place of those that may be in flight, and come again
                return None

        return super().basic_consume(queue, no_ack, guarded, consumer_tag, **options)


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel


def install() -> None:
    """Every connection of this process to a Redis broker is one of these. Not for processes that are not ours alone."""
    for scheme in SCHEMES:
        if scheme in TRANSPORT_ALIASES:
            TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


def take(connection: Any) -> None:
    """This one connection is, if it is to a Redis broker. Before it is opened."""
    if connection.transport_cls in SCHEMES:
        connection.transport_cls = Transport


def _dropped(error: Exception) -> None:
    logger.warning("dropped what the broker gave for a job message: %s", type(error).__name__)
    logger.debug("it could not be read", exc_info=error)
