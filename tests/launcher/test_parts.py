"""The launcher's smaller parts by themselves: settings, environment, work directories, failures to start, reports."""

import json
import os
import select
import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from balsam.client.outbox import Outbox, OutboxError, outbox_path
from balsam.domain.clock import SystemClock
from balsam.domain.job import Resources
from balsam.domain.packing import Node, NodePool
from balsam.domain.template import CommandTemplate
from balsam.launcher import line_link
from balsam.launcher import reports as reports_module
from balsam.launcher import starter as starter_module
from balsam.launcher.apps import AppShelf, RunnableApp
from balsam.launcher.call_files import CallFiles, Left
from balsam.launcher.config import LauncherConfig, LauncherConfigError
from balsam.launcher.courier import Courier, Packed
from balsam.launcher.engines.base import NotLaunchable, Words, argv_of
from balsam.launcher.engines.local import LocalEngine
from balsam.launcher.environment import JobEnvironment
from balsam.launcher.guardian_link import LINK_ENV
from balsam.launcher.job_queue import JobQueue
from balsam.launcher.line_link import LineLink
from balsam.launcher.machine_messages import LaunchJob, Outcome, Record
from balsam.launcher.main import make_partitions, parse_arguments
from balsam.launcher.partition import Partition, PartitionNode
from balsam.launcher.plans import CommandPlan, NotStarted, Planner, WorkerPlan
from balsam.launcher.process import SpawnError, close_child, kill
from balsam.launcher.reports import MOST_WAITING, PACE_SEC, TRY_AGAIN_SEC, Reports
from balsam.launcher.starter import Starter
from balsam.launcher.workdir import DataRoot, WorkdirError, keep_earlier_output
from balsam.launcher.workers import Worker, WorkerKey, Workers
from balsam.platform.node.gpus import GpuVendor
from balsam.worker.protocol import take_answer
from tests.launcher.conftest import files_left

CONFIG = LauncherConfig(1, "/site", "/site/data", "/site/qsubmit/b", "/site/qsubmit/b/credentials.json", 2)


def launch_job(number: int = 1, **given: Any) -> LaunchJob:
    return LaunchJob(number, 1, 1, 1, f"job{number}", Resources(**given))


# Settings


def test_config_comes_back_as_it_went() -> None:
    assert LauncherConfig.from_json(CONFIG.to_json()) == CONFIG
    part = Partition(CONFIG, 3, True, (PartitionNode("n", (0, 1), ("0",), GpuVendor.AMD),), 600.0, {"a": "b"})
    assert Partition.from_json(part.to_json()) == part


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown": 1}, "unknown field 'unknown'"),
        ({"num_nodes": "2"}, "num_nodes is '2'; it must be int"),
        ({"num_nodes": True}, "num_nodes is True"),
        ({"idle_ttl_sec": -1}, "must not be negative"),
        ({"pinned_apps": [1]}, "pinned_apps must be a list of texts"),
        ({"lease_kind": "forever"}, "not a valid LeaseKind"),
        ({"data_path": "data"}, "data_path must be an absolute path"),
    ],
)
def test_bad_config_names_the_field(change: dict[str, Any], message: str) -> None:
    text = json.dumps({**json.loads(CONFIG.to_json()), **change})
    with pytest.raises(LauncherConfigError, match=message):
        LauncherConfig.from_json(text)


def test_missing_and_unreadable_config(tmp_path: Path) -> None:
    with pytest.raises(LauncherConfigError, match="site_id"):
        LauncherConfig.from_json("{}")
    with pytest.raises(LauncherConfigError, match="can't be read"):
        LauncherConfig.read(tmp_path / "absent")


@pytest.mark.parametrize(("wall_time_sec", "margin", "grace"), [(3600, 120, 10), (600, 60, 10), (60, 6, 2)])
def test_margin_leaves_time_to_kill_and_to_report(wall_time_sec: float, margin: float, grace: float) -> None:
    part = Partition(CONFIG, 0, False, (), wall_time_sec, {})
    assert (part.margin_sec, part.drain_grace_sec) == (margin, grace)
    assert part.machine_settings(1000.0).drain_at == 1000.0 - margin


