"""Two threads of the agent that keep its processing going: one makes the passes, one renews the lease.

Started and stopped by `agent.py`, which also says when the service's stream tells of hooks. The first sleeps until a
worker or the stream has something to say; the second is never behind a report that takes long (F24).
"""

import logging
import threading
from collections.abc import Iterable

from balsam.domain.clock import Clock
from balsam.site.hook_workers import HookWorkers
from balsam.site.service import ServiceAway
from balsam.site.services.processing import Processing

log = logging.getLogger(__name__)

FIRST_PAUSE_SEC = 0.25
LONGEST_PAUSE_SEC = 5.0
RENEW_AGAIN_SEC = 5.0
LONGEST_STOP_SEC = 3.0


class ProcessingLoop:
    """The threads of one agent."""

    def __init__(self, processing: Processing, workers: HookWorkers, clock: Clock) -> None:
        self._processing = processing
        self._workers = workers
        self._clock = clock
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="balsam-hooks", daemon=True),
            threading.Thread(target=self._renew, name="balsam-hooks-lease", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def hint(self) -> None:
        """There may be Jobs that wait for a hook."""
        self._processing.hint()
        self._workers.wake()

    def cancel(self, job_ids: Iterable[int]) -> None:
        """Users want the end of these Jobs."""
        self._processing.cancel(job_ids)
        self._workers.wake()

    def stop(self) -> None:
        """Stop the hooks that run, which run again under the next agent, and hand in what is known."""
        self._stopping.set()
        self._workers.wake()
        self._threads[0].join(LONGEST_STOP_SEC * 2)

    def _run(self) -> None:
        pause_sec = FIRST_PAUSE_SEC
        while not self._stopping.is_set():
            pause_sec = FIRST_PAUSE_SEC if self._turn(pause_sec) else min(pause_sec * 2, LONGEST_PAUSE_SEC)
        if not self._workers.close(LONGEST_STOP_SEC):
            log.error("hooks that do not end are left to their keepers")
            return
        self._processing.close()

    def _turn(self, pause_sec: float) -> bool:
        """One pass, and the wait for the next one; whether it was whole. Whatever goes wrong, there will be another."""
        try:
            is_whole = self._processing.run_once()
            due_sec = self._processing.due_at - self._clock.monotonic()
            self._workers.wait(max(0.0, due_sec) if is_whole else pause_sec)
            return is_whole
        except Exception:
            log.exception("a pass of the agent's processing failed; it gives up what it holds and begins anew")
            self._processing.start_over()
            self._stopping.wait(pause_sec)
            return False

    def _renew(self) -> None:
        pause_sec = FIRST_PAUSE_SEC
        while not self._stopping.wait(pause_sec):
            try:
                pause_sec = self._processing.renew()
            except ServiceAway:
                pause_sec = RENEW_AGAIN_SEC
            except Exception:
                log.exception("renewing the lease for hooks failed; trying again")
                pause_sec = RENEW_AGAIN_SEC
            self._workers.wake()
