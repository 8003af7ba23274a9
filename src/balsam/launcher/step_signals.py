"""Signals to ranks that a program of its own reaches: those of srun's steps by Slurm, those of Open MPI by their marks.

Used by `children.py`. Many at a time, one program at a time; what was asked for while it ran goes with the next one.
Ranks that are not known (the program prints them) are told by `on_unknown`: they have ended, or are not there yet.
"""

import logging
import select
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import Signals

from balsam.domain.clock import Clock
from balsam.launcher.process import CommandError, SpawnError
from balsam.launcher.side_program import SideProgram

log = logging.getLogger("balsam.launcher")

# The program gives up its two questions before this.
TIMEOUT_SEC = 45.0
# So many names fit on a command line many times over.
MOST_AT_ONCE = 1000


class StepSignals:
    """`program` is called with the name of a signal and names of steps; `output` is a file for what it says."""

    def __init__(
        self, epoll: select.epoll, program: tuple[str, ...], environ: Mapping[str, str], output: Path, clock: Clock
    ) -> None:
        self._program = program
        self._sender = SideProgram(epoll, environ, output, TIMEOUT_SEC)
        self._clock = clock
        self._waiting: dict[tuple[str, Signals], Callable[[], None]] = {}
        self._sent: dict[str, Callable[[], None]] = {}

    def send(self, step: str, number: Signals, on_unknown: Callable[[], None]) -> None:
        """Have a signal sent; `on_unknown` is called when nobody knows the ranks."""
        self._waiting[step, number] = on_unknown

    def due(self) -> float | None:
        """When to call `tick`."""
        give_up_at = self._sender.give_up_at
        if give_up_at is not None:
            return give_up_at
        return self._clock.monotonic() if self._waiting else None

    def tick(self, now: float) -> None:
        """Send what waits; give up a program that does not end."""
        give_up_at = self._sender.give_up_at
        if give_up_at is not None:
            if now >= give_up_at:
                self._sender.kill()
            return
        if not self._waiting:
            return
        number = next(iter(self._waiting))[1]
        chosen = [key for key in self._waiting if key[1] is number][:MOST_AT_ONCE]
        self._sent = {key[0]: self._waiting.pop(key) for key in chosen}
        try:
            self._sender.start((*self._program, number.name, *self._sent), now)
        except (CommandError, SpawnError, OSError) as error:
            # Those that are to end are killed when their grace is over.
            log.warning("%s can't be sent to %d steps: %s", number.name, len(self._sent), error)

    def heard(self, fd: int) -> bool:
        """Whether `fd` is the program's, which ended."""
        if not self._sender.is_heard_on(fd):
            return False
        status = self._sender.collect()
        if status is None:
            return True
        said = self._sender.said()
        if status.code:
            log.warning("a signal did not reach %d steps (%s): %s", len(self._sent), status.describe(), " ".join(said))
            return True
        for step in said:
            if step in self._sent:
                self._sent[step]()
        return True

    def close(self) -> None:
        """Nothing is to be signalled any more."""
        self._sender.kill()
