"""Jobs that hold a placement: being started, running, being killed, or ended and not seen gone. Part of the machine.

Slots are taken and given back here and nowhere else, through one NodePool (S9). Signals go out through `say`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from balsam.domain.packing import Node, NodePool, Placement
from balsam.launcher.machine_messages import Exited, LaunchJob, Output, RuleMet, Signal, Start

KILL_AGAIN_SEC = 5.0


class Killing(IntEnum):
    """Why a run is being killed; the higher one decides what is reported."""

    DRAIN = 1
    MONITOR = 2
    LOST_NODE = 3
    CANCEL = 4
    FENCED = 5
    LEASE = 6


# No time is given: nobody waits for what these would still write.
_AT_ONCE = frozenset({Killing.LOST_NODE, Killing.LEASE})


@dataclass(slots=True)
class Run:
    """One attempt of a Job. `preparing`: methods of its App run, the Job itself does not yet.

    `checkpoint_asked`: it was sent the signal for a checkpoint. `rule`: what kills it.
    """

    job: LaunchJob
    placement: Placement
    preparing: bool = False
    started: bool = False
    exited: Exited | None = None
    killing: Killing | None = None
    checkpoint_asked: bool = False
    why: str = ""
    rule: RuleMet | None = None
    kill_at: float = math.inf


class Runs:
    """The runs by Job id. Times are monotonic seconds."""

    def __init__(
        self, nodes: tuple[Node, ...], kill_grace_sec: float, drain_grace_sec: float, say: Callable[[Output], None]
    ) -> None:
        self.pool = NodePool.of(list(nodes))
        # Not ours any more, or set aside: out of use for good.
        self._withdrawn: set[int] = set()
        self._silent: set[int] = set()
        self._kill_grace_sec = kill_grace_sec
        self._drain_grace_sec = drain_grace_sec
        self._say = say
        self._runs: dict[int, Run] = {}
        self._dying: set[int] = set()

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._runs))

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._runs

    def get(self, job_id: int) -> Run | None:
        """The run of this Job."""
        return self._runs.get(job_id)

    @property
    def free_cores(self) -> int:
        """Cores of nodes in use that nobody was given."""
        return self.pool.free_cores

    def set_usable(self, node: int, usable: bool) -> None:
        """Take a node out of use, or back in unless it is out for good. What runs there keeps its share."""
        if usable:
            self._silent.discard(node)
        if node not in self._withdrawn:
            self.pool.set_usable(node, usable)

    def place(self, job: LaunchJob) -> bool:
        """Take a placement and have the Job started; False when it does not fit now."""
        placement = self.pool.place(job.resources)
        if placement is None:
            return False
        self._runs[job.id] = Run(job, placement)
        self._say(Start(job, placement))
        return True

    def set_aside(self, node: int) -> bool:
        """Start nothing more on a node, whatever comes up there; what runs there goes on. False: it is the last one."""
        if not self.pool.is_usable(node) or self.pool.usable_nodes == 1:
            return False
        self._withdraw(node)
        return True

    def silence(self, node: int) -> list[int]:
        """A node that does not answer is out of use; returns the Jobs on it whose first process has ended."""
        self.set_usable(node, False)
        self._silent.add(node)
        return [job_id for job_id in self._on(node) if self._runs[job_id].exited is not None]

    def lose(self, node: int) -> list[int]:
        """A node is out of use for good; returns the Jobs that have a share on it, unless it was down already."""
        was_down = not (self.pool.is_usable(node) or node in self._silent or node in self._withdrawn)
        self._silent.discard(node)
        self._withdraw(node)
        return [] if was_down else self._on(node)

    def _withdraw(self, node: int) -> None:
        self._withdrawn.add(node)
        self.pool.set_usable(node, False)

    def _on(self, node: int) -> list[int]:
        return [job_id for job_id, run in self._runs.items() if any(s.node == node for s in run.placement.shares)]

    def free(self, run: Run) -> None:
        """Give the placement back: nothing of the run lives (S9)."""
        del self._runs[run.job.id]
        self._dying.discard(run.job.id)
        self.pool.release(run.placement)

    def kill(self, now: float, job_id: int, killing: Killing, why: str) -> None:
        """Have a run ended: SIGTERM, SIGKILL after the grace, again until it is gone. `_AT_ONCE`: no grace."""
        run = self._runs.get(job_id)
        if run is None or (run.killing is not None and run.killing >= killing):
            return
        told_before = run.killing is not None
        run.killing, run.why = killing, why
        if (run.started or run.preparing) and (not told_before or killing in _AT_ONCE):
            self.signal(now, run)

    def signal(self, now: float, run: Run) -> None:
        """Send the first signal to a started run that is to be killed."""
        at_once = run.killing in _AT_ONCE
        grace = self._drain_grace_sec if run.killing is Killing.DRAIN else self._kill_grace_sec
        kill_at = now if at_once else now + grace
        self._dying.add(run.job.id)
        self._say(Signal(run.job.id, at_once, kill_at))
        run.kill_at = now + KILL_AGAIN_SEC if at_once else kill_at

    def kill_overdue(self, now: float) -> None:
        """SIGKILL those whose grace is over."""
        for job_id in self._dying:
            run = self._runs[job_id]
            if now >= run.kill_at:
                self._say(Signal(job_id, True, now))
                run.kill_at = now + KILL_AGAIN_SEC

    def next_kills(self) -> list[float]:
        """When `kill_overdue` has something to do."""
        return [self._runs[job_id].kill_at for job_id in self._dying]
