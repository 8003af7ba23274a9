"""A Store whose writes happen while their callers are told that they timed out, around any other store."""

from collections.abc import Callable
from typing import TypeVar

from balsam.server.store.protocol import ReadTx, Store, Subscriber, Tx, Wake

T = TypeVar("T")


class WriteTimedOut(Exception):
    """The caller does not know whether the write happened. (It did.)"""


class FaultyStore:
    """A Store whose next writes happen, but end in a time-out for the caller: the worst answer there is."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.faults = 0

    async def write(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        return self._answer(await self.inner.write(fn, account))

    def write_sync(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        return self._answer(self.inner.write_sync(fn, account))

    def _answer(self, result: T) -> T:
        if self.faults:
            self.faults -= 1
            raise WriteTimedOut
        return result

    async def read(self, fn: Callable[[ReadTx], T], account: int = 0) -> T:
        return await self.inner.read(fn, account)

    def read_sync(self, fn: Callable[[ReadTx], T]) -> T:
        return self.inner.read_sync(fn)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        return self.inner.subscribe(subscriber)

    async def tell(self, wake: Wake) -> None:
        await self.inner.tell(wake)

    def leads(self) -> bool:
        return self.inner.leads()

    def close(self) -> None:
        self.inner.close()
