"""Child processes of `balsam up`: start, restart when they die, stop in order.

One thread: it sleeps in select on the children's pidfds and on a signal pipe, and never polls but while something
starts or ends. A child gets SIGTERM from the kernel when the supervisor itself dies, so nothing outlives it.
"""

import ctypes
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import click

from balsam.cli.log_tail import log_tail

START_TIMEOUT_SEC = 60.0
STOP_TIMEOUT_SEC = 20.0
HURRIED_STOP_SEC = 2.0
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
# `timeout` and some shells signal a process and then its group: that is one wish, not a second and impatient one.
SAME_SIGNAL_SEC = 0.5
LOOK_AGAIN_SEC = 0.1
MAX_BACKOFF_SEC = 5.0
_STABLE_SEC = 10.0
_PR_SET_PDEATHSIG = 1

T = TypeVar("T")


@dataclass
class Child:
    """One supervised process; its output goes to `log`."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    started_at: float = 0.0
    backoff_sec: float = 0.0

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Supervisor:
    """Runs children until told to stop. `on_event` is told, in words, what it had to do.

    The first SIGINT or SIGTERM ends `run_until_signal` (or raises click.Abort out of `wait_until`); a second one sets
    `is_hurried`, which ends `run_until` and shortens `stop`.
    """

    on_event: Callable[[str], None]
    _children: list[Child] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _signal_pipe: tuple[int, int] = (-1, -1)
    _old_handlers: dict[int, Any] = field(default_factory=dict)
    _old_wakeup_fd: int = -1
    _signalled_at: float | None = None
    is_hurried: bool = False

    def __enter__(self) -> "Supervisor":
        self._signal_pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._signal_pipe[0], selectors.EVENT_READ, None)
        # Written to the moment a signal arrives: a handler of ours would not run before select returns.
        self._old_wakeup_fd = signal.set_wakeup_fd(self._signal_pipe[1], warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            self.stop(child)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup_fd)
        self._selector.close()
        for end in self._signal_pipe:
            os.close(end)

    def start(self, child: Child) -> None:
        """Start a child in a session of its own, so that Ctrl-C reaches only the supervisor. Raises OSError."""
        with os.fdopen(os.open(child.log, _APPEND, 0o600), "ab") as log:
            child.process = subprocess.Popen(
                child.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        child.started_at = time.monotonic()
        try:
            child.pidfd = os.pidfd_open(child.process.pid)
        except OSError:  # nobody would hear of its end
            child.process.kill()
            child.process.wait()
            raise
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        if child not in self._children:
            self._children.append(child)

    def wait_until(self, child: Child, ready: Callable[[], T | None]) -> T:
        """What `ready` returns once that is true. Raises ClickException when the child dies or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_SEC
        while time.monotonic() < deadline and self._signalled_at is None:
            if not child.is_running:
                break
            if answer := ready():
                return answer
            time.sleep(0.02)
        if self._signalled_at is not None:
            raise click.Abort
        what = f"did not get ready within {START_TIMEOUT_SEC:.0f} s" if child.is_running else "ended while starting"
        raise click.ClickException(f"the {child.name} {what}; its log ({child.log}) ends with:\n{log_tail(child.log)}")

    def run_until_signal(self) -> None:
        """Sleep until SIGINT or SIGTERM; restart children that die meanwhile."""
        while self._signalled_at is None:
            self._turn(None)

    def run_until(self, done: Callable[[], bool], timeout_sec: float) -> bool:
        """Go on restarting children until `done`, asked ten times a second; False: time is over, or a second signal."""
        deadline = time.monotonic() + timeout_sec
        while not done():
            if self.is_hurried or time.monotonic() >= deadline:
                return False
            self._turn(LOOK_AGAIN_SEC)
        return True

    def stop(self, child: Child) -> None:
        """SIGTERM, then SIGKILL after a time, a short one when hurried; returns when the process is gone."""
        if child in self._children:
            self._children.remove(child)
        self._forget_pidfd(child)
        if child.process is None or child.process.poll() is not None:
            return
        child.process.terminate()
        begin = time.monotonic()
        while child.process.poll() is None:
            patience_sec = HURRIED_STOP_SEC if self.is_hurried else STOP_TIMEOUT_SEC
            if time.monotonic() - begin >= patience_sec:
                self.on_event(f"the {child.name} did not stop within {patience_sec:.0f} s; killing it")
                child.process.kill()
                child.process.wait()
            time.sleep(0.02)

    def _turn(self, timeout_sec: float | None) -> None:
        """Sleep until something happened or is due, and do it."""
        waits = [wait for wait in (timeout_sec, self._next_restart()) if wait is not None]
        for key, _ in self._selector.select(min(waits, default=None)):
            if key.data is not None:
                self._note_death(key.data)
            else:
                os.read(self._signal_pipe[0], 4096)
        for child in self._children:
            if not child.is_running and child.pidfd == -1 and self._restart_due(child) <= 0:
                self._start_again(child)

    def _start_again(self, child: Child) -> None:
        try:
            self.start(child)
        except OSError as error:  # for want of processes or memory: the other child lives on meanwhile
            child.started_at, child.backoff_sec = time.monotonic(), MAX_BACKOFF_SEC
            why = error.strerror or error
            self.on_event(f"the {child.name} can't be started ({why}); trying again in {MAX_BACKOFF_SEC:g} s")

    def _on_signal(self, _number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
        elif now - self._signalled_at >= SAME_SIGNAL_SEC:
            self.is_hurried = True

    def _note_death(self, child: Child) -> None:
        self._forget_pidfd(child)
        status = child.process.wait() if child.process is not None else 0
        lived = time.monotonic() - child.started_at
        child.backoff_sec = 0.1 if lived > _STABLE_SEC else min(MAX_BACKOFF_SEC, max(0.1, child.backoff_sec * 2))
        self.on_event(f"the {child.name} ended with status {status}; starting it again (log: {child.log})")
        child.started_at = time.monotonic()

    def _restart_due(self, child: Child) -> float:
        return child.started_at + child.backoff_sec - time.monotonic()

    def _next_restart(self) -> float | None:
        waits = [max(0.0, self._restart_due(child)) for child in self._children if not child.is_running]
        return min(waits) if waits else None

    def _forget_pidfd(self, child: Child) -> None:
        if child.pidfd != -1:
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)
            child.pidfd = -1


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Code for the child between fork and exec: ask the kernel for SIGTERM when the supervisor is gone."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
