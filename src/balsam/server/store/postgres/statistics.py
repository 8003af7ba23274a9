"""What the planner is told of tables that have grown: without numbers it takes a million rows for a handful.

The server's autovacuum counts about a minute after a table has grown, and until then a plan may search everything. So
the leading process looks once a second how much was written, and has those tables counted (ANALYZE) of which several
times as much was written as they had rows when they were last counted. Used by listener.py. Promises: nobody waits for
it, and no table is counted more often than it changes.
"""

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress

import psycopg

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import Unavailable
from balsam.server.store.postgres.connection import Connection, PostgresDatabase, connect
from balsam.server.store.sql_database import listed

log = logging.getLogger(__name__)

TABLES = ("jobs", "events", "job_tags", "runnable_tags", "job_parents", "transfer_items", "results", "state_counts")
GROWN = 3  # times as many rows written as there were when they were counted
FEW_ROWS = 500  # with which every plan is quick
LIMIT_SEC = 120.0  # for a sample of 30,000 rows, from a slow disk
# Not the sizes of files: rows of a transaction that is not over are in them, which nobody counts. A table that was
# counted in the middle of its first bulk had a row on a hundred pages, and every plan searched all of it.
_WRITTEN = """SELECT s.relname, s.n_mod_since_analyze, greatest(c.reltuples, 0)::bigint
    FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid
    WHERE s.relname = ANY (?) AND pg_table_is_visible(s.relid)"""


class Statistics:
    """Has tables counted in a thread of its own, over a connection that is there only meanwhile."""

    def __init__(self, address: DatabaseAddress) -> None:
        self._address = address
        self._tried: dict[str, int] = {}  # what was written by then: one that can't be counted is not tried each second
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._closed = False

    def look(self, database: PostgresDatabase) -> None:
        """Begin to count what has grown, unless that is under way."""
        if self._thread is not None and self._thread.is_alive():
            return
        found = database.execute(_WRITTEN, (listed(TABLES),)).fetchall()
        grown = {name: written for name, written, rows in found if self._has_grown(name, written, rows)}
        if grown:
            self._thread = threading.Thread(target=self._count, args=(grown,), name="store-count", daemon=True)
            self._thread.start()

    def _has_grown(self, name: str, written: int, rows: int) -> bool:
        tried = self._tried.get(name, 0)
        if written < tried:  # it was counted
            tried = self._tried[name] = 0
        return written > max(FEW_ROWS, GROWN * rows, 2 * tried)

    def _count(self, grown: Mapping[str, int]) -> None:
        try:
            with connect(self._address, "statistics", limit_sec=LIMIT_SEC) as connection:
                self._connection = connection
                for name, written in grown.items():
                    if self._closed:
                        return
                    self._tried[name] = written
                    # One that somebody else counts or changes at this moment is not waited for.
                    connection.execute(f"ANALYZE (SKIP_LOCKED) {name}".encode())
        except (Unavailable, psycopg.Error) as error:
            log.info("tables that have grown were not counted: %s", error)
        finally:
            self._connection = None

    def close(self) -> None:
        """What is under way is given up."""
        self._closed = True
        if self._thread is not None:
            if (connection := self._connection) is not None:
                with suppress(psycopg.Error):
                    connection.cancel_safe()
            self._thread.join()
