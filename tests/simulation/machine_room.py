"""Ground truth below the launcher: machines of the cluster, the allocations on them, and the ranks of Jobs.

What lives here is what really happens; no component sees it except as processes that end or do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from balsam.domain.packing import Placement
from balsam.launcher.machine_messages import LaunchJob
from tests.simulation.kernel import NodeClock, Process
from tests.simulation.service import Line

if TYPE_CHECKING:
    from tests.simulation.nodes import SimNode, Wire
    from tests.simulation.world import World

EPILOG_SEC = 2.0
# So long the batch system takes to notice that a node is gone.
NOTICED_SEC = (1.0, 60.0)
# So often ranks on other nodes, or an mpirun, find it out by themselves.
NOTICED_BY_RANKS = 0.5


class Parent(Protocol):
    """The process that started a Job's."""

    def child_exited(self, rank: Rank, code: int) -> None: ...

    def child_gone(self, rank: Rank) -> None: ...


class Rank(Process):
    """The process group of one attempt, on all its nodes. It runs its time, or is killed; `alive` until nothing of it
    is left. `is_crippled`: some of its nodes are gone, so that it has no result, whatever its first process says.
    """

    def __init__(self, room: MachineRoom, parent: Parent, job: LaunchJob, placement: Placement) -> None:
        super().__init__(room.world.kernel, f"Job {job.id} attempt {job.attempt}")
        self.room, self.parent, self.job, self.placement = room, parent, job, placement
        self.nodes = frozenset(share.node for share in placement.shares)
        self.is_crippled = False
        self.leads = True  # the first process, whose end the launcher sees; others of the group may live on
        self.kill_at: float | None = None
        self.doomed = False
        self._random = room.random
        plan = room.world.plan_of(job)
        self.result = plan.return_code
        self.deaf = plan.ignores_term
        self.after(plan.duration_sec, self._has_run)

    def _has_run(self) -> None:
        if not self.is_crippled:  # the others wait for those that are gone
            self._leader_ends(self.result)

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
        if self.leads:
            self._leader_ends(137, lingers=False)
        self.end()

    def cripple(self) -> None:
        self.is_crippled = True
        self.room.world.checkers.crippled(self)

    def lose(self) -> None:
        """What ran on one of its nodes is gone. The first process, an mpirun on the head node, has not noticed yet."""
        if self.leads:
            self.cripple()
        if self.nodes <= self.room.dead:
            self.die()
            self.room.ranks.discard(self)

    def mpirun_notices(self) -> None:
        """Its exit code depends on the others: 0 when they ended well, or there were none (clusters: fact 8)."""
        if not self.leads:
            return
        code = self._random.choice((0, 0, 1))
        if code == 0:
            self.room.complaints.add(self.job.workdir)
        if self.alive:
            self._leader_ends(code)
        else:
            self._leader_ends(code, lingers=False)
            self.end()

    def _leader_ends(self, code: int, lingers: bool = True) -> None:
        if not self.leads:
            return
        self.leads = False
        self.parent.child_exited(self, code)
        if not lingers:
            return
        if self._random.random() < 0.85:
            self.end()
        elif self.kill_at is None:
            self.kill()  # the launcher sweeps what a Job left behind
        else:
            self.after(self.kill_at - self.kernel.now, self.kill)

    def end(self) -> None:
        if self not in self.room.unheard:
            return
        self.room.unheard.discard(self)
        self.die()
        self.room.ranks.discard(self)
        self.parent.child_gone(self)


