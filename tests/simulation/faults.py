"""What goes wrong in a world: rates for every message, and a list of single faults, both drawn from the seed.

A fault is a plain value, so that a failing world can be run again with fewer of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from balsam.domain.lease import LeaseKind

if TYPE_CHECKING:
    from tests.simulation.world import World

DAY_SEC = 86400.0


class AgentDies(BaseException):
    """kill -9 of the agent at this very place of the shipping code."""


@dataclass(frozen=True)
class Rates:
    """Chances for each message or question."""

    lose_request: float = 0.0
    lose_reply: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0
    longest_delay_sec: float = 1.0
    scheduler: float = 0.0


@dataclass(frozen=True)
class Fault:
    """At `at` something of `kind` happens for `seconds`; `which` (0 to 1) chooses among the candidates."""

    at: float
    kind: str
    seconds: float
    which: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.at:.1f} s for {self.seconds:.1f} s (which {self.which:.3f})"


@dataclass(frozen=True)
class Profile:
    """Everything a world's seed decides about its faults."""

    lease_kind: LeaseKind
    fault_sec: float
    long: bool  # long Jobs and long faults: where leases matter
    rates: Rates
    faults: list[Fault] = field(default_factory=list)
    hooks: bool = False  # some Apps have them

    def without(self, index: int) -> Profile:
        return replace(self, faults=[*self.faults[:index], *self.faults[index + 1 :]])


# kind -> (weight, shortest, longest duration in seconds)
KINDS: dict[str, tuple[float, float, float]] = {
    "kill launcher": (3, 0, 0),
    "stop launcher": (3, 5, 600),
    "kill courier": (2, 0, 0),
    "kill guardian": (1, 0, 0),
    "freeze machine": (2, 5, 600),
    "power off": (1, 0, 0),
    "crash node": (2, 0, 0),
    "cut node": (2, 5, 300),
    "crash head": (1, 0, 0),
    "kill service": (3, 0.1, 300),
    "kill agent": (2, 0.5, 120),
    "agent crash point": (3, 0.5, 60),
    "cut machine": (2, 5, 500),
    "cut agent": (1, 5, 300),
    "disk full": (1.5, 1, 90),
    "scheduler away": (1, 5, 120),
    "listing empty": (1, 5, 60),
    "service clock": (1, -DAY_SEC, DAY_SEC),
    "machine clock": (1, -DAY_SEC, DAY_SEC),
    "user cancels": (4, 0, 0),
    "user retries": (3, 0, 0),
    "user deletes": (2, 0, 0),
    "user drains": (1.5, 0, 0),
}


def draw(random: Random) -> Profile:
    """The profile of a world. A swarm: each world leaves some kinds out and has others more often."""
    rates = Rates(
        lose_request=random.choice((0.0, 0.01, 0.05, 0.15)),
        lose_reply=random.choice((0.0, 0.01, 0.05, 0.15)),
        duplicate=random.choice((0.0, 0.0, 0.05, 0.3)),
        slow=random.choice((0.0, 0.05, 0.3)),
        longest_delay_sec=random.choice((0.5, 5.0, 20.0)),
        scheduler=random.choice((0.0, 0.0, 0.02, 0.1)),
    )
    kinds = [kind for kind in KINDS if random.random() < 0.6] or ["kill launcher"]
    weights = [KINDS[kind][0] for kind in kinds]
    fault_sec = random.choice((200.0, 400.0, 800.0))
    long = random.random() < 0.4
    faults = []
    for kind in random.choices(kinds, weights, k=random.randint(0, 12)):
        _, shortest, longest = KINDS[kind]
        part = random.random()
        seconds = shortest + (longest - shortest) * (part if shortest < 0 else part**0.5 if long else part**3)
        faults.append(Fault(random.uniform(5.0, fault_sec), kind, seconds, random.random()))
    # Only so many lies in a row are told as the agent can know to be lies (S12).
    lies = [fault for fault in faults if fault.kind == "listing empty"]
    faults = sorted((fault for fault in faults if fault not in lies[1:]), key=lambda fault: fault.at)
    kind = random.choice((LeaseKind.ALLOCATION, LeaseKind.ALLOCATION, LeaseKind.HEARTBEAT))
    return Profile(kind, fault_sec, long, rates, faults, hooks=random.random() < 0.4)


def directed(random: Random, kinds: tuple[str, ...], lease_kind: LeaseKind, hooks: bool) -> Profile:
    """A world in which leases run out: long Jobs, and long faults of these kinds."""
    faults = []
    for kind in random.choices(kinds, k=random.randint(6, 14)):
        faults.append(Fault(random.uniform(60.0, 600.0), kind, random.uniform(200.0, 600.0), random.random()))
    rates = Rates(slow=0.3, longest_delay_sec=20.0, lose_reply=0.05, duplicate=0.1)
    return Profile(lease_kind, 1200.0, True, rates, sorted(faults, key=lambda fault: fault.at), hooks)


