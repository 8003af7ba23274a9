"""The store in memory: for the simulation and as the model of the others. Nothing is durable.

Calls run at once in the caller's thread, one after another, so a run with a seed is the same each time.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from balsam.server.errors import Unavailable
from balsam.server.store.memory_tables import Tables
from balsam.server.store.memory_tx import MemoryTx
from balsam.server.store.protocol import ReadTx, Subscriber, Tx, Wake
from balsam.server.store.wakes import Subscribers

T = TypeVar("T")


class MemoryStore:
    """Store over dictionaries."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._subscribers = Subscribers()
        self._lock = threading.Lock()
        self._inside = 0  # the thread that is in a transaction
        self._closed = False

    async def write(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        return self.write_sync(fn, account)

    async def read(self, fn: Callable[[ReadTx], T], account: int = 0) -> T:
        return self.read_sync(fn)

    def write_sync(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        with self._alone():
            tx = MemoryTx(self._tables)
            try:
                result = fn(tx)
            except BaseException:
                tx.undo()
                raise
        self._subscribers.publish(tx.wakes)
        return result

    def read_sync(self, fn: Callable[[ReadTx], T]) -> T:
        with self._alone():
            return fn(MemoryTx(self._tables))

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        return self._subscribers.add(subscriber)

    async def tell(self, wake: Wake) -> None:
        """There are no other processes."""

    def leads(self) -> bool:
        return True

    def close(self) -> None:
        self._closed = True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._closed:
            raise Unavailable("the service is stopping; try again")
        if self._inside == threading.get_ident():
            raise RuntimeError("a transaction inside a transaction would wait for itself")
        with self._lock:
            self._inside = threading.get_ident()
            try:
                yield
            finally:
                self._inside = 0
