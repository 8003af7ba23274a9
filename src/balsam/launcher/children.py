"""The Jobs' processes as the loop sees them: started, signalled, reaped, and gone only when nothing of them lives (S9).

Used by the loop alone. Turns the machine's Start and Signal into system calls and what the kernel says into the
machine's inputs.
"""

import select
import signal
from dataclasses import dataclass

from balsam.domain.clock import Clock
from balsam.launcher.machine_messages import Exited, Gone, Input, Signal, Start, StartDelayed, Started, StartFailed
from balsam.launcher.memory_kills import MemoryKills
from balsam.launcher.process import (
    EXIT_SIGNAL_BASE,
    Child,
    ExitStatus,
    SpawnError,
    close_child,
    group_exists,
    kill,
    reap,
    terminate,
)
from balsam.launcher.starter import NotStarted, Starter
from balsam.launcher.sweep import Run, Sweeper
from balsam.launcher.workdir import DataRoot


@dataclass(slots=True)
class _Live:
    """A started Job. `child` is None once its first process was reaped; `kill_at` is set once it is to end."""

    run: Run
    child: Child | None
    spreads: bool
    workdir: str
    kill_at: float | None = None


class Children:
    """The Jobs that were started and are not seen gone. What happens to them is appended to `inputs`."""

    def __init__(
        self,
        epoll: select.epoll,
        starter: Starter,
        data: DataRoot,
        sweeper: Sweeper,
        clock: Clock,
        error_tail_lines: int,
        inputs: list[Input],
        memory_kills: MemoryKills | None = None,
    ) -> None:
        self._epoll = epoll
        self._starter = starter
        self._data = data
        self._sweeper = sweeper
        self._clock = clock
        self._error_tail_lines = error_tail_lines
        self._inputs = inputs
        self._memory_kills = memory_kills or MemoryKills()
        self._live: dict[int, _Live] = {}
        self._job_of_pidfd: dict[int, int] = {}

    def start(self, order: Start) -> None:
        """Start a Job."""
        job = order.job
        try:
            started = self._starter.start(job, order.placement)
        except NotStarted as error:
            self._inputs.append(StartFailed(job.id, error.return_code, str(error)))
            return
        except SpawnError as error:
            self._inputs.append(StartDelayed(job.id, str(error)))
            return
        child = started.child
        run = Run(str(job.id), str(job.attempt), (child.group,))
        self._live[job.id] = _Live(run, child, started.spreads, job.workdir)
        self._job_of_pidfd[child.pidfd] = job.id
        self._epoll.register(child.pidfd, select.EPOLLIN)
        self._inputs.append(Started(job.id))

    def signal(self, order: Signal) -> None:
        """Ask a Job to end, or kill it."""
        live = self._live.get(order.job_id)
        if live is None:
            return
        live.kill_at = order.kill_at
        if live.child is None:
            self._sweeper.hold(live.run, order.kill_at)
        elif order.kill:
            kill(live.child.group)
        else:
            terminate(live.child.group)

    def heard(self, fd: int) -> bool:
        """Whether `fd` is a child's, which ended."""
        job_id = self._job_of_pidfd.get(fd)
        if job_id is None:
            return False
        live = self._live[job_id]
        if live.child is not None:
            self._ended(job_id, live, live.child)
        return True

    def due(self) -> float | None:
        """When to call `sweep`."""
        return self._sweeper.due()

    def sweep(self, now: float) -> None:
        """Look for what ended Jobs left behind."""
        due = self._sweeper.due()
        if due is not None and now >= due:
            for run in self._sweeper.sweep(now):
                self._gone(int(run.job_id))
            self._sweeper.took(self._clock.monotonic() - now)

    def _ended(self, job_id: int, live: _Live, child: Child) -> None:
        status = reap(child)
        if status is None:
            return
        self._epoll.unregister(child.pidfd)
        del self._job_of_pidfd[child.pidfd]
        close_child(child)
        live.child = None
        message = signal_name = ""
        if status.signal is not None:
            signal_name = status.describe().removeprefix("killed by ")
        if status.code and live.kill_at is None:
            tail = self._data.tail(live.workdir, self._error_tail_lines)
            message = f"{status.describe()}\n{tail}".rstrip("\n")
        out_of_memory = live.kill_at is None and _was_killed(status, live.spreads) and self._memory_kills.claim()
        self._inputs.append(Exited(job_id, status.code, signal_name, message, out_of_memory=out_of_memory))
        now = self._clock.monotonic()
        # An mpirun that failed says nothing of its ranks; one that ended well collected them.
        if live.kill_at is not None or (live.spreads and status.code) or group_exists(child.group):
            self._sweeper.hold(live.run, now if live.kill_at is None else live.kill_at)
        else:
            self._sweeper.retire(live.run, now)
            self._gone(job_id)

    def _gone(self, job_id: int) -> None:
        del self._live[job_id]
        self._inputs.append(Gone(job_id))


def _was_killed(status: ExitStatus, spreads: bool) -> bool:
    """By SIGKILL, itself or what a shell or an mpirun ran for it; some mpirun give the bare number of the signal."""
    killed = {EXIT_SIGNAL_BASE + signal.SIGKILL} | ({int(signal.SIGKILL)} if spreads else set())
    return status.signal == signal.SIGKILL or status.code in killed