def test_partitions_take_nodes_in_order() -> None:
    words = ["--config", "/c", "-j", "mpi", "-t", "30", "-p", "mpi:2:a=1:b=2", "-p", "serial:1"]
    line = parse_arguments(words)
    config = LauncherConfig(1, "/s", "/s/d", "/s/q", "/s/c", num_nodes=4, node_cpus=8)
    parts = make_partitions(line, config, {"PATH": ""})
    assert [(part.index, part.serial, len(part.nodes), dict(part.filter_tags)) for part in parts] == [
        (0, False, 2, {"a": "1", "b": "2"}),
        (1, True, 1, {}),
    ]
    names = [node.name for part in parts for node in part.nodes]
    assert len(set(names)) == 3


def test_max_concurrent_mpiruns_is_no_limit_of_serial_jobs() -> None:
    config = LauncherConfig(1, "/s", "/s/d", "/s/q", "/s/c", num_nodes=2, node_cpus=8, max_concurrent_mpiruns=2)
    line = parse_arguments(["--config", "/c", "-j", "mpi", "-t", "5", "-p", "mpi:1", "-p", "serial:1"])
    mpi, serial = (part.machine_settings(1000.0) for part in make_partitions(line, config, {"PATH": ""}))
    assert mpi.most_running == 2
    assert serial.most_running > 1_000_000


def test_a_partition_takes_the_tags_of_its_batch_job_and_its_own_value_stands() -> None:
    words = [
        "--config",
        "/c",
        "-j",
        "mpi",
        "-t",
        "30",
        "--tag=set=a",
        "--tag=x=1:2",
        "-p",
        "mpi:1",
        "-p",
        "serial:1:x=3:y=4",
    ]
    assert [dict(part.filter_tags) for part in parse_arguments(words).slices] == [
        {"set": "a", "x": "1:2"},
        {"set": "a", "x": "3", "y": "4"},
    ]


def test_tags_of_the_only_partition() -> None:
    line = parse_arguments(["--config", "/c", "-j", "serial", "-t", "5", "--tag", "a=1", "--tag", "b=x=y"])
    assert (line.wall_time_sec, line.slices[0].filter_tags) == (300.0, {"a": "1", "b": "x=y"})


# Environment and engines


def environment_of(job: LaunchJob, environ: dict[str, str], app: dict[str, str], **node: Any) -> dict[str, str]:
    pool = NodePool.of([Node("n", (0, 1, 2, 3), node.get("gpu_ids", ()))])
    placement = pool.place(job.resources)
    assert placement is not None
    made = JobEnvironment(environ, "alloc", [node.get("vendor")], serial=False)
    return {**made.base, **made.of_job(job, placement, app)}


def test_environment_hides_secrets_and_rank_numbers() -> None:
    environ = {
        "BALSAM_TOKEN": "x", "BALSAM_URL": "x", "BALSAM_CLIENT_PATH": "x", LINK_ENV: "4,5", "PMI_RANK": "3",
        "BALSAM_ALLOCATION_END": "1", "HOME": "/h", "BALSAM_HOME": "/b",
    }  # fmt: skip
    made = environment_of(launch_job(), environ, {})
    assert made == {
        "HOME": "/h", "BALSAM_HOME": "/b", "BALSAM_ALLOCATION": "alloc", "BALSAM_JOB_MODE": "mpi", "BALSAM_JOB_ID": "1",
        "BALSAM_ATTEMPT": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def test_apps_variables_win_but_not_over_the_marks() -> None:
    made = environment_of(launch_job(), {"A": "1"}, {"A": "2", "OMP_NUM_THREADS": "7", "BALSAM_JOB_ID": "99"})
    assert (made["A"], made["OMP_NUM_THREADS"], made["BALSAM_JOB_ID"]) == ("2", "7", "1")


def test_gpus_of_a_job_are_the_only_ones_it_sees() -> None:
    job = launch_job(ranks_per_node=2, gpus_per_rank=1)
    given = {"CUDA_VISIBLE_DEVICES": "0,1,2", "ZE_AFFINITY_MASK": "3,4,5"}
    made = environment_of(job, given, {}, gpu_ids=("0", "1", "2"), vendor=GpuVendor.NVIDIA)
    assert (made["CUDA_VISIBLE_DEVICES"], made["CUDA_DEVICE_ORDER"]) == ("0,1", "PCI_BUS_ID")
    assert made["ZE_AFFINITY_MASK"] == "3,4"


def test_a_shell_is_used_where_it_makes_a_difference() -> None:
    rendered = CommandTemplate.parse("cat {{ x }}").render({"x": "a b"})
    assert argv_of(rendered, True, {}) == ("cat", "a b")
    assert argv_of(rendered, False, {}) == ("bash", "-c", "cat 'a b'")
    assert JobEnvironment({"BASH_ENV": "/x"}, "a", [], False).shell_hooks
    assert JobEnvironment({"BASH_FUNC_ls%%": "() { :; }"}, "a", [], False).shell_hooks
    assert not JobEnvironment({"BASH": "/x"}, "a", [], False).shell_hooks


def test_serial_mode_refuses_what_needs_an_mpirun() -> None:
    job, placement = launch_job(ranks_per_node=2), NodePool.of([Node("n", (0, 1))]).place(Resources())
    assert placement is not None
    rendered = CommandTemplate.parse("true").render({})
    with pytest.raises(NotLaunchable, match="2 ranks"):
        LocalEngine().words(rendered, job, placement, {}, True)


# Work directories


def test_descent_makes_and_enters(tmp_path: Path) -> None:
    root = DataRoot(tmp_path / "data")
    for is_made in (True, False):
        fd, is_new = root.enter("a/b/c")
        assert is_new is is_made
        assert os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path / "data/a/b/c")
        os.close(fd)


