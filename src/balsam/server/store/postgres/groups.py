"""Committing groups of writes: one transaction for all of them, or one for each when they collide with somebody.

Runs in the writer thread. A group takes locks as it goes, so it waits for another process's locks only for a moment;
then it is undone, and its items are run again one after another, each of which may wait longer. What was answered is
committed (S1); when the connection is lost in the middle of a COMMIT, the server is asked what became of it.
"""

import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress

import psycopg

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.postgres import notifications
from balsam.server.store.postgres.connection import (
    ADVISORY_LOCKS,
    PATIENCE_SEC,
    Collision,
    ConnectionLost,
    Unreachable,
    patiently,
)
from balsam.server.store.postgres.fronts import Fronts
from balsam.server.store.postgres.outage import Outage
from balsam.server.store.postgres.pipeline import PipelinedDatabase
from balsam.server.store.postgres.starts import Start, is_forgotten, last_start
from balsam.server.store.postgres.tx import PostgresIds, PostgresTx
from balsam.server.store.protocol import Duplicate, GuardFailed, Wake
from balsam.server.store.sql_database import listed
from balsam.server.store.sql_write import Pending
from balsam.server.store.wakes import Subscribers, merged
from balsam.server.store.writer import GROUP_SEC, Item

log = logging.getLogger(__name__)

GROUP_LOCK_WAIT = "100ms"
LOCK_WAIT = "3s"
WRITE_LIMIT_SEC = 30.0
ATTEMPTS = 3
COLLISIONS = 6
# Each writing process has rows of its own, so that no row is one that everybody waits for.
_SAVE_COUNTS = """INSERT INTO state_counts (owner_id, site_id, app_id, state, shard, n)
    SELECT u.owner_id, u.site_id, u.app_id, u.state, ?, u.n
    FROM unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[])
    AS u (owner_id, site_id, app_id, state, n)
    ON CONFLICT (owner_id, site_id, app_id, state, shard) DO UPDATE SET n = state_counts.n + excluded.n"""
_SAVE_AND_TELL = f"WITH saved AS ({_SAVE_COUNTS}) SELECT {notifications.NOTIFY}"
_TAKE_SHARD = f"""SELECT shard FROM generate_series(1, 200) AS shard
    WHERE pg_try_advisory_lock({ADVISORY_LOCKS}, 1000 + shard) LIMIT 1"""  # noqa: S608 - a number of ours


class _Apart(Exception):
    """The items can't share a transaction this time."""


