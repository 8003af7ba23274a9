"""Reads are shared out between accounts: whoever asks for many heavy ones leaves a thread to the others (S16)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from balsam.server.errors import Unavailable
from balsam.server.store.readers import OF_ONE_ACCOUNT, READERS, Readers

HEAVY, OTHER = 1, 2


@pytest.fixture
def readers() -> Iterator[Readers]:
    made = Readers()
    yield made
    made.close()


def in_loop(check: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(check, 30))


def test_s16_heavy_reads_of_one_account_leave_a_thread_to_the_others(readers: Readers) -> None:
    go_on, at_work = threading.Event(), threading.Semaphore(0)

    def heavy() -> None:
        at_work.release()
        go_on.wait(30)

    async def check() -> None:
        reads = [asyncio.create_task(readers.run(heavy, HEAVY)) for _ in range(50)]
        for _ in range(OF_ONE_ACCOUNT):
            assert await asyncio.to_thread(at_work.acquire, timeout=30)
        try:
            assert await readers.run(lambda: "answered", OTHER) == "answered"
            assert not at_work.acquire(blocking=False), "one account has every thread"
        finally:
            go_on.set()
        await asyncio.gather(*reads)

    in_loop(check())


def test_what_waits_is_taken_by_turns_when_all_threads_are_taken(readers: Readers) -> None:
    go_on, done = threading.Event(), list[str]()

    async def check() -> None:
        busy = [
            asyncio.create_task(readers.run(lambda: go_on.wait(30), account)) for account in range(10, 10 + READERS)
        ]
        await asyncio.sleep(0)
        reads = [asyncio.create_task(readers.run(lambda: done.append("heavy"), HEAVY)) for _ in range(50)]
        reads += [asyncio.create_task(readers.run(lambda: done.append("other"), OTHER))]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*busy, *reads)

    in_loop(check())
    assert "other" in done[: 2 * READERS]


def test_what_a_read_raises_is_raised_and_its_thread_goes_on(readers: Readers) -> None:
    async def check() -> None:
        for _ in range(2 * READERS):
            with pytest.raises(ZeroDivisionError):
                await readers.run(lambda: 1 // 0, HEAVY)
        assert await readers.run(lambda: 7, HEAVY) == 7

    in_loop(check())


def test_a_closed_store_refuses_what_waits_and_what_comes() -> None:
    readers, go_on, begun = Readers(), threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        go_on.wait(30)
        return 7

    async def check() -> None:
        first = asyncio.create_task(readers.run(slow, HEAVY))
        assert await asyncio.to_thread(begun.wait, 30)
        rest = [asyncio.create_task(readers.run(slow, HEAVY)) for _ in range(READERS)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(readers.close))
        with pytest.raises(Unavailable):
            while True:
                await readers.run(lambda: None, OTHER)
        go_on.set()
        assert await first == 7
        assert Unavailable in [type(found) for found in await asyncio.gather(*rest, return_exceptions=True)]
        await closing

    in_loop(check())
