"""Ctrl-C while libEnsemble's manager runs: the tasks of the executor's `with` block are killed at once.

libEnsemble answers it by waiting for the simulations that run, and only then lets the block be left. Where the signal
reached the manager alone (workers that are threads, `kill -INT`, a notebook's stop button) nobody would end them.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from balsam.api import BalsamError

AGAIN_SEC = 2.0  # a simulation may submit one more task
_MANAGER = "libensemble.manager"


class Interrupt:
    """From `watch` to `leave`; only in the main thread, and where Ctrl-C raises. `kill` ends the tasks there are."""

    def __init__(self, kill: Callable[[], object]) -> None:
        self._kill = kill
        self._left = threading.Event()
        self._pid = os.getpid()
        self._before: Callable[[int, FrameType | None], Any] | None = None
        self._killer: threading.Thread | None = None

    def watch(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            self._before = before
            signal.signal(signal.SIGINT, self._on_signal)

    def leave(self) -> None:
        self._left.set()
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._on_signal:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Elsewhere the script may catch KeyboardInterrupt and go on; and a forked worker is not whose tasks they are.
        if self._killer is None and self._pid == os.getpid() and _is_in_manager(frame):
            self._killer = threading.Thread(target=self._kill_all, name="balsam-interrupt", daemon=True)
            self._killer.start()
        if self._before is not None:
            self._before(number, frame)

    def _kill_all(self) -> None:
        while not self._left.is_set():
            with contextlib.suppress(BalsamError):  # told when the block is left
                self._kill()
            self._left.wait(AGAIN_SEC)


def _is_in_manager(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_globals.get("__name__") != _MANAGER:
        frame = frame.f_back
    return frame is not None
