"""A machine of the launcher on a bench: what tests say to it and ask of it, in few words."""

from typing import Any

from balsam.domain.job import Resources
from balsam.domain.lease import HeldLease, LeaseKind
from balsam.domain.packing import Node
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import (
    Exited,
    Gone,
    Granted,
    Input,
    LaunchJob,
    Outcome,
    Output,
    Record,
    SessionOpened,
    Started,
)
from balsam.launcher.machine_settings import MachineSettings

HALF = Resources(node_packing_count=2)
NODE = Node("n0", (0, 1, 2, 3))
RESULT = {"value": 12}


def job(number: int, resources: Resources = HALF, token: int = 1, attempt: int = 1) -> LaunchJob:
    return LaunchJob(number, 1, token, attempt, f"job{number}", resources)


def one(kind: type, outputs: list[Output]) -> Any:
    found = [output for output in outputs if isinstance(output, kind)]
    assert len(found) == 1, outputs
    return found[0]


def all_of(kind: type, outputs: list[Output]) -> list[Any]:
    return [output for output in outputs if isinstance(output, kind)]


def told(outputs: list[Output]) -> list[tuple[Outcome, int]]:
    return [(output.outcome, output.job_id) for output in outputs if isinstance(output, Record)]


class Bench:
    """A machine with an open Session; `now` is moved by hand."""

    def __init__(self, kind: LeaseKind = LeaseKind.ALLOCATION, nodes: tuple[Node, ...] = (NODE,), **given: Any) -> None:
        self.now = 1000.0
        self.machine = Machine(MachineSettings(nodes, **given))
        self.first = self.step(SessionOpened(HeldLease(kind, 1000.0, ttl_sec=300, margin_sec=60)))

    def step(self, *inputs: Input, after: float = 0.0) -> list[Output]:
        self.now += after
        return self.machine.step(self.now, list(inputs))

    def grant(self, *jobs: LaunchJob) -> list[Output]:
        seq = self.machine._intake._acquire_seq
        return self.step(Granted(seq, jobs))

    def run(self, *jobs: LaunchJob) -> list[Output]:
        """Granted, started, running."""
        self.grant(*jobs)
        return self.step(*(Started(one.id) for one in jobs))

    def end(self, job_id: int, code: int = 0, **given: Any) -> list[Output]:
        return self.step(Exited(job_id, code, **given), Gone(job_id))