def test_the_data_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "scratch")
    os.close(DataRoot(tmp_path / "data").enter("a")[0])
    assert (tmp_path / "scratch/a").is_dir()


@pytest.mark.parametrize(
    "workdir", ["..", "a/../../b", "/etc", "", "a\0b", "link", "link/x", "file", "file/x", "loop/x"]
)
def test_no_way_out(tmp_path: Path, workdir: str) -> None:
    """S15."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "outside").mkdir()
    (data / "link").symlink_to(tmp_path / "outside")
    (data / "loop").symlink_to("loop")
    (data / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    root = DataRoot(data)
    with pytest.raises(WorkdirError):
        root.enter(workdir)
    assert list((tmp_path / "outside").iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before + 1


def test_tail_is_the_end_of_a_regular_file(tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    (tmp_path / "a").mkdir()
    assert root.tail("a", 10) == root.tail("absent", 10) == ""
    output = tmp_path / "a" / "job.out"
    output.write_bytes(b"one\ntwo\n\xff\0three\n\n")
    assert root.tail("a", 2) == "two\n\ufffd\ufffdthree"
    assert root.tail("a", 0) == ""
    output.write_text("x" * 100_000)
    assert root.tail("a", 2) == "x" * 4096
    output.unlink()
    output.symlink_to("/etc/passwd")
    assert root.tail("a", 2) == ""
    output.unlink()
    os.mkfifo(output)
    assert root.tail("a", 2) == ""


def test_earlier_outputs_get_the_first_free_number(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        keep_earlier_output(fd, 1)
        for attempt in (1, 2, 2):
            (tmp_path / "job.out").write_text(str(attempt))
            keep_earlier_output(fd, attempt)
    finally:
        os.close(fd)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.out.1", "job.out.2", "job.out.3"]


# Failures to start


class _Engine:
    def words(self, *_: object) -> Words:
        return Words(("true",), {})


def make_starter(tmp_path: Path) -> Starter:
    shelf = AppShelf()
    shelf._apps[1] = RunnableApp("A", "0" * 64, CommandTemplate.parse("true {{ x }}"), {"x": "1"}, {}, None)
    calls = CallFiles(tmp_path / "calls")
    environment = JobEnvironment(dict(os.environ), "a", [None], False)
    return Starter(Planner(shelf, environment, _Engine(), calls.path_of, {}), DataRoot(tmp_path), calls)


def start(starter: Starter, job: LaunchJob) -> None:
    plan = starter.plan(job, placement_of(launch_job()))
    assert isinstance(plan, CommandPlan)
    starter.execute(job, plan)


def placement_of(job: LaunchJob) -> Any:
    return NodePool.of([Node("n", (0, 1))]).place(job.resources)


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F10."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    starter = make_starter(tmp_path)
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(NotStarted, match="No space left on device") as caught:
        start(starter, launch_job())
    assert caught.value.return_code == 126


def test_shortage_is_not_the_jobs_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starter = make_starter(tmp_path)

    def refuse(command: object) -> None:
        raise SpawnError("cannot start a process: Resource temporarily unavailable", shortage=True)

    monkeypatch.setattr(starter_module, "spawn", refuse)
    with pytest.raises(SpawnError):
        start(starter, launch_job())


@pytest.mark.parametrize("left", range(9))
def test_too_few_files_are_not_the_jobs_fault(tmp_path: Path, left: int) -> None:
    """Whatever it is that can't be opened: the directory, the output, the channel to a worker, the process."""
    starter, epoll, job = make_starter(tmp_path), select.epoll(), launch_job()
    ended: list[Worker] = []
    workers = Workers(epoll, SystemClock(), lambda *_: None, lambda worker, _: ended.append(worker))
    command = starter.plan(job, placement_of(job))
    assert isinstance(command, CommandPlan)
    call = WorkerPlan(WorkerKey("a", ()), frozenset(), command.env, {"do": "run", "env": {}}, {}, False)
    started: list[Worker] = []
    with files_left(left), suppress(SpawnError):
        child = starter.execute(job, command)
        os.waitpid(child.pid, 0)
        close_child(child)
    with files_left(left), suppress(SpawnError):
        started.append(starter.call(job, call, workers))
    assert started or left < 8
    workers.close()
    while workers._of_fd:
        for fd, _ in epoll.poll(5):
            workers.heard(fd)
    epoll.close()


