"""Ground truth below the launcher: machines of the cluster, the allocations on them, and the ranks of Jobs.

What lives here is what really happens; no component sees it except as processes that end or do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from balsam.domain.packing import Placement
from balsam.launcher.machine_messages import LaunchJob
from tests.simulation.kernel import NodeClock, Process
from tests.simulation.service import Line

if TYPE_CHECKING:
    from tests.simulation.launcher import SimLauncher
    from tests.simulation.world import World

EPILOG_SEC = 2.0


class Rank(Process):
    """The process group of one attempt. It runs its time, or is killed; `alive` until nothing of it is left."""

    def __init__(self, room: MachineRoom, launcher: SimLauncher, job: LaunchJob, placement: Placement) -> None:
        super().__init__(room.world.kernel, f"Job {job.id} attempt {job.attempt}")
        self.room, self.launcher, self.job, self.placement = room, launcher, job, placement
        self.leads = True  # the first process, whose end the launcher sees; others of the group may live on
        self.kill_at: float | None = None
        self.doomed = False
        self._random = room.random
        plan = room.world.plan_of(job)
        self.result = plan.return_code
        self.deaf = plan.ignores_term
        self.after(plan.duration_sec, self._leader_ends, self.result)

    def terminate(self, kill_at_delay: float) -> None:
        self.kill_at = self.kernel.now + kill_at_delay
        if not self.deaf:
            self.after(self._random.uniform(0.01, 2.0), self._leader_ends, 143)
        if not self.leads:
            self.after(kill_at_delay, self.kill)

    def kill(self) -> None:
        """SIGKILL to all of it; it takes effect when the kernel comes round to it."""
        self.doomed = True
        delay = self._random.uniform(0.001, 0.3) if self._random.random() < 0.9 else self._random.uniform(0.3, 8.0)
        self.kernel.after(delay, self._killed)

    def _killed(self) -> None:
        if self.alive:
            if self.leads:
                self._leader_ends(137, lingers=False)
            self.end()

    def _leader_ends(self, code: int, lingers: bool = True) -> None:
        if not self.leads:
            return
        self.leads = False
        self.launcher.child_exited(self, code)
        if not lingers:
            return
        if self._random.random() < 0.85:
            self.end()
        elif self.kill_at is None:
            self.kill()  # the launcher sweeps what a Job left behind
        else:
            self.after(self.kill_at - self.kernel.now, self.kill)

    def end(self) -> None:
        if self.alive:
            self.die()
            self.room.ranks.discard(self)
            self.launcher.child_gone(self)


class MachineRoom:
    """The machines of one allocation: they share a clock, lose power together and stop together."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.random = world.kernel.random(f"machine {name}")
        offset, drift = self.random.uniform(-86400, 86400), self.random.uniform(-0.01, 0.01)
        self.clock = NodeClock(world.kernel, offset, drift, boot=self.random.uniform(0, 1e6))
        self.line = Line()
        self.ranks: set[Rank] = set()
        self.processes: list[Process] = []
        self.stopped = self.lost_power = False
        self.thawed_at = -1e9

    def start_rank(self, launcher: SimLauncher, job: LaunchJob, placement: Placement) -> Rank:
        rank = Rank(self, launcher, job, placement)
        self.ranks.add(rank)
        self.world.checkers.rank_started(rank)
        return rank

    def add(self, process: Process) -> None:
        self.processes = [known for known in self.processes if known.alive]
        self.processes.append(process)

    def stop(self) -> None:
        """The whole machine freezes."""
        if not self.stopped:
            self.stopped = True
            for process in [*self.processes, *self.ranks]:
                process.stop()

    def cont(self) -> None:
        if self.stopped:
            self.stopped = False
            self.thawed_at = self.world.kernel.now
            for process in [*self.processes, *self.ranks]:
                process.cont()

    def kill_all_ranks(self) -> None:
        for rank in sorted(self.ranks, key=lambda rank: rank.name):
            rank.kill()

    def power_off(self) -> None:
        """Everything is gone at once, and with it what was not synced."""
        self.cont()
        self.lost_power = True
        for process in self.processes:
            process.die()
        for rank in list(self.ranks):
            rank.leads = False
            rank.die()
        self.ranks.clear()
        self.world.disk.power_loss(self.name)
        self.world.say(f"{self.name} lost power")
