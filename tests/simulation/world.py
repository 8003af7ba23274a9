"""One world: everything put together for a seed, its faults, and what came of it.

First the faults; then, in calm, every Job must come to its end (L1); then every allocation must, and nothing be left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from balsam.client import outbox as outbox_module
from balsam.launcher import service_side
from balsam.launcher.machine_messages import LaunchJob
from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import Store
from tests.simulation import guardian, site
from tests.simulation.checkers import LOOK_SEC, Checkers, Violation
from tests.simulation.cluster import Cluster
from tests.simulation.disk import Disk, SimOs, SimPath
from tests.simulation.faults import AgentDies, Inflictor, Profile, Rates, draw
from tests.simulation.hooks import HookRun
from tests.simulation.kernel import Kernel, NodeClock
from tests.simulation.launcher import SimLauncher
from tests.simulation.service import Line, Network, SimService
from tests.simulation.site import SimAgent
from tests.simulation.users import Plan, Users

# Leases, graces and the longest allocation; the time that the Jobs themselves take is added.
CALM_SEC = 2 * 3600.0
CLOSING_SEC = 1800.0


@dataclass(frozen=True)
class Outcome:
    """What came of a world. `problem` is empty when everything held."""

    seed: int
    problem: str
    profile: Profile
    simulated_sec: float
    starts: int
    jobs: int


class World:
    """All parts, by name."""

    def __init__(self, seed: int, profile: Profile, story: Callable[[str], None] | None, store: Store | None) -> None:
        self.kernel = Kernel(seed)
        self._story = story
        self.profile = profile
        self.rates = profile.rates
        self.lease_kind = profile.lease_kind
        self.delivers_everything = profile.lease_kind.value == "allocation"
        self.calm = self.closing = False
        self.calm_since = float("inf")
        self.agent_dies_after = 0
        self.agent_away_sec = 1.0
        self.agents = 0  # so many there were
        self.hook_runs: list[HookRun] = []
        self.disk = Disk(self.kernel.random("disk"))
        self.checkers = Checkers(self)
        self.disk.on_write, self.disk.on_loss = self.checkers.written, self.checkers.lost_power
        self.service = SimService(self, store or MemoryStore())
        self.cluster = Cluster(self)
        self.login_clock = NodeClock(self.kernel, drift=0.005)
        self.login_line = Line()
        self.users = Users(self)

    def begin(self) -> None:
        """Set it going, in the world's patches."""
        self.start_agent()
        Inflictor(self)
        self.kernel.after(LOOK_SEC, self._look)

    def say(self, text: str) -> None:
        if self._story is not None:
            self._story(f"{self.kernel.now:9.2f}  {text}")

    def plan_of(self, job: LaunchJob) -> Plan:
        return self.users.plans[job.workdir]

    def start_service(self) -> None:
        if not self.service.up:
            self.say("the service is back")
            self.service.start()

    def start_agent(self) -> None:
        if not hasattr(self, "agent") or not self.agent.alive:
            self.agents += 1
            self.agent = SimAgent(self, self.login_clock, Network(self, f"agent {self.kernel.now}", self.login_line))

    def crash_point(self, name: str) -> None:
        """In place of `site.crash_points.crash_point`."""
        if self.agent_dies_after:
            self.agent_dies_after -= 1
            if not self.agent_dies_after:
                self.say(f"the agent dies {name}")
                self.kernel.after(self.agent_away_sec, self.start_agent)
                raise AgentDies

    def _look(self) -> None:
        self.kernel.after(LOOK_SEC, self._look)
        self.checkers.look(self._launchers())
        self.checkers.look_at_heads()

    def _launchers(self) -> Iterator[SimLauncher]:
        for allocation in self.cluster.running:
            launcher = allocation.guardian and allocation.guardian.launcher
            if launcher and launcher.alive:
                yield launcher

    def heal(self) -> None:
        """No more faults."""
        self.say("CALM")
        self.calm = True
        self.calm_since = self.kernel.now
        self.rates = Rates()
        self.start_service()
        self.start_agent()
        self.disk.full = self.cluster.away = self.login_line.cut = False
        for allocation in self.cluster.running:
            if allocation.room is not None:
                allocation.room.line.cut = False
                for node in sorted(allocation.room.severed):
                    allocation.room.mend_node(node)

    def live(self) -> None:
        """From the first fault to the last check. Raises Violation."""
        kernel = self.kernel
        kernel.run(self.profile.fault_sec)
        self.heal()
        calm_sec = CALM_SEC + 3 * sum(plan.duration_sec for plan in self.users.plans.values())
        if not kernel.run(kernel.now + calm_sec, self._all_done):
            left = [f"Job {job.id} {job.state} (held by {job.session_id})" for job in self.checkers.unfinished()]
            self.checkers.fail(f"L1: after {calm_sec:.0f} calm seconds: {', '.join(left) or 'submitting'}")
        self.say("CLOSING")
        self.closing = True
        self.users.end_all()
        kernel.run(kernel.now + CLOSING_SEC, self._all_closed)
        kernel.run(kernel.now + 2 * LOOK_SEC)
        if self.agent.hooks is not None:
            self.agent.hooks.close()
        self.checkers.at_the_end()
        if left := [entry.name for entry in self.agent.ledger]:
            self.checkers.fail(f"L4: the agent's ledger still has {left}")
        if left := [name for name in self.disk.files if name.endswith(".outbox")]:
            self.checkers.fail(f"L3: {left} were never delivered")

    def _all_done(self) -> bool:
        return self.users.submitting == 0 and not self.checkers.unfinished()

    def _all_closed(self) -> bool:
        """An agent that died as it opened a Session left no note of it: only the end of its lease closes that one."""
        over = all(one.state.is_over for one in self.cluster.allocations.values())
        own = self.agent.hooks.session_id if self.agent.hooks else None
        return over and not list(self.agent.ledger) and set(self.checkers.open_sessions()) <= {own}

    def patches(self) -> list[tuple[object, str, object]]:
        """What stands in for the operating system in the shipping modules."""
        SimPath.disk = self.disk
        return [
            (outbox_module, "os", SimOs(self.disk)),
            (service_side, "Path", SimPath),
            *guardian.patches(),
            *site.patches(self),
        ]


