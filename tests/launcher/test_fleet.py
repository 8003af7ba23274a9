"""The loop's side of several nodes, with a hub that the test plays: what is sent, and when a Job counts as lost."""

import json
import os
import select
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.job import Resources
from balsam.domain.packing import NodeShare, Placement
from balsam.launcher import loop as loop_module
from balsam.launcher.apps import AppShelf
from balsam.launcher.config import LauncherConfig
from balsam.launcher.fleet import LATE_SEC, NODE_LEASE_SEC, NODE_MARGIN_SEC, Fleet
from balsam.launcher.loop import Loop
from balsam.launcher.machine_messages import (
    Checkpoint,
    CheckpointAsked,
    Drain,
    Exited,
    Gone,
    Input,
    LaunchJob,
    Lost,
    NodeDown,
    NodeUp,
    Signal,
    Start,
    Started,
)
from balsam.launcher.node_messages import (
    BadMessage,
    Told,
    decode,
    encode,
    input_of,
    of_input,
    of_signal,
    of_start,
    signal_of,
    start_of,
)
from balsam.launcher.partition import Partition, PartitionNode
from balsam.launcher.process import SpawnError
from balsam.launcher.spreading import SpreadError
from balsam.launcher.wiring import Parts, build_parts
from balsam.launcher.workdir import DataRoot
from balsam.testing.clock import FakeClock
from balsam.wire.apps import AppSync

SAFE_SEC = NODE_LEASE_SEC + NODE_MARGIN_SEC


class PlayedHub:
    """The lines that the fleet sent, and a pipe that makes it look for those which the test gives."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_NONBLOCK)
        self.sent: list[bytes] = []
        self.lines: list[bytes] | None = []
        self.wants_to_send = False

    def fileno(self) -> int:
        return self.read

    def send_line(self, line: bytes) -> None:
        self.sent.append(line)

    def flush(self) -> None:
        return

    def receive_lines(self) -> list[bytes] | None:
        lines, self.lines = self.lines, []
        return lines


class Bench:
    def __init__(self) -> None:
        self.hub = PlayedHub()
        self.epoll = select.epoll()
        self.clock = FakeClock()
        self.inputs: list[Input] = []
        self.shelf = AppShelf()
        sync = AppSync(site_id=1, name="App", command_template="/bin/true")
        view = {"id": 7, "content_hash": sync.spec().content_hash, "synced_at": "2026-01-01T00:00:00Z"}
        self.shelf.add({**sync.model_dump(mode="json"), **view})
        self.fleet = Fleet(
            self.epoll, self.partition(), self.shelf, "a", 9999.0, self.clock, self.inputs, lambda argv: self.hub  # type: ignore[arg-type, return-value]
        )  # fmt: skip
        self.inputs.clear()
        self.hub.sent.clear()

    def partition(self, directory: str = "/nowhere") -> Partition:
        paths = dict.fromkeys(("site_path", "data_path", "directory", "credentials_path"), directory)
        nodes = tuple(PartitionNode(f"n{number}", (0, 1), is_here=number == 0) for number in range(2))
        return Partition(LauncherConfig(site_id=1, compute_node="slurm", **paths), 0, True, nodes, 3600.0, {})

    def close(self) -> None:
        self.epoll.close()
        os.close(self.hub.read)
        os.close(self.hub.write)

    def says(self, node: int | str, *messages: Any) -> list[Input]:
        """A node, or the hub, says this; what the machine hears of it."""
        self.hub.lines = [f"{node}\t".encode() + encode(list(messages))]
        assert self.fleet.heard(self.hub.fileno())
        return self.heard()

    def heard(self) -> list[Input]:
        heard = self.inputs.copy()
        self.inputs.clear()
        return heard

    def after(self, seconds: float) -> list[Input]:
        """Time goes on."""
        self.clock.advance(seconds)
        self.fleet.sweep(self.clock.monotonic())
        return self.heard()

    def sent(self) -> list[tuple[int, dict[str, Any]]]:
        self.fleet.flush()
        lines = [line.split(b"\t", 1) for line in self.hub.sent]
        self.hub.sent.clear()
        return [(int(node), message) for node, data in lines for message in decode(data)]

    def renewed(self, node: int) -> None:
        self.says(node, {"is": "renew", "at": 5.0})

    def start(self, job_id: int, node: int) -> None:
        job = LaunchJob(job_id, 7, 1, 1, f"w{job_id}", Resources(), {"x": 1})
        self.fleet.start(Start(job, Placement((NodeShare(node, (0,), ()),), job.resources)))


@pytest.fixture
def bench() -> Any:
    made = Bench()
    yield made
    made.close()


def test_a_job_there_and_back(bench: Bench) -> None:
    """The definition of an App goes once to each node; what happens comes back in the machine's words."""
    assert bench.says(1, {"is": "up"}) == [NodeUp(1)]
    bench.start(1, 1)
    bench.start(2, 1)
    (node, first), (_, second) = bench.sent()
    assert node == 1 and first["app"]["name"] == "App" and "app" not in second
    order = start_of(json.loads(json.dumps(first)))
    assert (order.job.id, order.job.parameters, order.placement.shares[0].node) == (1, {"x": 1}, 1)
    said = [Started(1), Exited(1, 137, "SIGKILL", "out", None, True), Gone(1)]
    assert bench.says(1, *map(of_input, said)) == said
    assert bench.says(1, of_input(Gone(1))) == [], "it is not there any more"
    bench.fleet.signal(Signal(1, True, 0.0))
    bench.fleet.signal(Signal(2, False, bench.clock.monotonic() + 3))
    ((_, message),) = bench.sent()
    assert signal_of(message, 100.0) == Signal(2, False, pytest.approx(103.0))
    assert bench.says(1, of_input(Drain("SIGTERM"))) == [Drain("SIGTERM")]


