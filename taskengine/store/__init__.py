"""All SQL, grouped by noun. One colour: async; one driver: asyncpg, through SQLAlchemy Core."""

from __future__ import annotations

from sqlalchemy import text

from taskengine.settings import Settings
from taskengine.store import channels as channels
from taskengine.store.attempts import Attempts
from taskengine.store.audit import Audit
from taskengine.store.blinding import Blinding
from taskengine.store.changes import Changes
from taskengine.store.children import Children
from taskengine.store.database import Database
from taskengine.store.inputs import Inputs
from taskengine.store.inspection import Inspection
from taskengine.store.journal import Journal
from taskengine.store.keys import Keys
from taskengine.store.limits import Limits
from taskengine.store.queues import Queues
from taskengine.store.rekey import Rekey
from taskengine.store.sealing import Sealing
from taskengine.store.sessions import Sessions
from taskengine.store.stops import Stops
from taskengine.store.tasks import Tasks
from taskengine.store.upkeep import Upkeep
from taskengine.store.waits import Waits
from taskengine.store.workers import Workers

__all__ = ["Store"]


class Store:
    """The nouns of one process's database. Open it on the event loop that uses it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.keys = Keys(database)
        blinding = Blinding(self.keys)
        self.tasks = Tasks(database, blinding)
        self.journal = Journal(database, blinding)
        self.waits = Waits(database)
        self.children = Children(database)
        self.limits = Limits(database)
        self.queues = Queues(database)
        self.attempts = Attempts(database, self.journal, self.waits, self.limits)
        self.stops = Stops(database)
        self.inputs = Inputs(database)
        self.workers = Workers(database)
        self.upkeep = Upkeep(database)
        self.inspection = Inspection(database)
        self.sessions = Sessions(database)
        self.audit = Audit(database)
        self.rekey = Rekey(database)
        self.changes = Changes(database)

    @classmethod
    async def open(cls, settings: Settings) -> Store:
        """Nothing is connected yet: a database that is away shows at the first call, and may come later."""
        return cls(Database(settings))

    @property
    def sealing(self) -> Sealing:
        """How payloads are stored; for whoever stores one of his own, bound to the task and a name."""
        return self._database.sealing

    async def close(self) -> None:
        await self.changes.stop()
        await self._database.close()

    async def health(self) -> None:
        """Raises StoreUnavailable."""
        await self._database.run(text("SELECT 1"))

    async def server_version(self) -> str:
        return str((await self._database.run(text("SHOW server_version"))).scalar_one())

    async def schema_revision(self) -> str | None:
        """The migration the database is at; None when it has never been migrated."""
        there = await self._database.run(text("SELECT to_regclass('taskengine_schema')::text"))
        if there.scalar_one() is None:
            return None
        found = await self._database.run(text("SELECT version_num FROM taskengine_schema"))
        revision: str | None = found.scalar_one_or_none()
        return revision
