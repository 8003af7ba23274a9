"""The launcher's rules when everything happens at random: what must hold whatever comes in whatever order."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balsam.domain.job import Resources
from balsam.domain.lease import HeldLease, LeaseKind
from balsam.domain.monitors import MonitorAction
from balsam.domain.packing import Node
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import (
    Acquire,
    AcquireRefused,
    CancelRequested,
    Drain,
    Exited,
    Fenced,
    Gone,
    Granted,
    Input,
    LeaseEnded,
    LeaseRenewed,
    Lost,
    NodeDown,
    NodeUp,
    Outcome,
    Output,
    RanksApart,
    Record,
    RuleMet,
    SessionOpened,
    Signal,
    Start,
    StartDelayed,
    Started,
    StartFailed,
    Storage,
    Work,
)
from balsam.launcher.machine_settings import MachineSettings
from tests.launcher.machine_bench import HALF, NODE, job


@dataclass
class World:
    """What is true outside of the machine, and the checks on every output."""

    machine: Machine
    now: float = 0.0
    tokens: dict[int, int] = field(default_factory=dict)
    starting: set[int] = field(default_factory=set)
    alive: set[int] = field(default_factory=set)
    exited: set[int] = field(default_factory=set)
    ends: dict[tuple[int, int], list[Outcome]] = field(default_factory=dict)
    granted: set[tuple[int, int]] = field(default_factory=set)
    asked: Acquire | None = None
    lease_over: bool = False

    def step(self, *inputs: Input) -> None:
        for output in self.machine.step(self.now, list(inputs)):
            self.check(output)
        wake = self.machine.wake_at()
        assert wake is None or wake > self.now, "it would be called again and again"

    def check(self, output: Output) -> None:
        match output:
            case Start():
                assert not self.lease_over
                assert output.job.id not in self.starting | self.alive, "S6: two runs of one Job"
                self.starting.add(output.job.id)
            case Signal():
                assert output.job_id in self.alive
            case Record():
                assert not self.lease_over, "S6: no report after the lease"
                told = self.ends.setdefault((output.job_id, output.token), [])
                if output.outcome is Outcome.NOTED:
                    assert told == [Outcome.STARTED], "a note is of what runs"
                else:
                    told.append(output.outcome)
            case Acquire():
                assert self.asked is None, "one at a time"
                assert not self.lease_over
                self.asked = output


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "grant",
                "start",
                "fail",
                "delay",
                "exit",
                "gone",
                "cancel",
                "fence",
                "rule",
                "apart",
                "tick",
                "work",
                "refuse",
                "renew",
                "storage",
                "lost",
                "down",
                "up",
            ]
        ),
        st.integers(0, 9),
        st.integers(1, 4),
    ),
    min_size=5,
    max_size=80,
)
ENDINGS = st.sampled_from(["drain", "lease", "idle"])
SHAPES = [HALF, Resources(), Resources(num_nodes=2), Resources(ranks_per_node=3, node_packing_count=4), Resources(1, 9)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS, ENDINGS)
def test_whatever_happens(actions: list[tuple[str, int, int]], ending: str) -> None:
    """S6, S9, L3: one run of a Job, each grant told exactly once how it ended, nothing left at the end."""
    nodes = (NODE, Node("n1", (0, 1, 2, 3)))
    world = World(Machine(MachineSettings(nodes, idle_ttl_sec=1000, max_failed_starts_per_node=1)))
    world.step(SessionOpened(HeldLease(LeaseKind.HEARTBEAT, 0.0, 1e6, 60)))
    for action, which, number in actions:
        act(world, action, which, number)
    finish(world, ending)
    assert world.machine.exit is not None
    assert world.machine.is_idle
    assert world.machine._runs.pool.is_idle
    assert world.machine._runs.pool.usable_nodes >= 1, "the last node was set aside"
    if ending != "lease":
        assert set(world.ends) == world.granted
        for outcomes in world.ends.values():
            assert len(outcomes) == 1 or (len(outcomes) == 2 and outcomes[0] is Outcome.STARTED), outcomes
            assert outcomes[-1] is not Outcome.STARTED


def act(world: World, action: str, which: int, number: int) -> None:
    world.now += 0.5
    pick = sorted(world.starting if action in ("start", "fail", "delay") else world.alive)
    job_id = pick[which % len(pick)] if pick else None
    match action:
        case "grant" if world.asked is not None:
            jobs = []
            for index in range(number):
                name = (which + index) % 10 + 1
                if any(granted.id == name for granted in jobs):
                    continue
                world.tokens[name] = world.tokens.get(name, 0) + 1
                jobs.append(job(name, SHAPES[(which + index) % len(SHAPES)], token=world.tokens[name]))
                # A newer grant of a Job that waits here takes the place of the older one.
                older = world.machine._intake.queue.get(name)
                if older is not None:
                    world.granted.discard((name, older.token))
                world.granted.add((name, world.tokens[name]))
            seq, world.asked = world.asked.acquire_seq, None
            world.step(Granted(seq, tuple(jobs)))
        case "refuse" if world.asked is not None:
            seq, world.asked = world.asked.acquire_seq, None
            world.step(AcquireRefused(seq, "no"))
        case "start" if job_id is not None:
            world.starting.discard(job_id)
            world.alive.add(job_id)
            world.step(Started(job_id))
        case "fail" if job_id is not None:
            world.starting.discard(job_id)
            world.step(StartFailed(job_id, 127, "no"))
        case "delay" if job_id is not None:
            world.starting.discard(job_id)
            world.step(StartDelayed(job_id, "no"))
        case "exit" if job_id is not None:
            world.exited.add(job_id)
            world.step(Exited(job_id, number - 1))
        case "gone" if job_id is not None and job_id in world.exited:
            world.exited.discard(job_id)
            world.alive.discard(job_id)
            world.step(Gone(job_id))
        case "lost" if job_id is not None:
            world.exited.discard(job_id)
            world.alive.discard(job_id)
            world.step(Lost(job_id, "its node is gone"))
        case "down" | "up":
            world.step((NodeDown if action == "down" else NodeUp)(which % 2))
        case "cancel":
            world.step(CancelRequested((which + 1,)))
        case "rule":
            action = list(MonitorAction)[number % 3]
            world.step(RuleMet(which + 1, world.tokens.get(which + 1, 1), "bad", action, "met"))
        case "apart":
            world.step(RanksApart(which + 1, world.tokens.get(which + 1, 1), "they wait"))
        case "fence":
            world.step(Fenced(((which + 1, world.tokens.get(which + 1, 1)),)))
        case "tick":
            world.now += number * 7
            world.step()
        case "work":
            world.step(Work())
        case "renew":
            world.step(LeaseRenewed(world.now))
        case "storage":
            world.step(Storage(False))
            world.step(Storage(True))


def finish(world: World, ending: str) -> None:
    """Let everything that runs end, then the machine."""
    world.step(NodeUp(0), NodeUp(1))
    if ending == "lease":
        world.lease_over = True
        world.step(LeaseEnded("gone"))
    elif ending == "drain":
        world.step(Drain("the end"))
    for _ in range(200):
        if world.machine.exit is not None:
            return
        for name in sorted(world.starting):
            world.starting.discard(name)
            world.alive.add(name)
            world.step(Started(name))
        for name in sorted(world.alive):
            world.step(Exited(name, 0))
            world.exited.discard(name)
            world.alive.discard(name)
            world.step(Gone(name))
        if world.asked is not None:
            seq, world.asked = world.asked.acquire_seq, None
            world.step(Granted(seq, ()))
        world.now += 1001 if not world.starting and not world.machine.queued else 1
        world.step()