@pytest.mark.parametrize("more", [(), ({"x": [1]}, {"k": "v"}, {"t": "u"}, {"d": None}, (7, 8))])
def test_a_job_crosses_as_it_is(more: tuple[Any, ...]) -> None:
    """With the values that are as always, and with others."""
    job = LaunchJob(1, 2, 3, 4, "a/b", Resources(1, 2, 3, 2, 0.5, 2, 5), *more)
    order = Start(job, Placement((NodeShare(1, (0, 3), ("1",)),), job.resources, oversubscribed=True))
    (message,) = decode(encode([of_start(order, None)]))
    assert start_of(message) == order


@pytest.mark.parametrize(
    "said", [Exited(1, 0), Exited(1, 3, "", "why", {"error": {}}), Exited(1, 137, out_of_memory=True), Drain("")]
)
def test_what_happened_crosses_as_it_is(said: Told) -> None:
    (message,) = decode(encode([of_input(said)]))
    assert input_of(message) == said


def test_a_job_is_asked_for_a_checkpoint_where_it_runs(bench: Bench) -> None:
    bench.says(1, {"is": "up"})
    bench.start(5, 1)
    bench.sent()
    bench.fleet.checkpoint(Checkpoint(5))
    bench.fleet.checkpoint(Checkpoint(6))
    assert bench.sent() == [(1, {"do": "checkpoint", "job_id": 5})]
    assert bench.says(1, {"is": "CheckpointAsked", "job_id": 5}) == [CheckpointAsked(5)]


def test_unreachable_is_not_dead(bench: Bench) -> None:
    """S6: a Job is given up only when the lease that its node was last granted has run out."""
    bench.says(1, {"is": "up"})
    bench.renewed(1)
    bench.start(1, 1)
    bench.after(30)
    bench.renewed(1)
    assert bench.says(1, {"is": "down"}) == [NodeDown(1)]
    assert bench.after(SAFE_SEC - 1) == []
    assert bench.fleet.due() == pytest.approx(bench.clock.monotonic() + 1)
    (lost,) = bench.after(1.1)
    assert isinstance(lost, Lost) and lost.job_id == 1 and "n1" in lost.reason
    assert bench.says(1, of_input(Exited(1, 0)), of_input(Gone(1))) == [], "S6: it was given up"


def test_a_new_process_of_the_node_proves_that_all_is_gone(bench: Bench) -> None:
    bench.says(1, {"is": "up"})
    bench.start(1, 1)
    bench.sent()
    bench.says(1, {"is": "down"})
    up = bench.says(1, {"is": "up"})
    assert [type(said) for said in up] == [Lost, NodeUp]
    bench.start(2, 1)
    ((_, message),) = bench.sent()
    assert "app" in message, "the new process was sent no definition yet"


def test_orders_for_a_node_that_is_away_are_not_kept(bench: Bench) -> None:
    bench.says(1, {"is": "up"})
    bench.start(1, 1)
    bench.says(1, {"is": "down"})
    assert bench.sent() == []
    bench.says(1, {"is": "up"})
    assert bench.sent() == []


def test_the_lease_of_a_node_ends_with_the_launchers_own(bench: Bench) -> None:
    """S6: and it counts from when the node asked, on the node's clock."""
    bench.says(1, {"is": "up"})
    bench.renewed(1)
    assert bench.sent() == [(1, {"do": "lease", "at": 5.0, "for_sec": NODE_LEASE_SEC})]
    bench.fleet.lease(bench.clock.monotonic() + 10)
    bench.renewed(1)
    ((_, lease),) = bench.sent()
    assert lease["for_sec"] == pytest.approx(10)


def test_no_node_is_left(bench: Bench) -> None:
    bench.says("-", {"is": "spread_over", "how": "exit code 1"})
    bench.after(LATE_SEC - 1)
    assert not bench.fleet.failed
    bench.after(1.1)
    assert "no node" in bench.fleet.failed


def test_the_last_node_has_time_to_come_back(bench: Bench) -> None:
    bench.says(0, {"is": "up"})
    bench.says(0, {"is": "down"})
    bench.after(SAFE_SEC - 1)
    assert not bench.fleet.failed
    bench.says(0, {"is": "up"})
    bench.after(SAFE_SEC - 1)
    bench.renewed(0)
    bench.after(SAFE_SEC - 1)
    assert not bench.fleet.failed


