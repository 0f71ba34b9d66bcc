"""The Celery application: one job name, one set of options, for publishers and workers alike.

Celery carries doorbells. A job holds a task's id and the number of the attempt that is due, and as `more` those that
were to be rung at the same moment; everything else is read from Postgres. So there is no result backend, no ETA, no
retry of Celery's own, and a job may be lost, repeated or late. Each option's reason stands beside it; the facts behind
them are in `docs/architecture.md`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from celery import Celery
from kombu import Exchange, Queue

from taskengine.settings import Settings
from taskengine.tool import SYNC_SUFFIX

__all__ = ["JOB", "MOST_IN_ONE", "is_sync", "make_app", "most_in_one", "queue_name", "route_of"]

JOB = "taskengine.run"
"""Fixed for ever: a worker rejects and drops names it does not know, which a rolling deploy would meet."""

MOST_IN_ONE = 32
"""Doorbells in one message: fewer cost each more of it, more leave other workers idle."""


def queue_name(settings: Settings, route: str) -> str:
    return f"{settings.namespace}.{route}"


def route_of(settings: Settings, queue: str) -> str:
    return queue.removeprefix(f"{settings.namespace}.")


def is_sync(route: str) -> bool:
    """Whether the route's tools run in processes (`Tool.route`)."""
    return route.endswith(SYNC_SUFFIX)


def most_in_one(route: str) -> int:
    """How many doorbells one job of this route may carry. A worker has few slots for sync tools, and what it has no
    room for would have to be rung again."""
    return 1 if is_sync(route) else MOST_IN_ONE


def make_app(settings: Settings, routes: Iterable[str] = ()) -> Celery:
    """A Celery application that knows these routes' queues; publishers add others as they meet them."""
    url = settings.broker_url.get_secret_value()
    on_rabbitmq = urlsplit(url).scheme.startswith("amqp")
    app = Celery(settings.namespace, broker=url, set_as_current=False)
    app.conf.update(
        task_queues=[make_queue(settings, route) for route in routes],
        task_create_missing_queues=False,  # a misspelt queue fails loudly
        task_default_queue=queue_name(settings, "default"),
        task_default_exchange=settings.namespace,
        # messages
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        # early acknowledgement: the broker's redelivery clocks never meet an hours-long run
        task_acks_late=False,
        worker_prefetch_multiplier=1,  # the pool reports how many claims may be in flight
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # connections: found broken in seconds, tried for ever
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_heartbeat=20,
        broker_channel_error_retry=True,  # else a closed AMQP channel stops the worker
        broker_transport_options=_rabbitmq_options() if on_rabbitmq else _redis_options(settings),
        task_publish_retry=False,  # the relay rings again
        # quiet: one truth, in Postgres
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_pool="taskengine.jobs.pool:SlotPool",
    )
    for noisy in ("celery", "kombu", "amqp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Its only news is that this exchange cannot delay messages, which nothing here asks of it.
    logging.getLogger("kombu.transport.native_delayed_delivery").setLevel(logging.ERROR)
    app.task(name=JOB, ignore_result=True)(_never_called)
    return app


def make_queue(settings: Settings, route: str) -> Queue:
    name = queue_name(settings, route)
    on_rabbitmq = urlsplit(settings.broker_url.get_secret_value()).scheme.startswith("amqp")
    arguments = {"x-queue-type": "quorum"} if on_rabbitmq else None
    exchange = Exchange(settings.namespace, type="direct", durable=True)
    return Queue(name, exchange, routing_key=name, durable=True, queue_arguments=arguments)


def _never_called(task_id: str, attempt: int, more: Sequence[tuple[str, int]] = ()) -> None:
    """The job's signature. The pool hands each job to the runner and never calls this."""
    raise AssertionError(f"job for {task_id} #{attempt} and {len(more)} more was called outside the engine's pool")


def _redis_options(settings: Settings) -> dict[str, object]:
    return {
        "global_keyprefix": f"{settings.namespace}:",
        # Longest BRPOP: a queue that is taken up again after its slots were full joins at the next one.
        "polling_interval": 0.2,
        # Nothing is noted on Redis of what a worker has fetched: the relay rings again for what died with it, and
        # sooner than those notes would bring it back. It is counted in the worker, so its limit holds all the same.
        "ack_emulation": False,
        # Without limits of its own a publish to a frozen Redis hangs for ever.
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 5,
    }


def _rabbitmq_options() -> dict[str, object]:
    return {"confirm_publish": True, "read_timeout": 3, "write_timeout": 3}
