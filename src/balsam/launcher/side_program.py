"""A program that the loop runs beside its Jobs, one at a time: it asks the batch system something, or tells it.

Used by `node_watch.py` and `step_signals.py`. Nobody waits for it: its end is heard by epoll, and what it said is then
in a file. One that takes too long is killed by its user at `give_up_at`, and its end is heard as well.
"""

import select
from collections.abc import Mapping, Sequence
from pathlib import Path

from balsam.launcher.process import Child, Command, ExitStatus, close_child, kill, reap, spawn


class SideProgram:
    """`output` is a file for what it says, in the directory in which it runs."""

    def __init__(self, epoll: select.epoll, environ: Mapping[str, str], output: Path, timeout_sec: float) -> None:
        self._epoll = epoll
        self._environ = environ
        self._output = output
        self._timeout_sec = timeout_sec
        self._child: Child | None = None
        self._give_up_at = 0.0

    @property
    def give_up_at(self) -> float | None:
        """When it has taken too long, or too long again after it was killed; None while it does not run."""
        return None if self._child is None else self._give_up_at

    def start(self, words: Sequence[str], now: float) -> None:
        """Run it. Raises CommandError, SpawnError, or OSError when what it said last can't be removed."""
        self._output.unlink(missing_ok=True)
        self._child = spawn(Command(tuple(words), self._environ, str(self._output.parent), str(self._output)))
        self._give_up_at = now + self._timeout_sec
        self._epoll.register(self._child.pidfd, select.EPOLLIN)

    def kill(self) -> None:
        """End it, if it runs."""
        if self._child is not None:
            kill(self._child.group)
            self._give_up_at += self._timeout_sec  # a file system that hangs holds it in spite of that

    def is_heard_on(self, fd: int) -> bool:
        """Whether `fd` is the running program's."""
        return self._child is not None and fd == self._child.pidfd

    def collect(self) -> ExitStatus | None:
        """How it ended; None while it runs. To be called when it is heard."""
        if self._child is None or (status := reap(self._child)) is None:
            return None
        self._epoll.unregister(self._child.pidfd)
        close_child(self._child)
        self._child = None
        return status

    def said(self) -> list[str]:
        """The words of its output."""
        try:
            return self._output.read_text(encoding="utf-8", errors="replace").split()
        except OSError:
            return []
