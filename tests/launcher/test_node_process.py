"""The process of a node in serial mode, with real streams and Jobs: when it tells what, and what it does meanwhile."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from balsam.domain.job import Resources
from balsam.domain.packing import NodeShare, Placement
from balsam.launcher.config import LauncherConfig
from balsam.launcher.guardian_link import GuardianLink
from balsam.launcher.machine_messages import LaunchJob, Signal, Start
from balsam.launcher.node_messages import decode, encode, of_signal, of_start
from balsam.launcher.partition import Partition, PartitionNode
from balsam.launcher.wiring import build_parts
from balsam.wire.apps import AppSync
from tests.launcher.test_dask_engine import Bed, on_a_bed, until

node_process = pytest.importorskip(
    "balsam.launcher.node_process", reason="needs the extra `dask`", exc_type=ImportError
)

pytestmark = pytest.mark.slow
SYNC = AppSync(site_id=1, name="Sleep", command_template="sleep {{ seconds }}")
APP = {"id": 7, "content_hash": SYNC.spec().content_hash, "synced_at": "2026-01-01T00:00:00Z"}


class Node:
    """The process of a node as it is told of and heard by the hub."""

    def __init__(self, bed: Bed, root: Path) -> None:
        paths = dict.fromkeys(("site_path", "data_path", "directory", "credentials_path"), str(root))
        nodes = (PartitionNode("here", tuple(range(8))),)
        config = LauncherConfig(site_id=1, compute_node="slurm", **paths)
        partition = Partition(config, 0, True, nodes, 3600.0, {})
        # Of each pipe the guardian has the other end.
        self.pipes = [*os.pipe(), *os.pipe()]
        guardian = GuardianLink(self.pipes[0], self.pipes[3])
        parts = build_parts(partition, os.environ, "a", "here")
        self._process = node_process.NodeProcess(0, partition, parts, guardian, "a")
        self._bed = bed
        self._running = asyncio.create_task(self._process.run(bed.address, bed.keys))

    async def is_there(self) -> None:
        await until(lambda: self._bed.ups)

    @property
    def is_gathering(self) -> bool:
        return self._process._is_gathering

    def starts(self, job_ids: range, seconds: float) -> None:
        orders = []
        for job_id in job_ids:
            job = LaunchJob(job_id, 7, 1, 1, f"w{job_id}", Resources(node_packing_count=8), {"seconds": seconds})
            placement = Placement((NodeShare(0, (job_id % 8,), ()),), job.resources)
            orders.append(of_start(Start(job, placement), {**SYNC.model_dump(mode="json"), **APP}))
        self._bed.server.send(0, encode(orders))

    def kills(self, job_id: int) -> None:
        self._bed.server.send(0, encode([of_signal(Signal(job_id, True, 0.0), 0.0)]))

    def said(self) -> list[list[tuple[str, int]]]:
        """What it told of Jobs, message by message."""
        messages = [[told for told in decode(data) if "job_id" in told] for _, data in self._bed.data]
        return [[(told["is"], told["job_id"]) for told in message] for message in messages if message]

    def sleeping(self) -> list[psutil.Process]:
        """Its Jobs, until they are reaped."""
        return [child for child in psutil.Process().children() if child.name() == "sleep"]

    async def ends(self) -> None:
        self._bed.server.send(0, encode([{"do": "end"}]))
        assert await asyncio.wait_for(self._running, 20) == 0
        for fd in self.pipes:
            os.close(fd)


def on_a_node(root: Path, test: Callable[[Node], Awaitable[None]]) -> None:
    async def whole(bed: Bed) -> None:
        node = Node(bed, root)
        await node.is_there()
        await test(node)
        await node.ends()

    on_a_bed(whole)


def test_what_comes_close_together_is_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message costs hub and node as much as the start of a Job."""
    monkeypatch.setattr(node_process, "gather_sec", lambda jobs: 2.0)

    async def test(node: Node) -> None:
        node.starts(range(1, 9), 0.1)
        await until(lambda: sum(map(len, node.said())) == 8 * 3)
        said = node.said()
        assert len(said) <= 3, "in one message, unless the machine took seconds for eight short Jobs"
        told = [each for message in said for each in message]
        for job_id in range(1, 9):
            assert [what for what, about in told if about == job_id] == ["Started", "Exited", "Gone"]

    on_a_node(tmp_path, test)


def test_after_a_quiet_time_an_end_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is ordered is always done at once."""
    gathers = iter([0.0, 0.0, 60.0, 60.0])
    monkeypatch.setattr(node_process, "gather_sec", lambda jobs: next(gathers))

    async def test(node: Node) -> None:
        node.starts(range(1, 4), 100)
        await until(lambda: node.said() == [[("Started", 1), ("Started", 2), ("Started", 3)]])
        await until(lambda: not node.is_gathering)
        node.kills(1)
        await until(lambda: len(node.said()) == 2)
        assert ("Exited", 1) in node.said()[1]
        node.kills(2)
        node.kills(3)
        await until(lambda: all(child.status() == psutil.STATUS_ZOMBIE for child in node.sleeping()))
        assert len(node.sleeping()) == 2 and len(node.said()) == 2, "their ends are still to be told"
        for child in node.sleeping():
            os.waitpid(child.pid, 0)

    on_a_node(tmp_path, test)
