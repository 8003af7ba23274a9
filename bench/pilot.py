"""G2, G6: the launcher alone, with a queue in its own process instead of a courier: `python -m bench.pilot DIR JOBS`.
With names of nodes it runs in serial mode over them, in an allocation; with --mpiexec one MPI Job at a time.

The shipping loop, machine, outbox and process layer run no-op Jobs, each with a workdir and an output file; what is
left out is the network and the service. Prints {"rate": Jobs per second}.
"""

import argparse
import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from balsam.domain.clock import SystemClock
from balsam.domain.lease import LeaseKind
from balsam.launcher.config import LauncherConfig
from balsam.launcher.loop import Loop
from balsam.launcher.partition import Partition, PartitionNode
from balsam.launcher.wiring import build_parts
from balsam.wire.apps import AppSync

APP_ID = 1


class LocalQueue:
    """Answers as a courier would, at once: grants from a list, acknowledges every record."""

    def __init__(self, jobs: int, make_job: Callable[[int], dict[str, Any]]) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._messages: deque[dict[str, Any]] = deque()
        self._next, self._jobs, self._ended = 1, jobs, 0
        self._make_job = make_job
        self.began = self.finished = 0.0
        session = {"id": 1, "kind": LeaseKind.ALLOCATION.value, "ttl_sec": 300.0, "margin_sec": 60.0}
        self._say({"is": "opened", "session": session, "sent_at": time.monotonic()})

    def fileno(self) -> int:
        return self._read

    @property
    def wants_to_send(self) -> bool:
        return False

    def send(self, order: Mapping[str, Any]) -> None:
        if order["do"] == "acquire":
            self._grant(order["request"])
        elif order["do"] == "close":
            self._say({"is": "closed"})

    def send_records(self, records: list[bytes]) -> None:
        read = [json.loads(record) for record in records]
        self._ended += sum(record["event"] == "run_done" for record in read)
        self._say({"is": "reported", "acked_seq": read[-1]["seq"], "fenced": [], "cancel": []})
        if self._ended == self._jobs and not self.finished:
            self.finished = time.perf_counter()
            self._say({"is": "closing"})

    def flush(self) -> None:
        return

    def receive(self) -> list[dict[str, Any]]:
        os.read(self._read, 65_536)
        messages, self._messages = list(self._messages), deque()
        return messages

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def _grant(self, request: dict[str, Any]) -> None:
        self.began = self.began or time.perf_counter()
        numbers = range(self._next, min(self._jobs + 1, self._next + request["max_jobs"]))
        self._next = numbers.stop
        apps = [] if request["known_apps"] else [_app()]
        reply = {
            "acquire_seq": request["acquire_seq"],
            "jobs": [self._make_job(number) for number in numbers],
            "apps": apps,
        }
        self._say({"is": "granted", "reply": reply})

    def _say(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        os.write(self._write, b"x")


def _app() -> dict[str, Any]:
    sync = AppSync(site_id=1, name="NoOp", command_template="/bin/true")
    view = {"id": APP_ID, "content_hash": sync.spec().content_hash, "synced_at": "2026-01-01T00:00:00Z"}
    return {**sync.model_dump(mode="json"), **view}


def job(number: int, packing: int, **given: Any) -> dict[str, Any]:
    return {
        "id": number, "app_id": APP_ID, "token": 1, "attempt": 1, "workdir": f"pilot/{number}", "parameters": {},
        "num_nodes": 1, "ranks_per_node": 1, "threads_per_rank": 1, "threads_per_core": 1, "gpus_per_rank": 0.0,
        "node_packing_count": packing, "wall_time_min": 0, "launch_params": {},
        "tags": {}, "data": {}, "parent_ids": [], **given,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pilot", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("jobs", type=int)
    parser.add_argument("nodes", nargs="*", metavar="NODE")
    parser.add_argument("--mpiexec", help="that of MPICH")
    parser.add_argument("--ranks", type=int, default=1)
    given = parser.parse_args()
    (given.directory / "data").mkdir(parents=True)
    partition = _partition(given)
    packing = 8 if given.nodes else 1 if given.mpiexec else 2
    queue = LocalQueue(given.jobs, partial(job, packing=packing, ranks_per_node=given.ranks))
    parts = build_parts(partition, os.environ, "bench")
    Loop(partition, parts, lambda _errand: queue, None, "bench", time.monotonic() + 3600, SystemClock()).run()
    print(json.dumps({"rate": given.jobs / (queue.finished - queue.began)}))


def _partition(given: argparse.Namespace) -> Partition:
    directory = str(given.directory)
    config = LauncherConfig(
        site_id=1,
        site_path=directory,
        data_path=f"{directory}/data",
        directory=directory,
        credentials_path=f"{directory}/none",
        mpirun=f"mpich:{given.mpiexec}" if given.mpiexec else "plain",
        compute_node="slurm" if given.nodes else "local",
    )
    nodes = [PartitionNode(name, tuple(range(8)), is_here=False) for name in given.nodes]
    if not nodes:
        cores = range(given.ranks) if given.mpiexec else sorted(os.sched_getaffinity(0))[:2]
        nodes = [PartitionNode("here", tuple(cores))]
    return Partition(config, 0, bool(given.nodes), tuple(nodes), 3600.0, {})


if __name__ == "__main__":
    main()
