"""Reads are shared out between accounts: whoever asks for many heavy ones leaves a thread to the others (S16)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from balsam.server.errors import Unavailable
from balsam.server.store import readers as module
from balsam.server.store.readers import ALONE, COMPANY_SEC, NOBODY, READERS, Patience, Readers
from balsam.testing.clock import FakeClock

HEAVY, OTHER = 1, 2
AT_ONCE = 50


@pytest.fixture
def readers() -> Iterator[Readers]:
    made = Readers()
    yield made
    made.close()


def in_loop(check: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(check, 30))


class HeavyReads:
    """Reads of one account that go on until they are told to end."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._at_work = threading.Semaphore(0)
        self._go_on = threading.Event()
        self._reads: list[asyncio.Task[None]] = []

    def _read(self) -> None:
        self._at_work.release()
        self._go_on.wait(30)

    async def ask(self, number: int = AT_ONCE) -> None:
        self._reads += [asyncio.create_task(self._readers.run(self._read, HEAVY)) for _ in range(number)]
        await asyncio.sleep(0)

    async def are_at_work(self, number: int) -> bool:
        """So many more, and none beside them: every thread that could have begun one has had the time for it."""
        for _ in range(number):
            if not await asyncio.to_thread(self._at_work.acquire, timeout=30):
                return False
        for _ in range(2 * READERS):
            await self._readers.run(lambda: None, NOBODY)
        return not self._at_work.acquire(blocking=False)

    async def end(self) -> None:
        self._go_on.set()
        await asyncio.gather(*self._reads)


def test_s16_heavy_reads_of_one_account_leave_a_thread_to_the_others(readers: Readers) -> None:
    async def check() -> None:
        heavy = HeavyReads(readers)
        await heavy.ask()
        try:
            assert await heavy.are_at_work(ALONE), "one account has every thread"
            assert await readers.run(lambda: "answered", OTHER) == "answered"
        finally:
            await heavy.end()

    in_loop(check())


def test_threads_that_were_kept_for_company_are_used_when_it_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks for anything more, which would wake them."""
    monkeypatch.setattr(module, "COMPANY_SEC", 0.2)
    readers = Readers(cores=2)

    async def check() -> None:
        heavy = HeavyReads(readers)
        await readers.run(lambda: None, OTHER)
        try:
            await heavy.ask(ALONE)
            for number in range(ALONE):
                assert await asyncio.to_thread(heavy._at_work.acquire, timeout=10), number
        finally:
            await heavy.end()

    in_loop(check())
    readers.close()


@pytest.mark.parametrize(("cores", "most"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (64, 3)])
def test_s16_heavy_reads_leave_half_of_the_cores_to_company(cores: int, most: int) -> None:
    """As long as the others go on asking, whoever asked last; afterwards the threads are the account's own again."""
    clock = FakeClock()
    readers = Readers(cores, clock.monotonic)

    async def check() -> None:
        heavy = HeavyReads(readers)
        await readers.run(lambda: None, OTHER)
        try:
            await heavy.ask()
            assert await heavy.are_at_work(most)
            clock.advance(COMPANY_SEC - 0.1)
            await readers.run(lambda: None, OTHER)
            await heavy.ask(1)
            assert await heavy.are_at_work(0), "company went on asking"
            clock.advance(COMPANY_SEC + 0.1)
            await heavy.ask(ALONE)
            assert await heavy.are_at_work(ALONE - most)
        finally:
            await heavy.end()

    try:
        in_loop(check())
    finally:
        readers.close()


def test_the_service_itself_is_no_company(readers: Readers) -> None:
    """It looks the tokens of the account up."""

    async def check() -> None:
        heavy = HeavyReads(readers)
        await readers.run(lambda: None, NOBODY)
        try:
            await heavy.ask()
            assert await heavy.are_at_work(ALONE)
        finally:
            await heavy.end()

    in_loop(check())


def test_s16_a_read_that_takes_long_stands_still_in_company_only() -> None:
    """What it stands still is not counted against it."""
    clock = FakeClock()
    readers, pauses = Readers(2, clock.monotonic), list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.advance(seconds)

    def heavy() -> int:
        patience, steps = Patience(1.0, clock, readers.pause_sec, sleep), 0
        while not patience():
            clock.advance(0.01)
            steps += 1
        return steps

    async def check() -> None:
        assert await readers.run(heavy, HEAVY) in (100, 101) and pauses == [], "alone"
        await readers.run(lambda: None, NOBODY)
        assert await readers.run(heavy, HEAVY) in (100, 101) and pauses == [], "the service itself is no company"
        await readers.run(lambda: None, OTHER)
        assert await readers.run(heavy, HEAVY) in (100, 101)
        assert len(pauses) > 90 and {round(pause, 3) for pause in pauses} == {0.03}

    try:
        in_loop(check())
        assert readers.pause_sec(1.0) == 0, "in no thread of theirs"
    finally:
        readers.close()


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