class MachineRoom:
    """The machines of one allocation: they share a clock, and stop and lose power together, unless one is lost alone.

    `is_spread`: each node has a process that starts Jobs there. `dead` nodes are gone for good, `severed` ones can't be
    reached from the first; `gone`: those that the batch system does not count to the allocation any more.
    """

    def __init__(self, world: World, name: str, names: Sequence[str] = ("n0",), is_spread: bool = False) -> None:
        self.world = world
        self.name = name
        self.names, self.is_spread = tuple(names), is_spread
        self.dead: set[int] = set()
        self.severed: set[int] = set()
        self.gone: set[int] = set()
        self.headless_since: float | None = None
        self.unanswered_at = -1e9  # when the batch system last failed to say which nodes are left
        self.on_lost: Callable[[], None] = lambda: None  # no node is left
        self.complaints: set[str] = set()
        self.wires: list[Wire] = []
        self.node_processes: list[SimNode] = []
        self.random = world.kernel.random(f"machine {name}")
        offset, drift = self.random.uniform(-86400, 86400), self.random.uniform(-0.01, 0.01)
        self.clock = NodeClock(world.kernel, offset, drift, boot=self.random.uniform(0, 1e6))
        self.line = Line()
        self.ranks: set[Rank] = set()  # that live
        self.unheard: set[Rank] = set()  # whose end was not said
        self.processes: list[Process] = []
        self.stopped = self.lost_power = False
        self.thawed_at = -1e9

    def start_rank(self, parent: Parent, job: LaunchJob, placement: Placement) -> Rank:
        rank = Rank(self, parent, job, placement)
        self.unheard.add(rank)
        self.world.checkers.rank_started(rank)
        if rank.nodes & self.dead:  # no rank is started when one node can't be reached
            rank.cripple()
            rank.die()
            if rank.nodes & self.gone or self.random.random() < NOTICED_BY_RANKS:
                self.world.kernel.after(self.random.uniform(0.1, 2.0), rank.mpirun_notices)
        else:
            self.ranks.add(rank)
        return rank

    # Single nodes

    @property
    def nodes_left(self) -> tuple[str, ...]:
        """What the batch system counts to the allocation."""
        return tuple(name for index, name in enumerate(self.names) if index not in self.gone)

    def is_cut(self, index: int) -> bool:
        """Whether nothing comes through between this node and the first."""
        return bool(self.dead & {0, index}) or index in self.severed

    def ranks_on(self, index: int) -> list[Rank]:
        return sorted((rank for rank in self.ranks if index in rank.nodes), key=lambda rank: rank.name)

    @property
    def ranks_here(self) -> list[Rank]:
        """Those that the first node's guardian sees: an mpirun takes its ranks with it, wherever they are."""
        return self.ranks_on(0) if self.is_spread else sorted(self.ranks, key=lambda rank: rank.name)

    def crash_node(self, index: int) -> None:
        """One node is gone at once, with what ran there; the batch system notices later."""
        self.dead.add(index)
        for process in self.node_processes:
            if process.index == index:
                process.die()
        for rank in self.ranks_on(index):
            rank.lose()
            if not self.is_spread and self.random.random() < NOTICED_BY_RANKS:
                self.world.kernel.after(self.random.uniform(0.01, 20.0), rank.mpirun_notices)
        for wire in self.wires:
            if index in (0, wire.node.index):
                wire.cut()
        self.world.kernel.after(self.random.uniform(*NOTICED_SEC), self._notice, index)

    def _notice(self, index: int) -> None:
        self.gone.add(index)
        if not self.nodes_left:
            self.on_lost()
        elif index == 0:
            self.headless_since = self.world.kernel.now
        if not self.is_spread:
            for rank in sorted(self.unheard, key=lambda rank: rank.name):
                if index in rank.nodes:
                    rank.mpirun_notices()

    def crash_head(self) -> None:
        """The first node, with launcher and guardian; of what they wrote, what was not synced."""
        self.crash_node(0)
        for process in self.processes:
            if process not in self.node_processes:
                process.die()
        self.world.disk.power_loss(self.name)

    def sever_node(self, index: int, seconds: float) -> None:
        """The first node and this one don't reach each other; what runs there lives on."""
        if self.is_cut(index):
            return
        self.severed.add(index)
        for wire in self.wires:
            if wire.node.index == index:
                wire.cut()
        self.world.kernel.after(seconds, self.mend_node, index)

    def mend_node(self, index: int) -> None:
        if index in self.severed:
            self.severed.discard(index)
            for wire in self.wires:
                if wire.node.index == index:
                    wire.heal()

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
        for rank in self.ranks_here:
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
        self.unheard.clear()
        self.world.disk.power_loss(self.name)
        self.world.say(f"{self.name} lost power")
