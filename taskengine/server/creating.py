"""The one way from a call of either revision to its task: committed, and its doorbell rung, before anybody answers."""

from __future__ import annotations

import asyncio
import logging

from taskengine.errors import StoreUnavailable
from taskengine.points import point
from taskengine.records import NewTask, TaskRecord
from taskengine.server.caller import Caller
from taskengine.server.service import Service

__all__ = ["create"]

audit = logging.getLogger("taskengine.audit")

TRIES = 3
RETRY_S = 0.5


async def create(service: Service, caller: Caller, new: NewTask) -> TaskRecord:
    """The task is committed and its doorbell rung when this returns (M-TASK-13); it may be an earlier one that the call
    joins. Raises StoreUnavailable, LimitReached and KeyReused."""
    for attempt in range(1, TRIES + 1):
        point("call.checked")
        try:
            record, doorbell = await service.store.tasks.create(new, service.budgets.bounds(caller))
            point("call.committed")
        except StoreUnavailable:
            if attempt == TRIES:
                # It may be there all the same. Where no retry of its client will find it, nobody ever would.
                if new.nonce is None and new.dedupe is None and new.same is None:
                    service.cancel_abandoned(new.id, caller)
                raise
            await asyncio.sleep(RETRY_S)
        else:
            if doorbell is not None:
                service.bell.ring(doorbell)
                audit.info("task %s created by %s: %s", record.id, caller.owner, record.tool)
            return record
    raise AssertionError("the last try returns or raises")
