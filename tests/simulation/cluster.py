"""The batch system in the simulation: it queues, starts, ends and forgets allocations, and sometimes misbehaves.

It takes every submission it is given, also a second one under the same name: that there is none is the agent's promise
(S11), and the cluster counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from balsam.launcher.config import LauncherConfig
from balsam.launcher.partition import Partition, PartitionNode
from balsam.platform.scheduler.base import (
    QueueLimits,
    SchedulerJob,
    SchedulerState,
    SchedulerUnavailable,
    SubmitInDoubt,
    SubmitRequest,
)
from tests.simulation.disk import SimPath
from tests.simulation.guardian import SimGuardian
from tests.simulation.machine_room import EPILOG_SEC, MachineRoom

if TYPE_CHECKING:
    from tests.simulation.world import World

KILL_WAIT_SEC = 60.0
LISTED_AFTER_END_SEC = 300.0


@dataclass
class Allocation:
    """One submission, as it truly is."""

    id: str
    name: str
    directory: str
    request: SubmitRequest
    state: SchedulerState = SchedulerState.QUEUED
    room: MachineRoom | None = None
    guardian: SimGuardian | None = None
    ended_at: float = 0.0
    failed: bool = False
    stopping: bool = False
    over_soon: bool = field(default=False)

    @property
    def batch_job_id(self) -> int:
        """As the agent names allocations: balsam-SITE-NUMBER-TIME."""
        return int(self.name.split("-")[2])


class Cluster:
    """A Scheduler for the agent, as the adapters over command lines are: a submission that is cut off, or whose agent
    dies, may still be taken for a while.
    """

    doubt_sec = 75.0
    slowest_sec = 60.0

    def __init__(self, world: World) -> None:
        self.world = world
        self.kernel = world.kernel
        self.random = world.kernel.random("cluster")
        self.allocations: dict[str, Allocation] = {}
        self.away = False
        self.hides_until = 0.0
        self._on_change: Callable[[str], None] | None = None

    # The Scheduler protocol

    def submit(self, script_path: object, name: str, request: SubmitRequest) -> str:
        known = self.find(name)
        if known is not None:
            return known
        luck = self.random.random()
        order = (name, str(SimPath(script_path).parent), request)
        try:
            self.world.crash_point("before-start")
        except BaseException:
            if luck < 0.5:  # the command outlives its agent
                self.kernel.after(self.random.uniform(0.0, self.slowest_sec), self._take, *order)
            raise
        if luck < self.world.rates.scheduler:
            if luck < 0.5 * self.world.rates.scheduler:
                self.kernel.after(self.random.uniform(0.0, self.slowest_sec), self._take, *order)
            raise SubmitInDoubt("socket timed out on send/recv operation")
        number = self._take(*order)
        if luck < 3 * self.world.rates.scheduler:
            raise SubmitInDoubt("submitted, and then exit 1")
        self.world.crash_point("after-start")
        return number

    def _take(self, name: str, directory: str, request: SubmitRequest) -> str:
        allocation = Allocation(str(100 + len(self.allocations)), name, directory, request)
        self.allocations[allocation.id] = allocation
        self.world.say(f"cluster takes {name} as {allocation.id}")
        self.kernel.after(self.random.uniform(1.0, 40.0), self._start, allocation)
        return allocation.id

    def find(self, name: str) -> str | None:
        self._answer()
        return next((one.id for one in self.allocations.values() if one.name == name), None)

    def jobs(self) -> dict[str, SchedulerJob]:
        self._answer()
        if self.kernel.now < self.hides_until:
            return {}
        return {one.id: _seen(one) for one in self.allocations.values() if not self._forgotten(one)}

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        self._answer()
        if self.kernel.now < self.hides_until:
            return {}
        known = [self.allocations[one] for one in scheduler_ids if one in self.allocations]
        return {one.id: _seen(one) for one in known if not self._forgotten(one, 3.0)}

    def cancel(self, scheduler_id: str) -> None:
        self._answer()
        allocation = self.allocations.get(scheduler_id)
        if allocation is None or allocation.stopping:
            return
        allocation.stopping = True
        if allocation.state is SchedulerState.QUEUED:
            self._over(allocation)
        elif allocation.guardian is not None:
            allocation.guardian.told_to_stop()
            self.kernel.after(KILL_WAIT_SEC, self._end, allocation)

    def queues(self) -> dict[str, QueueLimits]:
        self._answer()
        return {"local": QueueLimits(max_nodes=4)}

    def watch(self, on_change: Callable[[str], None]) -> bool:
        self._on_change = on_change
        return True

    def close(self) -> None:
        self._on_change = None

    def _answer(self) -> None:
        if self.away or self.random.random() < self.world.rates.scheduler:
            raise SchedulerUnavailable("no answer")

    def _forgotten(self, one: Allocation, patience: float = 1.0) -> bool:
        return one.state.is_over and self.kernel.now > one.ended_at + patience * LISTED_AFTER_END_SEC

    # What happens

    @property
    def running(self) -> list[Allocation]:
        return [one for one in self.allocations.values() if one.state is SchedulerState.RUNNING]

    def _start(self, allocation: Allocation) -> None:
        if allocation.state is not SchedulerState.QUEUED:
            return
        allocation.state = SchedulerState.RUNNING
        config = LauncherConfig.from_json(SimPath(f"{allocation.directory}/launcher.json").read_text())
        request = allocation.request
        names = [f"n{index}" for index in range(request.num_nodes)]
        nodes = tuple(PartitionNode(name, (0, 1, 2, 3), is_here=name == "n0") for name in names)
        serial = self.random.random() < 0.4
        partition = Partition(config, 0, serial, nodes, request.wall_time_min * 60.0, {})
        room_name = f"{allocation.name}/{allocation.id}"
        allocation.room = MachineRoom(self.world, room_name, names, partition.is_spread)
        allocation.room.on_lost = lambda: self._lost(allocation)
        allocation.guardian = SimGuardian(
            self.world, allocation.room, partition, lambda: self.kernel.after(1.0, self._end, allocation)
        )
        self.world.say(f"cluster starts {allocation.name} on {request.num_nodes} nodes, {request.wall_time_min} min")
        self.kernel.after(request.wall_time_min * 60.0 * 1.02, self._wall_time, allocation)

    def _wall_time(self, allocation: Allocation) -> None:
        if allocation.state is SchedulerState.RUNNING and allocation.guardian is not None:
            allocation.guardian.told_to_stop()
            self.kernel.after(KILL_WAIT_SEC, self._end, allocation)

    def _end(self, allocation: Allocation) -> None:
        """The batch script ended with its guardian, or its time is up; the epilog kills whatever it left."""
        if allocation.state is not SchedulerState.RUNNING or allocation.over_soon:
            return
        allocation.over_soon = True
        self.kernel.after(self.random.uniform(0.1, EPILOG_SEC), self._epilog, allocation)

    def _epilog(self, allocation: Allocation) -> None:
        room = allocation.room
        assert room is not None
        if room.stopped:  # nothing can be said of a machine that does not answer
            self.kernel.after(5.0, self._epilog, allocation)
            return
        for process in room.processes:
            process.die()
        for rank in list(room.ranks):
            rank.die()
        room.ranks.clear()
        room.unheard.clear()
        self._over(allocation)

    def _over(self, allocation: Allocation) -> None:
        allocation.state = SchedulerState.FAILED if allocation.failed else SchedulerState.FINISHED
        allocation.ended_at = self.kernel.now
        self.world.say(f"cluster ends {allocation.name}")
        if self._on_change is not None:
            self._on_change(allocation.id)

    def power_off(self, allocation: Allocation) -> None:
        """Its machines lose power; the scheduler notices some time later."""
        assert allocation.room is not None
        self.kernel.after(self.random.uniform(1.0, 60.0), self._lost, allocation)
        allocation.room.power_off()

    def _lost(self, allocation: Allocation) -> None:
        """The scheduler notices that no node is left."""
        if allocation.state is SchedulerState.RUNNING:
            allocation.failed = True
            self._end(allocation)


def _seen(one: Allocation) -> SchedulerJob:
    why = "node failure" if one.failed else ""
    if one.room is None or one.state.is_over:
        return SchedulerJob(one.id, one.name, one.state, why)
    return SchedulerJob(one.id, one.name, one.state, why, node_names=one.room.nodes_left, script_node="n0")


def launcher_json(site_id: int, batch_job_id: int, directory: object, lease_kind: str, nodes: int) -> str:
    """What the agent writes for the launcher."""
    settings = {
        "site_id": site_id,
        "site_path": "/site",
        "data_path": "/site/data",
        "directory": str(directory),
        "credentials_path": f"{directory}/credentials.json",
        "batch_job_id": batch_job_id,
        "lease_kind": lease_kind,
        "num_nodes": nodes,
        "compute_node": "slurm",
    }
    return json.dumps(settings)
