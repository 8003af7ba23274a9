"""The threads of a store in which reads run: by turns between accounts, and never all of them for one account.

A heavy list may take its whole time limit, and a core for as long; whoever asks for many of those at once leaves a
thread to the others, and half of the cores while there are others (S16). A read in SQLite that takes long makes way for
theirs as well. Used by the SQLite and the PostgreSQL store.
"""

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from typing import Any, TypeVar

from balsam.domain.clock import Clock
from balsam.server.errors import STOPPING, Unavailable
from balsam.server.line import Line

T = TypeVar("T")
READERS = 4
ALONE = READERS - 1  # threads that may be at work for one account when nobody else asks for anything
COMPANY_SEC = 5.0  # so long after a read its account counts as there
LONG_SEC = 0.02  # after so much work a read in SQLite makes way for those of others
PAUSES = 3.0  # so much longer than it works it stands still then
LONGEST_PAUSE_SEC = 0.05
NOBODY = 0  # the service itself, which looks tokens up for everybody: it is no company, and is not held back by any

_Read = tuple[int, Callable[[], Any], Future[Any]]


class Patience:
    """Asked by SQLite again and again within a read: whether it is given up.

    It makes way for others meanwhile; what it stands still for them is not counted.
    """

    def __init__(
        self, limit_sec: float, clock: Clock, pause_sec: Callable[[float], float], sleep: Callable[[float], None]
    ) -> None:
        self._limit_sec = limit_sec
        self._clock = clock
        self._pause_sec = pause_sec
        self._sleep = sleep
        self._worked_sec = 0.0
        self._resumed_at = clock.monotonic()

    def __call__(self) -> bool:
        worked_sec = self._clock.monotonic() - self._resumed_at
        self._worked_sec += worked_sec
        if self._worked_sec > LONG_SEC and (pause_sec := self._pause_sec(worked_sec)):
            self._sleep(pause_sec)
        self._resumed_at = self._clock.monotonic()
        return self._worked_sec > self._limit_sec


class Readers:
    """Runs functions in threads until `close`, which waits for those that were begun and refuses the rest.

    `cores`: those that the process may use; asked of the system by default.
    """

    def __init__(self, cores: int | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._in_company = min(ALONE, max(1, (cores or len(os.sched_getaffinity(0))) // 2))
        self._monotonic = monotonic
        # Who asked last and when, and when last anybody else did.
        self._last, self._last_at, self._other_at = NOBODY, -inf, -inf
        self._line: Line[int, _Read] = Line()
        self._at_work: Counter[int] = Counter()
        self._come = threading.Condition()
        self._closed = False
        self._here = threading.local()  # `account`: whose read the thread is at
        self._threads = [
            threading.Thread(target=self._run, name=f"store-read-{number}", daemon=True) for number in range(READERS)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, fn: Callable[[], T], account: int) -> T:
        """What `fn` returns or raises. Raises Unavailable when the store is closed meanwhile."""
        future: Future[T] = Future()
        with self._come:
            if self._closed:
                raise Unavailable(STOPPING)
            self._note(account)
            self._line.add(account, (account, fn, future))
            self._come.notify()
        return await asyncio.wrap_future(future)

    def is_alone(self, account: int) -> bool:
        """Whether nobody else has asked for anything lately."""
        others_at = self._other_at if account == self._last else self._last_at
        return account == NOBODY or self._monotonic() - others_at >= COMPANY_SEC

    def pause_sec(self, worked_sec: float) -> float:
        """How long the read in this thread is to stand still after so much work; 0 while its account is alone."""
        if self._closed or self.is_alone(getattr(self._here, "account", NOBODY)):
            return 0.0
        return min(PAUSES * worked_sec, LONGEST_PAUSE_SEC)

    def close(self) -> None:
        """A second call does nothing."""
        refused = []
        with self._come:
            self._closed = True
            while (read := self._line.take()) is not None:
                refused.append(read[2])
            self._come.notify_all()
        for future in refused:
            if future.set_running_or_notify_cancel():
                future.set_exception(Unavailable(STOPPING))
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (read := self._next()) is not None:
            account, fn, future = read
            self._here.account = account
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(fn())
            except BaseException as error:
                future.set_exception(error)
            with self._come:
                self._at_work[account] -= 1
                if not self._at_work[account]:
                    del self._at_work[account]

    def _next(self) -> _Read | None:
        """The next one that may be begun, or None at the end. An end of a read wakes nobody: its thread comes here."""
        with self._come:
            while not self._closed:
                full = [account for account, number in self._at_work.items() if number >= self._most_of(account)]
                if (read := self._line.take(full)) is not None:
                    self._at_work[read[0]] += 1
                    return read
                # What waits here may be begun as soon as its account is alone, which nobody tells.
                self._come.wait(COMPANY_SEC if self._line else None)
            return None

    def _note(self, account: int) -> None:
        if account == NOBODY:
            return
        if account != self._last:
            self._last, self._other_at = account, self._last_at
        self._last_at = self._monotonic()

    def _most_of(self, account: int) -> int:
        """How many threads may be at work for this account now."""
        return ALONE if self.is_alone(account) else self._in_company
