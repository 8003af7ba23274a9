"""The store in PostgreSQL, for a service of one or several processes.

In each process: one writing connection that commits groups (groups.py), four for reading, one that hears the other
processes (listener.py). What the processes may do at the same time is decided by locks on rows (tx.py), not by luck.
"""

import asyncio
import logging
import queue
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

import psycopg

from balsam.server.database_address import DatabaseAddress
from balsam.server.errors import STOPPING, Unavailable
from balsam.server.store.postgres import notifications
from balsam.server.store.postgres.connection import (
    Connection,
    ConnectionLost,
    PostgresDatabase,
    connect,
    patiently,
)
from balsam.server.store.postgres.groups import GroupCommit
from balsam.server.store.postgres.listener import Listener
from balsam.server.store.postgres.migrate import check_schema
from balsam.server.store.postgres.outage import Outage
from balsam.server.store.postgres.reading import ReadDatabase
from balsam.server.store.postgres.tx import PostgresReadTx
from balsam.server.store.protocol import ReadTx, Subscriber, Tx, Wake
from balsam.server.store.readers import Readers
from balsam.server.store.wakes import Subscribers
from balsam.server.store.writer import GroupedWriter

T = TypeVar("T")
log = logging.getLogger(__name__)

READ_LIMIT_SEC = 10.0
TELL_LIMIT_SEC = 5.0
# Prepared, and still planned for the values that are asked for: how many rows a page has to look at depends on them.
_READER = {"plan_cache_mode": "force_custom_plan"}


class PostgresStore:
    """Store over one database. Raises Unavailable when it can't be reached, SchemaTooOld and SchemaTooNew.

    `read_limit_sec`: a read that takes longer is given up with TooSlow.
    """

    def __init__(self, address: DatabaseAddress, *, read_limit_sec: float = READ_LIMIT_SEC) -> None:
        self._address = address
        self._read_limit_sec = read_limit_sec
        check_schema(address)
        self._origin = secrets.token_hex(6)
        self._subscribers = Subscribers()
        self._outage = Outage()
        self._groups = GroupCommit(address, self._origin, self._subscribers, self._outage)
        self._writer = GroupedWriter(self._groups.write_group)
        self._readers: queue.LifoQueue[Connection] = queue.LifoQueue()
        self._reading = Readers()
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="store-tell")
        self._telling: Connection | None = None
        self._closed = False
        self._listener = Listener(address, self._origin, self._hear)

    async def write(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        return await self._writer.write(fn, account)

    def write_sync(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        return self._writer.write_sync(fn, account)

    async def read(self, fn: Callable[[ReadTx], T], account: int = 0) -> T:
        in_company = not self._reading.is_alone(account)
        return await self._reading.run(partial(self._read, fn, time.monotonic(), in_company), account)

    def read_sync(self, fn: Callable[[ReadTx], T]) -> T:
        return self._read(fn, time.monotonic(), False)

    def _read(self, fn: Callable[[ReadTx], T], asked_at: float, in_company: bool) -> T:
        if self._closed:
            raise Unavailable(STOPPING)
        try:
            return self._read_once(fn, asked_at, in_company)
        except ConnectionLost:
            # One that was idle while the server restarted; so were the others. Reading twice does no harm.
            self._drop_readers()
        try:
            return self._read_once(fn, asked_at, in_company)
        except ConnectionLost:
            raise Unavailable("the connection to the database was lost; try again") from None

    def _read_once(self, fn: Callable[[ReadTx], T], asked_at: float, in_company: bool) -> T:
        """Run `fn` in a transaction that sees one state."""
        database = ReadDatabase(self._reader(asked_at), self._read_limit_sec, in_company=in_company)
        try:
            return fn(PostgresReadTx(database))
        except psycopg.Error as error:
            raise database.spoken(error) from error
        finally:
            database.end()
            if database.connection.closed or self._closed:
                database.connection.close()
            else:
                self._readers.put(database.connection)

    def _reader(self, asked_at: float) -> Connection:
        with suppress(queue.Empty):
            return self._readers.get_nowait()
        make = partial(patiently, self._address, "reader", limit_sec=self._read_limit_sec, **_READER)
        return self._outage.connected(asked_at, make)

    def _drop_readers(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._readers.get_nowait().close()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        return self._subscribers.add(subscriber)

    async def tell(self, wake: Wake) -> None:
        if not self._closed:
            await asyncio.get_running_loop().run_in_executor(self._teller, self._tell, wake, time.monotonic())

    def _tell(self, wake: Wake, asked_at: float) -> None:
        """Twice when the connection turns out to be dead: it was idle while the server restarted."""
        make = partial(connect, self._address, "teller", limit_sec=TELL_LIMIT_SEC, synchronous_commit="off")
        for _ in range(2):
            try:
                if self._telling is None or self._telling.closed:
                    self._telling = self._outage.connected(asked_at, make)
                with self._telling.transaction():
                    notifications.send(PostgresDatabase(self._telling), self._origin, [wake])
                return
            except (Unavailable, ConnectionLost, psycopg.OperationalError) as error:
                log.info("other processes were not told of %s %s: %s", wake.topic, wake.event, error)

    def _hear(self, wakes: Sequence[Wake]) -> None:
        """Wakes of other processes. Whoever is told to look must find what there is."""
        self._groups.hear(wakes)
        self._subscribers.publish(wakes)

    def leads(self) -> bool:
        return self._listener.leads

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._listener.close()
        self._writer.close()
        self._groups.close()
        self._reading.close()
        self._teller.shutdown()
        self._drop_readers()
        if self._telling is not None:
            self._telling.close()
