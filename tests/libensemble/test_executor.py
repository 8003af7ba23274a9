"""BalsamExecutor.submit and the allocations: what is sent, and what is refused before anything is."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
from libensemble.comms.comms import QComm
from libensemble.executors.executor import Executor, ExecutorException
from libensemble.message_numbers import MAN_SIGNAL_KILL, STOP_TAG, WORKER_DONE

from balsam import api
from balsam.libensemble import BalsamExecutor, BalsamTask, executor
from tests.libensemble.conftest import Hello
from tests.libensemble.fake_job import FakeBatchJob, FakeJob

Submit = Callable[..., BalsamTask]


def test_the_page_s_submission_becomes_a_job(exctr: BalsamExecutor) -> None:
    task = exctr.submit(app_name="hello", app_args={"my_name": "World"}, num_procs=4, num_nodes=1, procs_per_node=4)
    sent = task.process.fields
    assert sent["app_id"] is Hello
    assert sent["parameters"] == {"my_name": "World"}
    assert (sent["num_nodes"], sent["ranks_per_node"], sent["node_packing_count"], sent["gpus_per_rank"]) == (
        1,
        4,
        1,
        0,
    )
    assert (sent["tags"], sent["launch_params"], sent["transfers"]) == ({}, {}, {})
    assert task.runline == "/path/to/hello.app World"
    assert exctr.get_task(task.id) is task


def test_every_option_reaches_the_job(submitted: Submit) -> None:
    task = submitted(
        num_procs=8,
        num_nodes=2,
        max_tasks_per_node=1,
        gpus_per_rank=2,
        transfers={"result": "client:/tmp/x"},
        workdir="sim3_worker1",
        extra_args={"cpu_bind": "cores", "depth": 4},
        tags={"experiment": 7},
        machinefile="nope",
    )
    sent = task.process.fields
    assert (sent["num_nodes"], sent["ranks_per_node"], sent["node_packing_count"]) == (2, 4, 1)
    assert sent["gpus_per_rank"] == 2
    assert sent["transfers"] == {"result": "client:/tmp/x"}
    assert sent["workdir"] == task.workdir == "libe_workflow/sim3_worker1"
    assert sent["launch_params"] == {"cpu_bind": "cores", "depth": "4"}
    assert sent["tags"] == {"experiment": "7"}


def test_max_tasks_per_node_is_the_packing_count(submitted: Submit) -> None:
    assert submitted(max_tasks_per_node=3).process.fields["node_packing_count"] == 3


def test_values_of_h_become_plain_json(exctr: BalsamExecutor) -> None:
    row = np.zeros(1, dtype=[("x", float, 2), ("n", int), ("name", "U5")])
    row["name"] = "it's"
    for value, plain in ((row["x"][0][0], 0.0), (row["n"][0], 0), (row["x"][0], [0.0, 0.0]), (row["name"][0], "it's")):
        sent = exctr.submit(app_name="hello", app_args={"my_name": value}).process.fields["parameters"]["my_name"]
        assert sent == plain
        assert type(sent) is type(plain)


def test_each_task_has_a_directory_of_its_own(submitted: Submit) -> None:
    first, second = submitted(), submitted()
    assert first.workdir != second.workdir
    assert first.workdir.startswith(f"libe_workflow/{first.name}")


def test_a_directory_may_be_a_path(submitted: Submit) -> None:
    assert submitted(workdir=Path("scan") / "7").workdir == "libe_workflow/scan/7"


def test_defaults_are_not_shared_between_calls(submitted: Submit) -> None:
    first = submitted()
    for name in ("transfers", "tags", "launch_params"):
        first.process.fields[name]["left"] = "behind"
    assert not any(submitted().process.fields[name] for name in ("transfers", "tags", "launch_params"))
    defaults = inspect.signature(BalsamExecutor.submit).parameters.values()
    assert not any(parameter.default for parameter in defaults if isinstance(parameter.default, dict))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"app_name": "nobody", "app_args": {}}, ["nobody", "hello"]),
        ({}, ["app_name", "calc_type"]),
        ({"calc_type": "gen"}, ["gen"]),
        ({"calc_type": "sum"}, ["sum"]),
        ({"app_name": "hello"}, ["my_name", "missing"]),
        ({"app_name": "hello", "app_args": {"my_nam": "x", "my_name": "y", "z": 1}}, ["my_nam", "z", "unknown"]),
        ({"app_name": "hello", "app_args": {"my_name": None}}, ["my_name"]),
        ({"app_name": "hello", "app_args": "my_name=World"}, ["app_args", "dict"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "tags": "kind=a"}, ["tags must be a dict", "'kind=a'"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "extra_args": "-x 1"}, ["extra_args must be a dict"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "transfers": ["in"]}, ["transfers must be a dict"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "num_procs": 5, "num_nodes": 2}, ["num_procs=5"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "max_tasks_per_node": 0}, ["max_tasks_per_node=0"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "workdir": "../up"}, ["'..'"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "workdir": "/tmp/x"}, ["absolute"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "workdir": 3}, ["workdir must be text, not 3"]),
        (
            {"app_name": "hello", "app_args": {"my_name": "x"}, "wait_on_start": "5 s"},
            ["wait_on_start='5 s'", "seconds"],
        ),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "wait_on_start": -1}, ["wait_on_start=-1"]),
        ({"app_name": "hello", "app_args": {"my_name": object()}}, ["my_name", "object"]),
        ({"app_name": "hello", "app_args": {"my_name": [1.0, float("nan")]}}, ["my_name", "nan"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "gpus_per_rank": -1}, ["gpus_per_rank=-1"]),
        ({"app_name": "hello", "app_args": {"my_name": "x"}, "gpus_per_rank": "many"}, ["gpus_per_rank='many'"]),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_wrong_submission_is_refused_before_any_request(
    exctr: BalsamExecutor, options: dict[str, Any], named: list[str], dry_run: bool
) -> None:
    with pytest.raises(ExecutorException) as caught:
        exctr.submit(**options, dry_run=dry_run)
    assert [text for text in named if text not in str(caught.value)] == []
    assert FakeJob.created == []


def test_default_apps_by_calc_type(exctr: BalsamExecutor) -> None:
    assert exctr.submit(calc_type="sim", app_args={"my_name": "x"}).process.fields["app_id"] is Hello
    assert exctr.sim_default_app.pyobj is Hello


class TestRegistration:
    """register_app takes what can run, and says what is missing."""

    def test_the_name_defaults_to_the_program(self, exctr: BalsamExecutor) -> None:
        exctr.register_app(Hello, desc="says hello", precedent="container")
        assert exctr.get_app("/path/to/hello.app").desc == "says hello"
        assert exctr.get_app("/path/to/hello.app").precedent == "container"

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"site": None, "command_template": "echo"}, "no site"),
            ({"site": "here", "command_template": None}, "no command_template"),
            ({"site": "here", "command_template": "echo '{{ name }}'"}, "quotes"),
            ({"site": "here", "command_template": "echo {{ name"}, "without its"),
        ],
    )
    def test_what_can_t_run_is_refused(self, exctr: BalsamExecutor, fields: dict[str, Any], named: str) -> None:
        with pytest.raises(ExecutorException, match=named):
            exctr.register_app(type("Odd", (), fields), app_name="odd")
        assert "odd" not in exctr.apps

    def test_a_program_is_no_app(self, exctr: BalsamExecutor) -> None:
        with pytest.raises(ExecutorException, match="ApplicationDefinition, not '/bin/echo'"):
            exctr.register_app("/bin/echo", app_name="echo")

    def test_an_unknown_calc_type_is_refused(self, exctr: BalsamExecutor) -> None:
        with pytest.raises(ExecutorException, match="sum"):
            exctr.register_app(Hello, app_name="h", calc_type="sum")

    def test_an_instance_stands_for_its_class(self, exctr: BalsamExecutor) -> None:
        class Greeting(api.ApplicationDefinition):
            site = "my-balsam-site"
            command_template = "greet {{ name }}"

        exctr.register_app(Greeting(), app_name="greet")
        assert exctr.submit(app_name="greet", app_args={"name": "you"}).process.fields["app_id"] is Greeting

    def test_declared_parameters_may_have_defaults(self, exctr: BalsamExecutor) -> None:
        class Greeting(Hello):
            command_template = "greet {{ word }} {{ name }}"
            parameters = {"word": {"required": False, "default": "Hi"}}  # noqa: RUF012

        exctr.register_app(Greeting, app_name="greet")
        assert (
            exctr.submit(app_name="greet", app_args={"name": "you all"}, dry_run=True).runline == "greet Hi 'you all'"
        )


class TestDryRun:
    """dry_run shows the run line and needs nobody."""

    def test_the_run_line_is_logged_at_info(
        self, exctr: BalsamExecutor, submitted: Submit, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            task = exctr.submit(app_name="hello", app_args={"my_name": "big World"}, num_procs=4, dry_run=True)
        assert "Runline: /path/to/hello.app 'big World' (4 ranks" in caplog.text
        assert (task.dry_run, task.done(), task.state, task.process) == (True, True, "FINISHED", None)
        task.wait(), task.kill()
        assert FakeJob.created == []


class TestWaitOnStart:
    """wait_on_start blocks until running or ended, a number of seconds at most."""

    @pytest.mark.parametrize("state", ["RUNNING", "JOB_FINISHED", "FAILED"])
    def test_blocks_until_started(self, submitted: Submit, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
        monkeypatch.setattr(FakeJob, "save", lambda self: self.will(0.1, state=state))
        begin = time.monotonic()
        task = submitted(wait_on_start=True)
        assert 0.1 <= time.monotonic() - begin < 1
        assert task.state in ("RUNNING", "FINISHED", "FAILED")

    def test_a_number_bounds_the_wait(self, submitted: Submit, caplog: pytest.LogCaptureFixture) -> None:
        begin = time.monotonic()
        task = submitted(wait_on_start=1)
        assert 1 <= time.monotonic() - begin < 1.5
        assert (task.state, task.finished) == ("WAITING", False)
        assert "did not start within 1 seconds" in caplog.text

    def test_the_manager_s_kill_ends_the_wait(self, exctr: BalsamExecutor, submitted: Submit) -> None:
        """A worker that is a thread can't be ended otherwise, and then the ensemble could not end either."""
        manager_end, worker_end = Queue[Any](), Queue[Any]()
        exctr.comm = QComm(manager_end, worker_end, 1)
        ask = threading.Timer(0.2, manager_end.put, [(STOP_TAG, MAN_SIGNAL_KILL)])
        ask.start()
        task = submitted(wait_on_start=20)
        ask.join()
        assert not task.finished and time.monotonic() - task._submitted_at < 10
        assert exctr.manager_kill_received()  # the user function still learns of it


