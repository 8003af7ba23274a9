"""Simulated time: events on a heap, processes that can be stopped and killed, tasks written as generators.

Everything else in the simulation stands on this. One seed gives one order of events, on any machine.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

START = datetime(2030, 1, 1, tzinfo=UTC)
Resume = Callable[..., None]
Awaitable = Callable[[Resume], None]
Task = Generator[Awaitable, Any, Any]


class Kernel:
    """The heap. `now` is true time in seconds; no component sees it, each has a clock of its own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def random(self, name: str) -> Random:
        """A stream of its own for each use, so that leaving a fault out disturbs the others little."""
        return Random(f"{self.seed}/{name}")

    def after(self, delay: float, fn: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + max(0.0, delay), self._count, fn, args))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Run up to `until`; True when `done` said so before (looked at every 64 events)."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, fn, args = heapq.heappop(self._heap)
            self.steps += 1
            fn(*args)
            if self.steps % 64 == 0 and done():
                return True
        self.now = max(self.now, until)
        return done()


class NodeClock:
    """A machine's clock: its wall clock may be wrong and jump, its monotonic clock drifts (S13)."""

    def __init__(self, kernel: Kernel, offset_sec: float = 0.0, drift: float = 0.0, boot: float = 0.0) -> None:
        self._kernel = kernel
        self._offset = timedelta(seconds=offset_sec)
        self.rate = 1.0 + drift
        self._boot = boot

    def now(self) -> datetime:
        return START + timedelta(seconds=self._kernel.now) + self._offset

    def monotonic(self) -> float:
        return self._boot + self._kernel.now * self.rate

    def jump(self, seconds: float) -> None:
        self._offset += timedelta(seconds=seconds)

    def delay_until(self, monotonic: float) -> float:
        """True seconds until this clock shows `monotonic`; a hair more, so that it is not early by rounding."""
        return max(0.0, monotonic - self.monotonic()) / self.rate + 1e-6


class Process:
    """What can be killed, and stopped with its events waiting. Tasks and timers of a dead process never run."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.name = name
        self.alive = True
        self._stops = 0
        self._parked: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    @property
    def stopped(self) -> bool:
        return self._stops > 0

    @property
    def executing(self) -> bool:
        return self.alive and not self._stops

    def after(self, delay: float, fn: Callable[..., None], *args: Any) -> None:
        self.kernel.after(delay, self.run, fn, args)

    def run(self, fn: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self.alive:
            return
        if self._stops:
            self._parked.append((fn, args))
        else:
            fn(*args)

    def die(self) -> None:
        self.alive = False
        self._parked.clear()

    def stop(self) -> None:
        self._stops += 1

    def cont(self) -> None:
        self._stops -= 1
        if not self._stops:
            parked, self._parked = self._parked, []
            for fn, args in parked:
                self.after(0.0, fn, *args)

    def spawn(self, task: Task) -> None:
        """Run a generator that yields what it waits for."""
        self.after(0.0, self._advance, task, None, None)

    def _advance(self, task: Task, value: Any, error: BaseException | None) -> None:
        try:
            wanted = task.send(value) if error is None else task.throw(error)
        except StopIteration:
            return

        def resume(value: Any = None, error: BaseException | None = None) -> None:
            self.run(self._advance, (task, value, error))

        wanted(resume)

    def sleep(self, seconds: float) -> Awaitable:
        return lambda resume: self.kernel.after(seconds, resume)


class Mailbox:
    """A queue between processes."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.items: deque[Any] = deque()
        self._waiter: Resume | None = None
        self._number = 0

    def put(self, item: Any) -> None:
        self.items.append(item)
        self._wake(self._number)

    def wait(self, timeout: float | None = None) -> Awaitable:
        """Until there is an item, or `timeout` passed."""

        def start(resume: Resume) -> None:
            self._number += 1
            self._waiter = resume
            if self.items:
                self._kernel.after(0.0, self._wake, self._number)
            elif timeout is not None:
                self._kernel.after(timeout, self._wake, self._number)

        return start

    def _wake(self, number: int) -> None:
        if number == self._number and self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            self._kernel.after(0.0, waiter)

    def take(self) -> list[Any]:
        items = list(self.items)
        self.items.clear()
        return items