def test_a_hub_that_is_frozen(bench: Bench) -> None:
    """S6: it takes the leases of all nodes with it; the launcher ends, and it with the launcher, before anything runs
    again."""
    bench.says(0, {"is": "up"})
    bench.renewed(0)
    bench.start(1, 0)
    bench.after(SAFE_SEC - 1)
    assert not bench.fleet.failed and bench.fleet.due() == bench.clock.monotonic() + 1
    assert bench.after(1) == [], "its Jobs are the next launcher's to give up, once it has ended the hub"
    assert "the hub has said nothing" in bench.fleet.failed


def test_a_hub_that_fails_or_is_gone(bench: Bench) -> None:
    bench.says("-", {"is": "failed", "reason": "no srun"})
    assert bench.fleet.failed == "no srun"
    bench.hub.lines = None
    assert bench.fleet.heard(bench.hub.fileno())
    assert bench.fleet.failed == "the hub is gone"


def test_a_node_that_talks_nonsense_is_left_out(bench: Bench) -> None:
    bench.says(1, {"is": "up"})
    assert bench.says(1, {"is": "Gone"}) == [NodeDown(1)]
    bench.says(1, {"is": "up"})
    assert bench.says(1, {"is": "Granted", "acquire_seq": 1, "jobs": []}) == [NodeDown(1)]


def test_an_earlier_launcher_is_over_when_all_nodes_are_there_or_late(bench: Bench) -> None:
    """S6: a node that does not come may be cut off, with Jobs of the launcher that died before this one."""
    assert not bench.fleet.is_settled
    bench.says(0, {"is": "up"})
    bench.after(SAFE_SEC - 1)
    assert not bench.fleet.is_settled and bench.fleet.due() is not None
    bench.after(1.1)
    assert bench.fleet.is_settled
    other = Bench()
    other.says(0, {"is": "up"})
    other.says(1, {"is": "up"})
    assert other.fleet.is_settled
    other.says(0, {"is": "down"})
    assert other.fleet.is_settled, "what was seen gone does not come back"
    other.close()


def test_a_launcher_that_must_not_report_yet_sleeps_meanwhile(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S6: one that was started again waits for every node of the first; its courier is due all the while."""
    monkeypatch.setenv(loop_module.RESTART_ENV, "1")
    monkeypatch.setattr(loop_module, "_take_signals", lambda: bench.hub.write)
    partition = bench.partition(str(tmp_path))
    parts = Parts(None, bench.shelf, DataRoot(tmp_path))  # type: ignore[arg-type]
    made: list[str] = []

    def courier(errand: dict[str, Any]) -> Any:
        made.append("courier")
        raise SpawnError("enough seen")

    loop = Loop(partition, parts, courier, None, "a", 9999.0, bench.clock, lambda argv: bench.hub)  # type: ignore[arg-type, return-value]
    loop._let_decide(0.0)
    assert loop._patience() == SAFE_SEC
    os.write(bench.hub.write, b".")
    bench.hub.lines = [f"{node}\t".encode() + encode([{"is": "up"}]) for node in range(2)]
    loop._turn()
    assert made == ["courier"]
    loop._epoll.close()


@pytest.mark.parametrize("data", [b"{", b"{}", b"[1]", b"\xff"])
def test_what_is_no_list_of_messages(data: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(data)


def test_a_message_of_another_version() -> None:
    with pytest.raises(BadMessage):
        input_of({"is": "Gone", "job_id": 1, "since": 3})
    with pytest.raises(BadMessage):
        input_of({"is": "Gone", "of": 1})
    assert of_signal(Signal(1, True, 5.0), 2.0)["in_sec"] == 3.0


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = dict.fromkeys(("site_path", "data_path", "directory", "credentials_path"), str(tmp_path))
    config = LauncherConfig(site_id=1, compute_node="slurm", **paths)
    partition = Partition(
        config, 0, True, (PartitionNode("n1", (0,)), PartitionNode("n2", (0,), is_here=False)), 60.0, {}
    )
    with pytest.raises(SpreadError, match="srun in an allocation of Slurm"):
        build_parts(partition, {"PATH": "/nowhere"}, "a")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"openbalsam\[dask\]"):
        build_parts(partition, {"PATH": "/nowhere"}, "a")


def test_under_other_batch_systems_each_job_has_its_mpiexec() -> None:
    paths = dict.fromkeys(("site_path", "data_path", "directory", "credentials_path"), "/nowhere")
    nodes = (PartitionNode("n1", (0,)), PartitionNode("n2", (0,), is_here=False))
    assert not Partition(LauncherConfig(site_id=1, compute_node="pbs", **paths), 0, True, nodes, 60.0, {}).is_spread
    assert not Partition(LauncherConfig(site_id=1, compute_node="slurm", **paths), 0, False, nodes, 60.0, {}).is_spread
