"""What the suites of adapters over a real batch system work with: `AdapterBench`; its `BatchSystem` says what differs.

An AdapterBench is a `CommandHarness` of `balsam.testing.scheduler_bench`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pytest

from balsam.platform.scheduler.base import Scheduler, SchedulerConfig, SubmitRequest, no_crash
from balsam.testing.command_faults import CommandFaults
from balsam.testing.scheduler_bench import Dialect, write_script
from tests.testbed.slurm_bed import ClusterUser


class Cluster(Protocol):
    """A batch system that runs."""

    @property
    def user(self) -> ClusterUser: ...
    def kill_processes(self, scheduler_id: str) -> None: ...
    def end_everything(self) -> None: ...


C = TypeVar("C", bound=Cluster)
S = TypeVar("S", bound=Scheduler)


@dataclass(frozen=True)
class BatchSystem(Generic[S]):
    """One kind of batch system. `too_many_nodes` are more than there are: it takes the request, and lets it wait."""

    adapter: Callable[[SchedulerConfig], S]
    programs: Sequence[str]
    dialect: Dialect
    queue: str
    too_many_nodes: int
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)


class AdapterBench(Generic[C, S]):
    """The adapter runs in this process, the batch system's commands as the user: through wrappers on PATH."""

    timeout_sec = 60.0
    look_again_sec = 0.3

    def __init__(self, cluster: C, system: BatchSystem[S], directory: Path) -> None:
        self.cluster = cluster
        self.system = system
        self.dialect = system.dialect
        self.directory = directory
        self.prefix = f"balsam-{uuid.uuid4().hex[:6]}-"
        real = {name: Path(shutil.which(name) or name) for name in system.programs}
        wrappers = directory / "wrappers"
        self.faults = CommandFaults(wrappers, real, cluster.user.run_as)
        for path in wrappers.rglob("*"):  # the user's wrappers note their calls
            os.chown(path, cluster.user.entry.pw_uid, cluster.user.entry.pw_gid)

    def make(self, crash_point: Callable[[str], None] = no_crash, **options: object) -> S:
        settings = {"command_timeout_sec": 3, **self.system.settings, **options}
        config = SchedulerConfig(self.directory, settings, crash_point=crash_point, name_prefix=self.prefix)
        return self.system.adapter(config)

    def request(self) -> SubmitRequest:
        return SubmitRequest(num_nodes=1, wall_time_min=10, queue=self.system.queue, project="proj1")

    def refused_request(self) -> SubmitRequest:
        return dataclasses.replace(self.request(), queue="no-such-queue")

    def waiting_request(self) -> SubmitRequest:
        return dataclasses.replace(self.request(), num_nodes=self.system.too_many_nodes)

    def vanish(self, scheduler_id: str, name: str) -> None:
        self.cluster.kill_processes(scheduler_id)

    def submit(self, scheduler: Scheduler, name: str, body: str, **request: object) -> str:
        """The id of an allocation that runs this script; `request` is what differs from `self.request()`."""
        asked = dataclasses.replace(self.request(), **request)
        return scheduler.submit(write_script(self, name, body), self.prefix + name, asked)


@contextmanager
def adapter_bench(cluster: C, system: BatchSystem[S]) -> Iterator[AdapterBench[C, S]]:
    """In a directory of the user's, as pytest's own can't be reached by it. What is left in the queue ends with it."""
    directory = cluster.user.directory()
    bench = AdapterBench(cluster, system, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{bench.faults.bin}:{os.environ['PATH']}")
        patch.chdir(directory)
        yield bench
    cluster.end_everything()
    shutil.rmtree(directory)
