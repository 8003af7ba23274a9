"""Runs the sweeps by the clock, not by luck of traffic (L6): one thread, started and stopped by the app's lifespan."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from balsam.domain.clock import Clock

log = logging.getLogger("balsam.server")

LOOK_AGAIN_SEC = 10.0  # whether this process leads by now


@dataclass(slots=True)
class Sweep:
    """Something to run every so often. It blocks, and works in its own transactions.

    `everywhere`: in each process of the service; by default only in the one that leads (L6).
    """

    name: str
    every_sec: float
    run: Callable[[], object]
    everywhere: bool = False
    due_at: float = 0.0


class SweepTimer:
    """One thread that runs each sweep when it is due. A sweep that fails is logged and runs again at its next time."""

    def __init__(self, sweeps: Sequence[Sweep], clock: Clock, leads: Callable[[], bool]) -> None:
        self._sweeps = list(sweeps)
        self._clock = clock
        self._leads = leads
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sweeps", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the sweep that runs has ended."""
        self._stopping.set()
        self._thread.join()

    def run_due(self) -> float:
        """Run what is due; seconds until the next one is."""
        for sweep in self._sweeps:
            if self._stopping.is_set() or self._clock.monotonic() < sweep.due_at:
                continue
            if not sweep.everywhere and not self._leads():
                sweep.due_at = self._clock.monotonic() + min(sweep.every_sec, LOOK_AGAIN_SEC)
                continue
            try:
                sweep.run()
            except Exception:
                log.exception("sweep %s failed; it runs again in %g s", sweep.name, sweep.every_sec)
            sweep.due_at = self._clock.monotonic() + sweep.every_sec
        return max(0.01, min(sweep.due_at for sweep in self._sweeps) - self._clock.monotonic())

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self.run_due())
