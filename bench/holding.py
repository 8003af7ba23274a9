"""Memory of a launcher with many Jobs in flight: `python -m bench.holding DIR JOBS` holds them and prints its size.

The shipping loop, machine, fleet and outbox, in serial mode over as many pretended nodes as the Jobs fill; the service
and the hub with its nodes are played within the process, and no Job has one. What is left out is the hub, whose memory
depends on the nodes and not on the Jobs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from balsam.domain.clock import SystemClock
from balsam.launcher.apps import AppShelf
from balsam.launcher.call_files import CallFiles
from balsam.launcher.config import LauncherConfig
from balsam.launcher.engines.local import LocalEngine
from balsam.launcher.environment import JobEnvironment
from balsam.launcher.loop import Loop
from balsam.launcher.node_messages import decode, encode, start_of
from balsam.launcher.partition import Partition, PartitionNode
from balsam.launcher.plans import Planner
from balsam.launcher.starter import Starter
from balsam.launcher.wiring import Parts
from balsam.launcher.workdir import DataRoot
from bench import CHECKOUT, machine
from bench.pilot import LocalQueue, job
from bench.result import Goal
from bench.sizes import sized

NODES, CORES = 1_250, 8


def measure() -> list[Goal]:
    """Resident memory once all Jobs were reported as running."""
    nodes = sized(NODES)
    jobs = nodes * CORES
    with tempfile.TemporaryDirectory(prefix="balsam-bench-") as directory:
        words = [sys.executable, "-m", "bench.holding", directory, str(jobs)]
        answer = subprocess.run(words, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, timeout=300)
    held = json.loads(answer.stdout)
    note = f"{jobs:,} Jobs on {nodes:,} nodes; {held['empty_mb']:.0f} MB before the first"
    return [Goal("scale", "memory of a launcher that holds them", held["rss_mb"], "MB", 200, 100, True, note)]


class PlayedHub:
    """All nodes are there, and what is to be started there runs at once, for ever."""

    def __init__(self, nodes: int, argv: Sequence[str]) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lines = [b"%d\t%s" % (node, encode([{"is": "up"}])) for node in range(nodes)]
        os.write(self._write, b"x")

    def fileno(self) -> int:
        return self._read

    @property
    def wants_to_send(self) -> bool:
        return False

    def send_line(self, line: bytes) -> None:
        node, _, data = line.partition(b"\t")
        if not data:
            return  # the errand
        begun = [start_of(order).job.id for order in decode(data) if order["do"] == "start"]
        if begun:
            self._lines.append(node + b"\t" + encode([{"is": "Started", "job_id": number} for number in begun]))
            os.write(self._write, b"x")

    def flush(self) -> None:
        return

    def receive_lines(self) -> list[bytes]:
        os.read(self._read, 65_536)
        lines, self._lines = self._lines, []
        return lines


class Queue(LocalQueue):
    """Ends the process when all Jobs were reported to run."""

    def __init__(self, jobs: int) -> None:
        parameters = {"steps": 100, "input": "/scratch/campaign/input.dat", "temperature": 300.5}
        super().__init__(jobs, partial(job, packing=CORES, parameters=parameters, tags={"campaign": "bench"}))
        self._left = jobs
        self._empty_mb = machine.rss_mb(os.getpid())

    def send_records(self, records: list[bytes]) -> None:
        self._left -= sum(json.loads(record)["event"] == "started" for record in records)
        super().send_records(records)
        if not self._left:
            print(json.dumps({"rss_mb": machine.rss_mb(os.getpid()), "empty_mb": self._empty_mb}), flush=True)
            os._exit(0)


def main() -> None:
    directory, jobs = Path(sys.argv[1]), int(sys.argv[2])
    paths: dict[str, Any] = dict.fromkeys(("site_path", "data_path", "directory"), str(directory))
    config = LauncherConfig(site_id=1, credentials_path=str(directory / "none"), compute_node="slurm", **paths)
    nodes = tuple(PartitionNode(f"n{number}", tuple(range(CORES)), is_here=False) for number in range(jobs // CORES))
    partition = Partition(config, 0, True, nodes, 3600.0, {})
    apps, data, calls = AppShelf(), DataRoot(directory), CallFiles(directory / "calls")
    planner = Planner(apps, JobEnvironment({}, "bench", [], True), LocalEngine(), calls.path_of, {})
    parts = Parts(Starter(planner, data, calls), apps, data)
    end = time.monotonic() + 3600
    queue = Queue(jobs)
    hub = partial(PlayedHub, len(nodes))
    Loop(partition, parts, lambda _: queue, None, "bench", end, SystemClock(), hub).run()  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
