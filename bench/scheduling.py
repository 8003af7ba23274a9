"""A launcher of 1,000 nodes without processes: what its rules cost for each Job (issue of scale, no floor)."""

import time
from collections import deque
from random import Random

from balsam.domain.job import Resources
from balsam.domain.lease import HeldLease, LeaseKind
from balsam.domain.packing import Node
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import (
    Acquire,
    Exited,
    Gone,
    Granted,
    Input,
    LaunchJob,
    SessionOpened,
    Start,
    Started,
)
from balsam.launcher.machine_settings import MachineSettings
from bench.result import Goal
from bench.sizes import sized

JOBS = 100_000
NODES, CORES, GPUS = 1_000, 64, 8
SHAPES = (
    Resources(node_packing_count=64),
    Resources(ranks_per_node=8, node_packing_count=8),
    Resources(ranks_per_node=2, gpus_per_rank=1, node_packing_count=4),
)


def measure() -> list[Goal]:
    """CPU time of the machine's steps, from the grant of a Job to the record of its end."""
    jobs = sized(JOBS)
    cost = _cost_us(jobs, Random(1))
    note = f"{jobs:,} Jobs of {len(SHAPES)} shapes on {NODES:,} nodes of {CORES} cores and {GPUS} GPUs"
    return [Goal("scale", "scheduling of one Job", cost, "us", 50, 30, True, note)]


def _cost_us(jobs: int, random: Random) -> float:
    cores, gpus = tuple(range(CORES)), tuple(map(str, range(GPUS)))
    nodes = tuple(Node(f"n{number}", cores, gpus) for number in range(NODES))
    machine = Machine(MachineSettings(nodes, serial=True))
    running: deque[int] = deque()
    inputs: list[Input] = [SessionOpened(HeldLease(LeaseKind.ALLOCATION, 0.0))]
    now, cost, granted, ended = 0.0, 0.0, 0, 0
    while ended < jobs:
        begin = time.process_time()
        outputs = machine.step(now, inputs)
        cost += time.process_time() - begin
        inputs, now = [], now + 0.001
        for output in outputs:
            match output:
                case Start():
                    running.append(output.job.id)
                    inputs.append(Started(output.job.id))
                case Acquire():
                    numbers = range(granted + 1, min(jobs, granted + output.max_jobs) + 1)
                    granted = numbers.stop - 1
                    new = tuple(LaunchJob(number, 1, 1, 1, "w", random.choice(SHAPES)) for number in numbers)
                    inputs.append(Granted(output.acquire_seq, new))
        for _ in range(min(len(running), random.randrange(60))):
            job_id = running.popleft()
            inputs += [Exited(job_id, 0, "", ""), Gone(job_id)]
            ended += 1
    return cost / jobs * 1e6