NO_ANSWERS = [
    *(b"", b"{}", b"[" * 100_000, b'{"code":0,"result":{"value":' + b"[" * 100_000),
    *(b'{"code":0,"prepared":{"get_arg_str":{}}}', b'{"code":0,"prepared":{"get_environ_vars":"A=1"}}'),
    b'{"code":0,"prepared":{"get_environ_vars":{"A":{}}}}',
]


@pytest.mark.parametrize("text", NO_ANSWERS)
def test_what_a_rank_writes_in_the_place_of_an_answer_ends_no_launcher(tmp_path: Path, text: bytes) -> None:
    calls, job = CallFiles(tmp_path / "calls"), launch_job()
    path = calls.path_of(job)
    calls.write(path, {})
    Path(f"{path}.answer").write_bytes(text)
    assert calls.take(path) == Left(None, None, False)
    with pytest.raises(ValueError, match=r"."):
        take_answer(bytearray(len(text).to_bytes(4, "big") + text))


def test_a_lost_directory_of_calls_is_the_end_of_no_launcher(tmp_path: Path) -> None:
    """A shared file system may be away for a moment when the ranks of a Python Job have ended."""
    calls, job = CallFiles(tmp_path / "calls"), launch_job()
    path = calls.path_of(job)
    calls.write(path, {})
    (tmp_path / "calls").rename(tmp_path / "away")
    assert calls.take(path) == Left(None, None, False)


def test_unknown_app_and_missing_parameter(tmp_path: Path) -> None:
    starter = make_starter(tmp_path)
    with pytest.raises(NotStarted, match="sent no definition of App 7"):
        start(starter, LaunchJob(1, 7, 1, 1, "a", Resources()))


# Processes of the launcher's own


