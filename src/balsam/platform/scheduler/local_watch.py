"""The thread that learns at once when a local allocation ended, and keeps its deadlines.

Only `local` uses this. It sleeps until a watched process ended (pidfd), a deadline came or it was woken; idle it costs
nothing. Where the system has no pidfd it looks once a second while something runs.
"""

import contextlib
import logging
import os
import selectors
import threading
from collections import deque
from collections.abc import Callable

from balsam.platform.processes import ProcessId, open_handle

log = logging.getLogger(__name__)

_PAUSE_WITHOUT_PIDFD_SEC = 1.0


class EndWatch:
    """Calls `look` whenever something may be due, and `on_change` with each id given to `announce`.

    `look` returns the processes whose end to wait for and the seconds until it wants to be called anyway (None: no
    need). Both are called from this object's thread only.
    """

    def __init__(
        self, look: Callable[[], tuple[list[ProcessId], float | None]], on_change: Callable[[str], None]
    ) -> None:
        self._look = look
        self._on_change = on_change
        self._announced: deque[str] = deque()
        self._closing = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        self._thread = threading.Thread(target=self._run, name="balsam-local-scheduler", daemon=True)
        self._thread.start()

    def announce(self, scheduler_id: str) -> None:
        """Have `on_change` called soon, from the thread."""
        self._announced.append(scheduler_id)
        self.wake()

    def wake(self) -> None:
        """Have `look` called soon. A full pipe is a wake-up already under way."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"w")

    def close(self) -> None:
        """End the thread and wait for it."""
        self._closing = True
        self.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            os.close(self._wake_write)
            os.close(self._wake_read)

    def _run(self) -> None:
        while not self._closing:
            try:
                leaders, pause_sec = self._look()
            except Exception:
                log.exception("looking after local allocations failed; trying again")
                leaders, pause_sec = [], 1.0
            if not self._announced:
                self._wait(leaders, pause_sec)
            while self._announced:
                self._tell(self._announced.popleft())

    def _tell(self, scheduler_id: str) -> None:
        try:
            self._on_change(scheduler_id)
        except Exception:
            log.exception("the receiver of the end of allocation %s failed", scheduler_id)

    def _wait(self, leaders: list[ProcessId], pause_sec: float | None) -> None:
        handles = [handle for handle in map(open_handle, leaders) if handle is not None]
        if len(handles) < len(leaders):
            limit_sec = 0.0 if hasattr(os, "pidfd_open") else _PAUSE_WITHOUT_PIDFD_SEC
            pause_sec = limit_sec if pause_sec is None else min(pause_sec, limit_sec)
        try:
            with selectors.DefaultSelector() as selector:
                for handle in (self._wake_read, *handles):
                    selector.register(handle, selectors.EVENT_READ)
                selector.select(pause_sec)
        finally:
            for handle in handles:
                os.close(handle)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