class Inflictor:
    """Carries the faults out."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kernel = world.kernel
        self._acts: dict[str, Callable[[Fault], None]] = {
            name.removeprefix("_on_").replace("_", " "): getattr(self, name) for name in dir(self) if "_on_" in name
        }
        assert set(self._acts) == set(KINDS), set(self._acts) ^ set(KINDS)
        for fault in world.profile.faults:
            self.kernel.after(fault.at, self._strike, fault)

    def _strike(self, fault: Fault) -> None:
        self.world.say(f"FAULT {fault}")
        self._acts[fault.kind](fault)

    def _machine(self, fault: Fault):  # type: ignore[no-untyped-def]
        running = [one for one in self.world.cluster.running if one.guardian is not None and one.guardian.alive]
        return running[int(fault.which * len(running))] if running else None

    def _launcher(self, fault: Fault):  # type: ignore[no-untyped-def]
        allocation = self._machine(fault)
        launcher = allocation and allocation.guardian.launcher
        return launcher if launcher and launcher.alive else None

    def _on_kill_launcher(self, fault: Fault) -> None:
        if launcher := self._launcher(fault):
            launcher.die()

    def _on_stop_launcher(self, fault: Fault) -> None:
        """As on a machine that swaps: the courier, which would go on renewing, stands still too."""
        if launcher := self._launcher(fault):
            for process in [launcher, *([launcher.courier] if launcher.courier is not None else [])]:
                process.stop()
                self.kernel.after(fault.seconds, process.cont)

    def _on_kill_courier(self, fault: Fault) -> None:
        launcher = self._launcher(fault)
        if launcher and launcher.courier is not None:
            launcher.courier.die()

    def _on_kill_guardian(self, fault: Fault) -> None:
        if allocation := self._machine(fault):
            allocation.guardian.die()

    def _on_freeze_machine(self, fault: Fault) -> None:
        if allocation := self._machine(fault):
            room = allocation.room
            room.stop()
            self.kernel.after(fault.seconds, room.cont)
            self.kernel.after(fault.seconds, self.world.checkers.thawed, room)

    def _on_power_off(self, fault: Fault) -> None:
        if allocation := self._machine(fault):
            self.world.cluster.power_off(allocation)

    def _node(self, fault: Fault, spread: bool = False):  # type: ignore[no-untyped-def]
        """A room of several nodes, and one of them that is still there and not the first: one in use if there is."""
        running = [one.room for one in self.world.cluster.running if one.room is not None and not one.room.lost_power]
        nodes = [(room, index) for room in running for index in range(1, len(room.names)) if index not in room.dead]
        nodes = [(room, index) for room, index in nodes if room.is_spread or not spread]
        nodes = [(room, index) for room, index in nodes if room.ranks_on(index)] or nodes
        return nodes[int(fault.which * len(nodes))] if nodes else (None, 0)

    def _on_crash_node(self, fault: Fault) -> None:
        room, index = self._node(fault)
        if room is not None:
            room.crash_node(index)

    def _on_cut_node(self, fault: Fault) -> None:
        """Where each node has a process with a lease. Ranks of an mpirun have none: they live until they are found."""
        room, index = self._node(fault, spread=True)
        if room is not None:
            room.sever_node(index, fault.seconds)

    def _on_crash_head(self, fault: Fault) -> None:
        """With a lease of the scheduler's: the end of a heartbeat lease is no end of ranks on other nodes."""
        room, _ = self._node(fault)
        if room is not None and 0 not in room.dead and self.world.lease_kind is LeaseKind.ALLOCATION:
            room.crash_head()

    def _on_kill_service(self, fault: Fault) -> None:
        if self.world.service.up:
            self.world.service.crash()
            self.kernel.after(fault.seconds, self.world.start_service)

    def _on_kill_agent(self, fault: Fault) -> None:
        if self.world.agent.alive:
            self.world.agent.die()
            self.kernel.after(fault.seconds, self.world.start_agent)

    def _on_agent_crash_point(self, fault: Fault) -> None:
        self.world.agent_dies_after = 1 + int(fault.which * 8)
        self.world.agent_away_sec = fault.seconds

    def _on_cut_machine(self, fault: Fault) -> None:
        if allocation := self._machine(fault):
            self._cut(allocation.room.line, fault)

    def _on_cut_agent(self, fault: Fault) -> None:
        self._cut(self.world.login_line, fault)

    def _cut(self, line: object, fault: Fault) -> None:
        line.cut = True  # type: ignore[attr-defined]
        self.kernel.after(fault.seconds, setattr, line, "cut", False)

    def _on_disk_full(self, fault: Fault) -> None:
        self.world.disk.full = True
        self.kernel.after(fault.seconds, setattr, self.world.disk, "full", False)

    def _on_scheduler_away(self, fault: Fault) -> None:
        self.world.cluster.away = True
        self.kernel.after(fault.seconds, setattr, self.world.cluster, "away", False)

    def _on_listing_empty(self, fault: Fault) -> None:
        self.world.cluster.hides_until = self.kernel.now + fault.seconds

    def _on_service_clock(self, fault: Fault) -> None:
        self.world.service.clock.jump(fault.seconds)

    def _on_machine_clock(self, fault: Fault) -> None:
        if allocation := self._machine(fault):
            allocation.room.clock.jump(fault.seconds)

    def _on_user_cancels(self, fault: Fault) -> None:
        self.world.users.cancel(fault.which)

    def _on_user_retries(self, fault: Fault) -> None:
        self.world.users.retry(fault.which)

    def _on_user_deletes(self, fault: Fault) -> None:
        self.world.users.delete(fault.which)

    def _on_user_drains(self, fault: Fault) -> None:
        self.world.users.drain(fault.which)