@contextmanager
def patched(changes: list[tuple[object, str, object]]) -> Iterator[None]:
    """Attributes replaced, and put back in reverse order."""
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in changes]  # type: ignore[attr-defined]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def run_world(
    seed: int,
    profile: Profile | None = None,
    story: Callable[[str], None] | None = None,
    store: Store | None = None,
    mutation: Callable[[], list[tuple[object, str, Any]]] | None = None,
) -> Outcome:
    """Live through one world. An exception of the shipping code is a problem like any violation."""
    if profile is None:
        profile = draw(Kernel(seed).random("profile"))
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    problem = ""
    world = None
    try:
        with patched(mutation() if mutation is not None else []):
            world = World(seed, profile, story, store)
            with patched(world.patches()):
                world.begin()
                world.live()
    except Violation as violation:
        problem = str(violation)
    except Exception as error:
        if story is not None:
            raise
        problem = f"{type(error).__name__}: {error}"
    finally:
        logging.disable(level)
    kernel, checkers = (world.kernel, world.checkers) if world else (Kernel(seed), None)
    starts, jobs = (checkers.starts, len(checkers.submitted)) if checkers else (0, 0)
    return Outcome(seed, problem, profile, kernel.now, starts, jobs)


def shrink(failed: Outcome, **how: Any) -> Outcome:
    """The same failure with fewer faults: each is left out in turn while the world stays bad."""
    best = failed
    for rates in (Rates(), best.profile.rates):
        tried = run_world(failed.seed, replace(best.profile, rates=rates), **how)
        if tried.problem:
            best = tried
            break
    index = 0
    while index < len(best.profile.faults):
        tried = run_world(failed.seed, best.profile.without(index), **how)
        if tried.problem:
            best = tried
        else:
            index += 1
    return best