class GroupCommit:
    """The writing connection of a process, and what is done with it."""

    def __init__(self, address: DatabaseAddress, origin: str, subscribers: Subscribers, outage: Outage) -> None:
        self._address = address
        self._outage = outage
        self._origin = origin
        self._subscribers = subscribers
        self._database: PipelinedDatabase | None = None
        self._ids: PostgresIds
        self._fronts = Fronts()
        self._shard = 0
        self._start: Start | None = None

    def hear(self, wakes: Sequence[Wake]) -> None:
        """What other processes did; called in any thread."""
        self._fronts.hear(wakes)

    def write_group(self, group: list[Item]) -> int:
        """Give items their result or their error, in their order; returns how many."""
        if told := self._tell_of_outage(group):
            return told
        waiting = list(group)
        try:
            for _ in range(ATTEMPTS):
                try:
                    self._write(waiting, time.monotonic() + GROUP_SEC)
                    return len(group) - len(waiting)
                except ConnectionLost as lost:
                    log.warning("the connection to the database was lost: %s", lost)
                    self.close()
            raise Unavailable("the connection to the database is lost again and again; try again")
        except Exception as error:
            if isinstance(error, Unreachable):
                self._outage.note(error)
            for item in waiting:
                item.result, item.error = None, error
        return len(group)

    def _tell_of_outage(self, group: list[Item]) -> int:
        """How many of the first items queued while the server could not be reached; they have their error."""
        if self._is_connected():
            return 0
        for place, item in enumerate(group):
            try:
                self._outage.check(item.asked_at)
            except Unreachable as error:
                item.error = error
            else:
                return place
        return len(group)

    def close(self) -> None:
        if self._database is not None:
            self._database.connection.close()
            self._database = None

    def _write(self, waiting: list[Item], full_at: float) -> None:
        """Items that are settled are taken from `waiting`; the rest is left when it is late."""
        if len(waiting) > 1:
            with suppress(_Apart, Collision):
                del waiting[: self._commit(waiting, full_at)]
                return
        while waiting:
            self._write_alone(waiting[0])
            waiting.pop(0)
            if time.monotonic() > full_at:
                return

    def _write_alone(self, item: Item) -> None:
        """Collisions are over after a while; a key that somebody else took first is found by the second try."""
        for attempt in range(1, COLLISIONS + 1):
            try:
                self._commit([item])
                return
            except Collision as error:
                log.info("a write collided with another one: %s", error)
                item.error = Unavailable("others were changing the same things all the time; try again")
                time.sleep(random.uniform(0, 0.02 * attempt))  # noqa: S311 - not a secret
            except (Duplicate, GuardFailed) as error:
                item.error = error
                if attempt == 2:
                    return
            except (ConnectionLost, Unreachable):
                raise
            except Exception as error:
                item.error = error
                return

    def _commit(self, items: Sequence[Item], full_at: float | None = None) -> int:
        """Commit the item, or with `full_at` as many as can be begun by then; returns how many."""
        database = self._connected()
        pending, done, together = Pending(), 0, full_at is not None
        self._fronts.heed()
        try:
            database.begin(GROUP_LOCK_WAIT if together else None)
            for item in items:
                self._run(database, item, pending, together=together)
                done += 1
                if full_at is not None and time.monotonic() > full_at:
                    break
            if together:
                self._hear_all(database)
            wakes = merged(pending.wakes)
            self._save(database, pending, wakes)
            self._end(database)
        except BaseException as error:
            self._undo(database)
            if isinstance(error, psycopg.Error):
                raise database.spoken(error) from error
            raise
        self._subscribers.publish(wakes)
        return done

    def _run(self, database: PipelinedDatabase, item: Item, pending: Pending, *, together: bool) -> None:
        """Run one item. One that fails before it wrote anything leaves nothing to undo."""
        database.written = database.failed = False
        item.result = item.error = None  # of a run that was undone
        tx = PostgresTx(database, self._ids, self._fronts)
        try:
            item.result = item.fn(tx)
        except ConnectionLost:
            raise
        except Exception as error:
            if database.written or database.failed or isinstance(error, (Duplicate, GuardFailed)):
                if together:
                    raise _Apart from error
                raise
            item.error = error
        else:
            pending.absorb(tx.pending)

    def _hear_all(self, database: PipelinedDatabase) -> None:
        """An error that is heard of late is some item's own."""
        try:
            database.settle()
        except ConnectionLost:
            raise
        except Exception as error:
            raise _Apart from error

    def _save(self, database: PipelinedDatabase, pending: Pending, wakes: Sequence[Wake]) -> None:
        """What a commit does once, in one statement."""
        rows = [(*key, n) for key, n in sorted(pending.counts.items()) if n]
        columns = [listed(column) for column in zip(*rows, strict=True)]
        if rows and wakes:
            said = notifications.payload(database, self._origin, wakes)
            database.execute(_SAVE_AND_TELL, (self._shard, *columns, said))
        elif rows:
            database.execute(_SAVE_COUNTS, (self._shard, *columns))
        elif wakes:
            notifications.send(database, self._origin, wakes)

    def _end(self, database: PipelinedDatabase) -> None:
        number = database.number()
        try:
            database.commit()
        except psycopg.Error as error:
            if not database.connection.closed:
                raise
            if not self._was_committed(number):
                raise ConnectionLost(str(error)) from error

    def _was_committed(self, number: str) -> bool:
        """What became of a transaction whose COMMIT was not answered. Raises Unavailable when that can't be learned."""
        unknown = "it is not known whether it was written; try again with the same Idempotency-Key"
        before = self._start
        self.close()
        deadline = time.monotonic() + PATIENCE_SEC
        while time.monotonic() < deadline:
            try:
                database = self._connected()
                if is_forgotten(number, before, self._start):
                    return False
                row = database.execute("SELECT pg_xact_status(?::xid8)", (number,)).fetchone()
            except Unreachable:
                raise Unavailable(unknown) from None
            except psycopg.errors.InvalidParameterValue:
                return False  # a number that the server, which crashed, has not given out: nothing of it is left
            except (psycopg.Error, ConnectionLost, Unavailable):
                self.close()
                continue
            if row is None or row[0] != "in progress":
                return row is not None and row[0] == "committed"
            time.sleep(0.05)
        raise Unavailable(unknown)

    def _undo(self, database: PipelinedDatabase) -> None:
        self._fronts.forget_all()
        database.undo()

    def _is_connected(self) -> bool:
        return self._database is not None and not self._database.connection.closed

    def _connected(self) -> PipelinedDatabase:
        """The connection; made anew when there is none, with some patience for a server that is starting."""
        if self._database is not None and self._is_connected():
            return self._database
        connection = patiently(self._address, "writer", limit_sec=WRITE_LIMIT_SEC, lock_timeout=LOCK_WAIT)
        self._database = database = PipelinedDatabase(connection)
        self._ids = PostgresIds(database)
        found = database.execute(_TAKE_SHARD).fetchone()
        self._shard = found[0] if found else 0
        self._start = last_start(database)
        return database
