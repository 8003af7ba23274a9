"""The store in one SQLite file: the default.

One writer thread owns the only writing connection. It takes what queued while its last commit ran (no waiting for more)
and commits that as one group; each item has a savepoint, so an item that fails does not hurt the others. Reads run on
connections of their own and never wait for the writer. Wakes are published after the commit.
"""

import asyncio
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from balsam.domain.clock import Clock, SystemClock
from balsam.server.errors import ServiceError, TooSlow, Unavailable
from balsam.server.store.filesystem import network_filesystem
from balsam.server.store.protocol import ReadTx, Subscriber, Tx
from balsam.server.store.schema import migrate
from balsam.server.store.sql_read import SqlReadTx
from balsam.server.store.sql_write import Pending, Sequences, SqlTx
from balsam.server.store.wakes import merged

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_GROUP = 100
READERS = 3
BUSY_TIMEOUT_SEC = 5.0
READ_LIMIT_SEC = 10.0
LOOK_EVERY = 20_000  # steps of SQLite's machine between two looks at the clock: a few milliseconds at most
_SAVE_COUNT = """INSERT INTO state_counts VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (owner_id, site_id, app_id, state) DO UPDATE SET n = n + excluded.n"""


class StoreInUse(Exception):
    """Another process has this database open; the text names it."""


class _Item:
    """One `write` on its way through the writer thread."""

    __slots__ = ("error", "fn", "future", "loop", "result")

    def __init__(self, fn: Callable[[Tx], Any], future: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self.fn = fn
        self.future = future
        self.loop = loop
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


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
        self._subscribers: list[Subscriber] = []
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self._closed = False
        self._writer = threading.Thread(target=self._run, name="store-write", daemon=True)
        self._writer.start()

    async def write(self, fn: Callable[[Tx], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._submit(_Item(fn, future, loop))
        return await future

    def write_sync(self, fn: Callable[[Tx], T]) -> T:
        if threading.current_thread() is self._writer:
            raise RuntimeError("a write inside a write would wait for itself")
        future: Future[T] = Future()
        self._submit(_Item(fn, future, None))
        return future.result()

    def _submit(self, item: _Item) -> None:
        if self._closed:
            raise Unavailable("the service is stopping; try again")
        self._queue.put(item)

    async def read(self, fn: Callable[[ReadTx], T]) -> T:
        if self._closed:
            raise Unavailable("the service is stopping; try again")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.read_sync, fn)

    def read_sync(self, fn: Callable[[ReadTx], T]) -> T:
        with _typed_errors(self._read_limit_sec), self._reader() as db:
            give_up_at = self._clock.monotonic() + self._read_limit_sec
            db.set_progress_handler(lambda: self._clock.monotonic() > give_up_at, LOOK_EVERY)
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
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._refuse_rest()
        self._pool.shutdown()
        while not self._readers.empty():
            self._readers.get_nowait().close()
        self._db.close()
        os.close(self._lock)

    def _run(self) -> None:
        """The writer thread: one group after another until `None` comes."""
        while (item := self._queue.get()) is not None:
            group = [item]
            last = False
            while len(group) < MAX_GROUP and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    last = True
                    break
                group.append(following)
            self._write_group(group)
            if last:
                return

    def _refuse_rest(self) -> None:
        """Answer what was queued after the end by a thread that had not seen it yet."""
        while not self._queue.empty():
            if (item := self._queue.get()) is not None:
                item.error = Unavailable("the service is stopping; try again")
                _settle([item])

    def _write_group(self, group: list[_Item]) -> None:
        pending = Pending()
        try:
            with _typed_errors():
                self._db.execute("BEGIN IMMEDIATE")
                for item in group:
                    self._write_item(item, pending, alone=len(group) == 1)
                self._save(pending)
                self._db.execute("COMMIT")
                self._sequences.saved()
        except BaseException as error:
            self._undo()
            for item in group:
                item.error = item.error or error
            pending = Pending()
        # Before the callers hear: a revoked token must be forgotten when its revocation is answered.
        self._publish(pending)
        _settle(group)

    def _write_item(self, item: _Item, pending: Pending, *, alone: bool) -> None:
        """Run one item. What it raises is its own; what the database can't do any more is the whole group's."""
        tx = SqlTx(self._db, self._sequences)
        if alone:
            # Nobody else is in the transaction: giving up the item is giving up the transaction.
            item.result = item.fn(tx)
            pending.absorb(tx.pending)
            return
        self._db.execute("SAVEPOINT item")
        try:
            item.result = item.fn(tx)
        except sqlite3.OperationalError:
            raise
        except BaseException as error:
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

    def _publish(self, pending: Pending) -> None:
        wakes = merged(pending.wakes)
        if not wakes:
            return
        for subscriber in list(self._subscribers):
            try:
                subscriber(wakes)
            except Exception:
                # The rows are durable; a subscriber that fails must not stop the writer.
                log.exception("a subscriber failed")


def _settle(group: Sequence[_Item]) -> None:
    """Give every item its answer, with one call into each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
    for item in group:
        if item.loop is None:
            item.settle()
        else:
            loops.setdefault(item.loop, []).append(item)
    for loop, items in loops.items():
        try:
            loop.call_soon_threadsafe(_settle_all, items)
        except RuntimeError:
            log.info("an event loop was closed before its %d answers were ready", len(items))


def _settle_all(items: list[_Item]) -> None:
    for item in items:
        item.settle()


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_SEC, isolation_level=None, check_same_thread=False, cached_statements=512
    )


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


def _refusal(error: sqlite3.OperationalError, read_limit_sec: float) -> ServiceError | None:
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
