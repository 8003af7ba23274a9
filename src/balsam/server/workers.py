"""Several processes for one service: forked from one that only watches them.

Used by run.py. The children share the listening socket, so a connection goes to whoever takes it first. Promises: one
that dies is started again; a stop of the parent stops all in order; none is left when the parent is killed. When the
parent makes room for a successor (handover.py), they answer until the successor's do.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from balsam.server.handover import Predecessor
from balsam.server.settings import SettingsError

log = logging.getLogger("balsam.server")

STOP_SEC = 15.0  # then they are killed
SAME_SIGNAL_SEC = 0.5  # `timeout` signals a process and its group at once
RESTART_SEC = 0.5
READY = b"r"
# What a child does: it calls its first argument when it answers, and stops when its second, a pipe, can be read.
Work = Callable[[Callable[[], None], int], None]


def run(count: int, work: Work, on_ready: Callable[[], None], before: Predecessor | None = None) -> Predecessor | None:
    """Keep `count` children at work until SIGINT or SIGTERM, or until SIGUSR2: then it returns what it leaves.

    Raises SettingsError when one can't even start.
    """
    return _Watch(count, work, on_ready, before or Predecessor()).run()


class _Watch:
    """The parent."""

    def __init__(self, count: int, work: Work, on_ready: Callable[[], None], before: Predecessor) -> None:
        self._count = count
        self._work = work
        self._on_ready = on_ready
        self._children: set[int] = set()
        self._before = set(before.workers)
        self._alive_writers_before = before.alive_writers
        self._stopping = False
        self._signalled_at: float | None = None
        self._hurried = False  # by a second signal
        self._restarting = False
        # The end of the parent is the end of the first pipe; children say on the second that they answer.
        self._alive_reader, self._alive_writer = os.pipe()
        self._ready_reader, self._ready_writer = os.pipe()

    def run(self) -> Predecessor | None:
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self._stop)
        signal.signal(signal.SIGUSR2, self._restart)
        for _ in range(self._count):
            self._start()
        if self._all_answer():
            self._on_ready()
            self._signal(signal.SIGUSR2, self._before)
            self._keep()
        if self._restarting and not self._stopping:
            pipes = (self._alive_writer, *(self._alive_writers_before if self._before else ()))
            return Predecessor(pipes, tuple(self._children | self._before))
        failed = not self._stopping
        self._end()
        if failed:
            raise SettingsError("a worker could not start; its reason is above")
        return None

    def _restart(self, sig: int, frame: FrameType | None) -> None:
        self._restarting = True

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        # The children hear of it from `_end`.
        now = time.monotonic()
        self._signalled_at = self._signalled_at or now
        self._hurried = now - self._signalled_at > SAME_SIGNAL_SEC
        self._stopping = True

    def _start(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._be_child()
        self._children.add(pid)

    def _be_child(self) -> NoReturn:
        """Never returns into the parent's code."""
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C is for the parent, which passes it on
            for pipe in (self._alive_writer, *self._alive_writers_before):
                os.close(pipe)
            os.close(self._ready_reader)
            for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                signal.signal(sig, signal.SIG_DFL)
            self._work(self._say_ready, self._alive_reader)
            status = 0
        except SettingsError as error:
            log.error("a worker can't start: %s", error)
        except Exception:
            log.exception("worker %d ends", os.getpid())
        finally:
            logging.shutdown()
            os._exit(status)

    def _say_ready(self) -> None:
        with suppress(BrokenPipeError):
            os.write(self._ready_writer, READY)

    def _all_answer(self) -> bool:
        """Wait for the first life of each child. False when one of them ended instead, or it is time to stop."""
        answering = 0
        os.set_blocking(self._ready_reader, False)
        while answering < self._count and not self._stopping:
            with suppress(BlockingIOError):
                answering += len(os.read(self._ready_reader, self._count))
            if self._ended():
                return False
            time.sleep(0.02)
        return not self._stopping

    def _ended(self) -> list[int]:
        """Children that have ended since this was last asked."""
        ended = [pid for pid in self._children if os.waitpid(pid, os.WNOHANG)[0] != 0]
        self._children.difference_update(ended)
        self._before = {pid for pid in self._before if os.waitpid(pid, os.WNOHANG)[0] == 0}
        return ended

    def _keep(self) -> None:
        while not (self._stopping or self._restarting):
            for pid in self._ended():
                log.error("worker %d ended; starting another one", pid)
            time.sleep(RESTART_SEC / 5 if len(self._children) == self._count else RESTART_SEC)
            while len(self._children) < self._count and not (self._stopping or self._restarting):
                self._start()

    def _end(self) -> None:
        self._signal(signal.SIGTERM, self._children | self._before)
        begun, told_twice = time.monotonic(), False
        while (self._children or self._before) and time.monotonic() < begun + STOP_SEC:
            self._ended()
            if self._hurried and not told_twice and time.monotonic() > begun + 2 * SAME_SIGNAL_SEC:
                told_twice = True
                self._signal(signal.SIGTERM, self._children | self._before)
            time.sleep(0.02)
        self._signal(signal.SIGKILL, self._children | self._before)
        for pid in self._children | self._before:
            os.waitpid(pid, 0)

    def _signal(self, sig: signal.Signals, pids: set[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sig)