class TestAllocations:
    """submit_allocation and revoke_allocation."""

    @pytest.fixture
    def batch_jobs(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        created: list[dict[str, Any]] = []

        class Objects:
            @staticmethod
            def create(**fields: Any) -> FakeBatchJob:
                created.append(fields)
                return FakeBatchJob()

        monkeypatch.setattr(executor, "BatchJob", type("BatchJob", (), {"objects": Objects}))
        return created

    def revoked(self, monkeypatch: pytest.MonkeyPatch, allocation: FakeBatchJob, timeout: float) -> bool:
        objects = type("Objects", (), {"get": staticmethod(lambda id: allocation)})
        monkeypatch.setattr(executor, "BatchJob", type("BatchJob", (), {"objects": objects}))
        return BalsamExecutor().revoke_allocation(allocation, timeout=timeout)

    def test_the_page_s_allocation(self, exctr: BalsamExecutor, batch_jobs: list[dict[str, Any]]) -> None:
        made = exctr.submit_allocation(
            site_id=999, num_nodes=4, wall_time_min=30, queue="debug-queue", project="my-project"
        )
        assert exctr.allocations == [made]
        assert batch_jobs == [
            {
                "site_id": 999,
                "num_nodes": 4,
                "wall_time_min": 30,
                "job_mode": "mpi",
                "queue": "debug-queue",
                "project": "my-project",
                "optional_params": {},
                "filter_tags": {},
                "partitions": None,
            }
        ]

    @pytest.mark.parametrize("name", ["optional_params", "filter_tags"])
    def test_what_is_no_dict_is_named(self, exctr: BalsamExecutor, batch_jobs: list[dict[str, Any]], name: str) -> None:
        with pytest.raises(ExecutorException, match=f"{name} must be a dict, not 'kind=a'"):
            exctr.submit_allocation(site_id=1, num_nodes=1, wall_time_min=1, **{name: "kind=a"})
        assert batch_jobs == []

    @pytest.mark.parametrize("partitions", [{"job_mode": "mpi", "num_nodes": 1}, ["mpi:1"], "mpi:1"])
    def test_partitions_that_are_none_are_shown(self, exctr: BalsamExecutor, partitions: Any) -> None:
        with pytest.raises(ExecutorException, match=r"partitions must be a list of dicts, not .*mpi"):
            exctr.submit_allocation(site_id=1, num_nodes=1, wall_time_min=1, partitions=partitions)

    def test_numbers_are_text_for_the_template_as_in_tags(
        self, exctr: BalsamExecutor, batch_jobs: list[dict[str, Any]]
    ) -> None:
        exctr.submit_allocation(1, 2, 3, optional_params={"gpus": 4}, filter_tags={"run": 7})
        assert (batch_jobs[0]["optional_params"], batch_jobs[0]["filter_tags"]) == ({"gpus": "4"}, {"run": "7"})

    def test_partitions_and_filters_are_passed(self, exctr: BalsamExecutor, batch_jobs: list[dict[str, Any]]) -> None:
        part = {"job_mode": "serial", "num_nodes": 1, "filter_tags": {"a": "b"}}
        exctr.submit_allocation(1, 2, 3, "serial", "q", "p", {"shout": "yes"}, {"x": "y"}, [part, part])
        sent = batch_jobs[0]
        assert (sent["job_mode"], sent["optional_params"], sent["filter_tags"]) == (
            "serial",
            {"shout": "yes"},
            {"x": "y"},
        )
        assert sent["partitions"] == [part, part]

    @pytest.mark.parametrize("state", ["pending_submission", "queued", "running"])
    def test_revoke_returns_true_once_it_is_over(self, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
        allocation = FakeBatchJob(state, None if state == "pending_submission" else "7")
        assert self.revoked(monkeypatch, allocation, timeout=5) is True
        assert (allocation.cancels, allocation.state) == (1, "finished")

    def test_revoke_of_one_that_is_over_asks_for_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        allocation = FakeBatchJob("finished")
        assert self.revoked(monkeypatch, allocation, timeout=5) is True
        assert allocation.cancels == 0

    @pytest.mark.parametrize("allocation", [None, 7])
    def test_revoke_of_what_is_no_allocation_is_refused(self, allocation: object) -> None:
        with pytest.raises(ExecutorException, match=f"allocation is {allocation}; give the BatchJob"):
            BalsamExecutor().revoke_allocation(allocation)

    def test_revoke_at_a_site_that_is_away_warns_and_returns_false(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        begin = time.monotonic()
        assert self.revoked(monkeypatch, FakeBatchJob(obeys_after=None), timeout=0.2) is False
        assert 0.2 <= time.monotonic() - begin < 1
        assert "within 0.2 seconds" in caplog.text

    def test_revoke_gives_up_on_a_service_that_does_not_answer(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        allocation, back = FakeBatchJob(), threading.Event()
        slow = lambda: back.wait(20) and allocation.__dict__.update(state="pending_deletion")  # noqa: E731
        monkeypatch.setattr(allocation, "cancel", slow)
        assert self.revoked(monkeypatch, allocation, timeout=0.2) is False
        assert "in the background" in caplog.text
        back.set()
        deadline = time.monotonic() + 5
        while allocation.state != "pending_deletion" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert allocation.state in ("pending_deletion", "finished")

    def test_revoke_says_what_went_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        allocation = FakeBatchJob()
        monkeypatch.delattr(FakeBatchJob, "cancel")
        with pytest.raises(AttributeError, match="cancel"):
            self.revoked(monkeypatch, allocation, timeout=5)


def test_base_class_services_work(exctr: BalsamExecutor, submitted: Submit) -> None:
    exctr.serial_setup()
    exctr.add_app("hello", "world")
    exctr.set_resources(None)
    exctr.add_platform_info({})
    exctr.set_worker_info(None, 3)
    assert Executor.executor is exctr
    task = submitted()
    assert "_worker3_" in task.name
    task.process.will(0.05, state="JOB_FINISHED", return_code=0)
    assert exctr.polling_loop(task, delay=0.01) == WORKER_DONE
    exctr.kill(submitted())


def test_fakes_offer_nothing_that_the_sdk_lacks() -> None:
    for fake, real in ((FakeJob, api.Job), (FakeBatchJob, api.BatchJob)):
        own = {"created", "will"}
        offered = {name for name in vars(fake) if not name.startswith("_")} - own
        assert sorted(name for name in offered if not hasattr(real, name)) == []
    for name in ("id", "state", "return_code", "started_at", "ended_at", "workdir"):
        assert hasattr(api.Job, name) or name in getattr(api.Job, "__annotations__", {})
