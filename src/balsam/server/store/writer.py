"""The thread through which all writes of a process go, in groups: what queued while the last commit ran is one commit.

No waiting for more: an item that comes alone is committed at once. Groups are filled by turns between the accounts that
have something to write, and end after GROUP_SEC: nobody waits for the end of what somebody else sent before (S16). A
store gives a function that commits a group and gives each item its result or its error; used by the SQLite and the
PostgreSQL store.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from balsam.server.errors import STOPPING, Unavailable
from balsam.server.line import Line
from balsam.server.store.protocol import Tx

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_GROUP = 100
GROUP_SEC = 0.05  # after which no further item of a group is begun


class Item:
    """One `write` on its way through the writer thread: `result` or `error` is set by the store."""

    __slots__ = ("_future", "account", "asked_at", "error", "fn", "loop", "result")

    def __init__(
        self, fn: Callable[[Tx], Any], account: int, future: Any, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        self.fn = fn
        self.account = account
        self.loop = loop
        self.asked_at = time.monotonic()
        self.result: Any = None
        self.error: BaseException | None = None
        self._future = future

    def settle(self) -> None:
        """Tell the caller."""
        if self._future.cancelled():
            return
        if self.error is not None:
            self._future.set_exception(self.error)
        else:
            self._future.set_result(self.result)


class GroupedWriter:
    """Runs `write_group` in a thread of its own. It leaves result or error in the first items of the group: at least
    one, and not all when GROUP_SEC are over. It returns how many; what it raises is told to all of them."""

    def __init__(self, write_group: Callable[[list[Item]], int]) -> None:
        self._write_group = write_group
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._line: Line[int, Item] = Line()  # the writing thread's own
        self._closed = False
        self._closing = threading.Lock()  # held so that nothing is queued behind the end, where nobody would answer it
        self._thread = threading.Thread(target=self._run, name="store-write", daemon=True)
        self._thread.start()

    async def write(self, fn: Callable[[Tx], T], account: int) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._submit(Item(fn, account, future, loop))
        return await future

    def write_sync(self, fn: Callable[[Tx], T], account: int) -> T:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a write inside a write would wait for itself")
        future: Future[T] = Future()
        self._submit(Item(fn, account, future, None))
        return future.result()

    def _submit(self, item: Item) -> None:
        with self._closing:
            if self._closed:
                raise Unavailable(STOPPING)
            self._queue.put(item)

    def close(self) -> None:
        """Finish what is queued. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        """One group after another until `None` comes and nothing waits any more."""
        last = False
        while not last or self._line:
            last = self._hear() or last
            group: list[Item] = []
            while len(group) < MAX_GROUP and (item := self._line.take()) is not None:
                group.append(item)
            if group:
                done = self._written(group)
                self._put_back(group[done:])
                settle(group[:done])

    def _written(self, group: list[Item]) -> int:
        """How many of the group have their answer. A fault of the store's own ends its group, never this thread: all
        later writes would wait for ever."""
        try:
            return self._write_group(group)
        except Exception as error:
            for item in group:
                item.result, item.error = None, error
            return len(group)

    def _hear(self) -> bool:
        """Take in what has come, waiting for it when there is nothing else to do; whether it was the end."""
        while not self._line or not self._queue.empty():
            item = self._queue.get()
            if item is None:
                return True
            self._line.add(item.account, item)
        return False

    def _put_back(self, rest: list[Item]) -> None:
        for item in reversed(rest):
            self._line.put_back(item.account, item)


def settle(group: Sequence[Item]) -> None:
    """Give every item its answer, with one call into each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Item]] = {}
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


def _settle_all(items: list[Item]) -> None:
    for item in items:
        item.settle()
