"""The store in one SQLite file: the default.

One writer thread owns the only writing connection and commits groups (writer.py); each item of a group has a savepoint,
so an item that fails does not hurt the others. Reads run on connections of their own and never wait for the writer.
Wakes are published after the commit.
"""

import fcntl
import logging
import os
import queue
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from balsam.domain.clock import Clock, SystemClock
from balsam.server.errors import ServiceError, TooSlow, Unavailable
from balsam.server.store.filesystem import network_filesystem
from balsam.server.store.protocol import ReadTx, Subscriber, Tx, Wake
from balsam.server.store.readers import Patience, Readers
from balsam.server.store.schema import migrate
from balsam.server.store.sql_read import SqlReadTx
from balsam.server.store.sql_write import Pending
from balsam.server.store.sqlite_tx import Sequences, SqliteTx
from balsam.server.store.wakes import Subscribers
from balsam.server.store.writer import GROUP_SEC, GroupedWriter, Item

T = TypeVar("T")
log = logging.getLogger(__name__)

BUSY_TIMEOUT_SEC = 5.0
READ_LIMIT_SEC = 10.0
LOOK_EVERY = 20_000  # steps of SQLite's machine between two looks at the clock: a few milliseconds at most
_SAVE_COUNT = """INSERT INTO state_counts VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (owner_id, site_id, app_id, state) DO UPDATE SET n = n + excluded.n"""


class StoreInUse(Exception):
    """Another process has this database open; the text names it."""


class SqliteStore:
    """Store over one SQLite file in WAL mode.

    `durable=True`: a write that returned survives loss of power (synchronous=FULL); False: it survives the end of the
    process, not of the machine. A read that takes longer than `read_limit_sec` ends with TooSlow: it would keep one of
    the few readers from everybody else (S16). Raises StoreInUse when another process has the file open.
    """

    def __init__(
        self, path: Path, *, durable: bool = True, read_limit_sec: float = READ_LIMIT_SEC, clock: Clock | None = None
    ) -> None:
        self.path = path
        self._clock = clock or SystemClock()
        self._read_limit_sec = read_limit_sec
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if kind := network_filesystem(path.parent):
            log.warning("%s is on %s: use a local disk for the service's data, or run it on one host only", path, kind)
        self._lock = _take_lock(path)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            with _typed_errors():
                self._db = _connect(path)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute("PRAGMA temp_store = MEMORY")
                self._db.execute("PRAGMA cache_size = -32768")
                migrate(self._db)
                self._sequences = Sequences(self._db)
        except BaseException:
            os.close(self._lock)
            raise
        self._subscribers = Subscribers()
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._reading = Readers()
        self._closed = False
        self._writer = GroupedWriter(self._write_group)

    async def write(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        return await self._writer.write(fn, account)

    def write_sync(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        return self._writer.write_sync(fn, account)

    async def read(self, fn: Callable[[ReadTx], T], account: int = 0) -> T:
        return await self._reading.run(partial(self.read_sync, fn), account)

    def read_sync(self, fn: Callable[[ReadTx], T]) -> T:
        with _typed_errors(self._read_limit_sec), self._reader() as db:
            patience = Patience(self._read_limit_sec, self._clock, self._reading.pause_sec, time.sleep)
            db.set_progress_handler(patience, LOOK_EVERY)
            db.execute("BEGIN")
            try:
                return fn(SqlReadTx(db))
            finally:
                db.set_progress_handler(None, 0)
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._readers.get_nowait()
        except queue.Empty:
            db = _connect(self.path)
            db.execute("PRAGMA query_only = ON")
            db.execute("PRAGMA cache_size = -4096")
        try:
            yield db
        finally:
            self._readers.put(db)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        return self._subscribers.add(subscriber)

    async def tell(self, wake: Wake) -> None:
        """There are no other processes."""

    def leads(self) -> bool:
        return True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        self._reading.close()
        while not self._readers.empty():
            self._readers.get_nowait().close()
        self._db.close()
        os.close(self._lock)

    def _write_group(self, group: list[Item]) -> int:
        pending, done, full_at = Pending(), 0, self._clock.monotonic() + GROUP_SEC
        try:
            with _typed_errors():
                self._db.execute("BEGIN IMMEDIATE")
                for item in group:
                    self._write_item(item, pending, alone=len(group) == 1)
                    done += 1
                    if self._clock.monotonic() > full_at:
                        break
                self._save(pending)
                self._db.execute("COMMIT")
                self._sequences.saved()
        except BaseException as error:
            self._undo()
            done, pending = len(group), Pending()
            for item in group:
                item.error = item.error or error
        # Before the callers hear: a revoked token must be forgotten when its revocation is answered.
        self._subscribers.publish(pending.wakes)
        return done

    def _write_item(self, item: Item, pending: Pending, *, alone: bool) -> None:
        """Run one item. What it raises is its own; what the database can't do any more is the whole group's."""
        tx = SqliteTx(self._db, self._sequences)
        if alone:
            # Nobody else is in the transaction: giving up the item is giving up the transaction.
            item.result = item.fn(tx)
            pending.absorb(tx.pending)
            return
        self._db.execute("SAVEPOINT item")
        try:
            item.result = item.fn(tx)
        except BaseException as error:
            if not self._db.in_transaction or (isinstance(error, sqlite3.OperationalError) and _refusal(error)):
                raise
            item.error = error
            self._db.execute("ROLLBACK TO item")
        else:
            pending.absorb(tx.pending)
        self._db.execute("RELEASE item")

    def _save(self, pending: Pending) -> None:
        counts = [(*key, n) for key, n in pending.counts.items() if n]
        if counts:
            self._db.executemany(_SAVE_COUNT, counts)
        self._sequences.save(self._db)

    def _undo(self) -> None:
        # SQLite has already rolled back by itself after some errors.
        if self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except sqlite3.Error:
                log.exception("rollback failed")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_SEC, isolation_level=None, check_same_thread=False, cached_statements=512
    )


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Nobody else may use the file meanwhile. Raises StoreInUse."""
    lock = _take_lock(path)
    try:
        yield
    finally:
        os.close(lock)


def _take_lock(path: Path) -> int:
    """Ids and counters are kept by one writer: a second service on the file would hand out the same ids."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
        os.close(lock)
        raise StoreInUse(f"{path} is in use by {holder or 'another process'}; stop that service first") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    return lock


@contextmanager
def _typed_errors(read_limit_sec: float = 0.0) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        refusal = _refusal(error, read_limit_sec)
        if refusal is None:
            raise
        log.error("the database refused: %s (%s)", error, error.sqlite_errorname)
        raise refusal from error


def _refusal(error: sqlite3.OperationalError, read_limit_sec: float = 0.0) -> ServiceError | None:
    """What the caller is told; None for a fault of our own in the SQL."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name == "SQLITE_INTERRUPT":
        return TooSlow(read_limit_sec)
    if name.startswith("SQLITE_FULL"):
        return Unavailable("the service's disk is full; nothing was written. Free space and try again", status=507)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable("the service's database is locked by another program; try again")
    if name.startswith("SQLITE_READONLY"):
        return Unavailable("the service's database is read-only; nothing was written")
    if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
        return Unavailable("the service can't read or write its database; see its log")
    return None