def test_one_that_does_not_end_though_it_was_killed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that hangs holds its readers so."""
    with monkeypatch.context() as patch:
        patch.setattr(line_link, "kill", lambda group: None)
        patch.setattr(line_link, "LONGEST_END_SEC", 0.1)
        link = LineLink(["sleep", "5"])
        begun = time.monotonic()
        link.close()
        assert time.monotonic() - begun < 3
    kill(link._child.group)
    os.waitpid(link._child.pid, 0)


# The queue and the reports


def test_queue_keeps_order_over_shapes() -> None:
    queue = JobQueue()
    for number, nodes in ((1, 2), (2, 1), (3, 1), (4, 2)):
        queue.put(launch_job(number, num_nodes=nodes))
    first = queue.next(set(), ())
    assert first is not None
    assert first.job.id == 1
    passed = queue.next({Resources(num_nodes=2).shape}, (2,))
    assert passed is not None
    assert passed.job.id == 3
    queue.put_first(launch_job(5))
    again = queue.next(set(), ())
    assert again is not None
    assert again.job.id == 5
    assert (len(queue), queue.nodes) == (5, 7.0)
    assert queue.take(1) is not None
    assert queue.take(1) is None
    queue.put(launch_job(2))
    assert list(iter(lambda: take_next(queue), None)) == [5, 3, 4, 2]
    assert (len(queue), queue.nodes) == (0, 0)


def test_the_courier_drops_records_over_which_the_loop_died() -> None:
    """S1: they are whole in the outbox, where others find them."""
    taken: SimpleQueue[list[Packed]] = SimpleQueue()
    courier = SimpleNamespace(_records=taken, _open=None, _thread=lambda _: None)
    whole = [b'{"do":"records","count":2}\n', b'{"seq":1}\n', b'{"seq":2}\n']
    Courier.run(courier, iter([*whole, b'{"do":"records","count":1}\n', b'{"seq"']))  # type: ignore[arg-type]
    Courier.run(courier, iter(whole[:2]))  # type: ignore[arg-type]
    assert [packed.record["seq"] for packed in taken.get_nowait()] == [1, 2]
    assert taken.empty()


def take_next(queue: JobQueue) -> int | None:
    waiting = queue.next(set(), ())
    if waiting is None:
        return None
    queue.take(waiting.job.id)
    return waiting.job.id


class _Sent:
    def __init__(self) -> None:
        self.records: list[bytes] = []

    def send_records(self, records: list[bytes]) -> None:
        self.records += records


def test_reports_go_at_once_when_idle_and_paced_when_busy(tmp_path: Path) -> None:
    reports, sent = Reports(Outbox(outbox_path(tmp_path, 1), 1)), _Sent()
    assert reports.due(idle=True) is None
    reports.add(Record(Outcome.STARTED, 1, 1), "t")
    assert reports.due(idle=False) == 0.0
    reports.flush(10.0, sent)  # type: ignore[arg-type]
    reports.add(Record(Outcome.RUN_DONE, 1, 1, 0), "t")
    assert reports.due(idle=False) == 10.0 + PACE_SEC
    assert reports.due(idle=True) == 0.0
    for _ in range(MOST_WAITING):
        reports.add(Record(Outcome.STARTED, 2, 1), "t")
    assert reports.due(idle=False) == 0.0
    assert len(sent.records) == 1
    assert reports.undelivered == MOST_WAITING + 2
    reports.flush(11.0, sent)  # type: ignore[arg-type]
    reports.confirmed({"acked_seq": MOST_WAITING + 2})
    assert reports.undelivered == 0


def test_no_job_starts_while_too_much_is_not_delivered_l2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are kept in memory until the service has them: the machine is told, and told again once some are in."""
    monkeypatch.setattr(reports_module, "MOST_PENDING_BYTES", 1000)
    reports, sent = Reports(Outbox(outbox_path(tmp_path, 1), 1)), _Sent()
    seen = []
    for number in range(1, 5):
        reports.add(Record(Outcome.RUN_DONE, number, 1, 0, result={"value": "x" * 300}), "t")
        reports.flush(float(number), sent)  # type: ignore[arg-type]
        seen.append(reports.works)
    assert seen == [True, True, False, False]
    assert reports.due(idle=True) is None
    reports.confirmed({"acked_seq": 2})
    assert not reports.works
    reports.confirmed({"acked_seq": 3})
    assert reports.works
    assert [json.loads(text)["result"] for text in sent.records] == [{"value": "x" * 300}] * 4


def test_reports_wait_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F10: kept in memory, tried again, in order; nobody is told that they are safe."""
    outbox, sent = Outbox(outbox_path(tmp_path, 1), 1), _Sent()
    reports = Reports(outbox)
    real = Outbox.append

    def refuse(self: Outbox, records: Any) -> list[bytes]:
        raise OutboxError(28, "the disk is full")

    monkeypatch.setattr(Outbox, "append", refuse)
    reports.add(Record(Outcome.STARTED, 1, 1), "t")
    reports.flush(10.0, sent)  # type: ignore[arg-type]
    assert (reports.works, reports.due(idle=True), sent.records) == (False, 10.0 + TRY_AGAIN_SEC, [])
    reports.add(Record(Outcome.RUN_DONE, 1, 1, 0), "t")
    monkeypatch.setattr(Outbox, "append", real)
    reports.flush(11.0, sent)  # type: ignore[arg-type]
    assert reports.works
    assert [json.loads(text)["event"] for text in sent.records] == ["started", "run_done"]
