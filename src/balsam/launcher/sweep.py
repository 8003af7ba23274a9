"""Finds and ends what commands leave behind: background members of their session, daemons that left it.

Called by the launcher's loop. A command that ended by itself with an empty group (`retire`) holds nothing any more and
is looked after within a second, all of them in one pass over /proc. A command that was killed, or left its group
populated (`hold`), keeps its slot until a pass saw none of its processes alive (S9). Costs nothing while there is
nothing to look for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from balsam.launcher.proctable import ALLOCATION_ENV, Killer
from balsam.platform.process_table import Process, look_over, read_process

log = logging.getLogger("balsam.launcher")

JOB_ENV = "BALSAM_JOB_ID"
ATTEMPT_ENV = "BALSAM_ATTEMPT"
WORKER_ATTEMPT = "worker"
RETIRED_PERIOD_SEC = 1.0
# On a machine with thousands of processes a pass is slow, and made less often: it may cost so much of the time.
RETIRED_COST = 0.01
_FIRST_DELAY_SEC = 0.002
_LONGEST_DELAY_SEC = 0.5


class Run(NamedTuple):
    """One attempt of a Job, as its processes can be recognised: by a mark in their environment, or their session.

    A mark is a Job's id and attempt, or a worker's name: what a worker forks keeps the worker's environment.
    """

    job_id: str
    attempt: str
    sessions: tuple[int, ...]
    workers: tuple[str, ...] = ()


@dataclass(slots=True)
class _Held:
    kill_at: float
    look_at: float = 0.0
    delay: float = _FIRST_DELAY_SEC
    killed: bool = False


class Sweeper:
    """The runs that ended and are not yet known to be gone. Times are of one monotonic clock, in seconds."""

    def __init__(
        self, allocation: str, look_over: Callable[[int], Iterator[tuple[Process, bytes]]] = look_over
    ) -> None:
        self._allocation_mark = f"\0{ALLOCATION_ENV}={allocation}\0".encode()
        self._look_over = look_over
        me = read_process(os.getpid())
        self._started = 0 if me is None else me.started
        self._retired: list[Run] = []
        self._held: dict[Run, _Held] = {}
        self._next_retired = 0.0
        self._period_sec = RETIRED_PERIOD_SEC

    def retire(self, run: Run, now: float) -> None:
        """`run` ended by itself and its group is empty; whatever daemon it left is killed about a second later."""
        if not self._retired:
            self._next_retired = now + self._period_sec
        self._retired.append(run)

    def hold(self, run: Run, kill_at: float) -> None:
        """`run` has ended but may have living processes; they are killed from `kill_at` on and reported once gone."""
        self._held[run] = _Held(kill_at)

    def holds(self, run: Run) -> bool:
        """True while `run` was not seen gone."""
        return run in self._held

    def due(self) -> float | None:
        """When `sweep` wants to be called next; None: when there is something new."""
        soonest = self._next_retired if self._retired else None
        for held in self._held.values():
            soonest = held.look_at if soonest is None else min(soonest, held.look_at)
        return soonest

    def sweep(self, now: float) -> list[Run]:
        """Make one pass, kill what is to be killed, return the held runs of which nothing lives any more (S9)."""
        doomed = {run for run, held in self._held.items() if now >= held.kill_at}.union(self._retired)
        survivors = self._survivors(doomed)
        gone = [run for run in self._held if run not in survivors]
        for run in gone:
            del self._held[run]
        # One that was killed is looked for again too: it may have forked during this pass.
        self._retired = [run for run in self._retired if run in survivors]
        self._next_retired = now + self._period_sec
        for held in self._held.values():
            _pace(held, now)
        return gone

    def took(self, seconds: float) -> None:
        """The last pass took so long."""
        self._period_sec = max(RETIRED_PERIOD_SEC, seconds / RETIRED_COST)

    def _survivors(self, doomed: Collection[Run]) -> set[Run]:
        """The runs of which something lives, or may live; of the doomed ones it is killed as soon as it is seen.

        Processes older than the launcher are none of its runs, and their environments are not read.
        """
        runs = [*self._retired, *self._held]
        by_mark = {(run.job_id.encode(), run.attempt.encode()): run for run in runs}
        by_mark |= {(name.encode(), WORKER_ATTEMPT.encode()): run for run in runs for name in run.workers}
        by_session = {session: run for run in runs for session in run.sessions}
        found: set[Run] = set()
        killer = Killer()
        try:
            for process, environ in self._look_over(self._started):
                if process.started < self._started:
                    continue
                mark = self._mark(environ)
                run = by_session.get(process.session) if mark is None else by_mark.get(mark)
                if run is not None:
                    found.add(run)
                    if run in doomed:
                        killer.kill(process)
        except OSError as error:
            log.warning("processes can't be looked for now: %s", error.strerror)
            found.update(runs)
        return found

    def _mark(self, environ: bytes) -> tuple[bytes, bytes] | None:
        """(job id, attempt) of a process of this allocation; None when it carries no such mark."""
        if self._allocation_mark not in environ:
            return None
        job_id, attempt = _value(environ, JOB_ENV), _value(environ, ATTEMPT_ENV)
        return None if job_id is None or attempt is None else (job_id, attempt)


def _pace(held: _Held, now: float) -> None:
    """Look again soon after the kill, then less and less often."""
    if now >= held.kill_at and not held.killed:
        held.killed, held.delay = True, _FIRST_DELAY_SEC
    held.look_at = now + held.delay
    if not held.killed:
        held.look_at = min(held.look_at, held.kill_at)
    held.delay = min(held.delay * 2, _LONGEST_DELAY_SEC)


def _value(environ: bytes, name: str) -> bytes | None:
    start = environ.find(f"\0{name}=".encode())
    if start < 0:
        return None
    start += len(name) + 2
    end = environ.find(b"\0", start)  # there is none where the process has written over it
    return None if end < 0 else environ[start:end]
