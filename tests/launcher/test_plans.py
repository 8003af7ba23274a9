"""How Jobs are to be started: tables of Apps and what becomes of them, without a process."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import pytest

from balsam.client.models.application import ApplicationDefinition
from balsam.domain.job import Resources
from balsam.domain.packing import Node, NodePool
from balsam.launcher.apps import AppShelf
from balsam.launcher.engines.base import Engine
from balsam.launcher.engines.local import LocalEngine
from balsam.launcher.engines.mpirun import MpirunEngine
from balsam.launcher.environment import JobEnvironment
from balsam.launcher.machine_messages import LaunchJob
from balsam.launcher.partition import PartitionNode
from balsam.launcher.plans import CommandPlan, NotStarted, Planner, WorkerPlan
from balsam.platform.mpirun.mpich import Mpich
from balsam.platform.node.gpus import GpuVendor
from tests.launcher.fake_service import FakeService

NODE = Node("n", (0, 1, 2, 3), ("0", "1"))


class Runs(ApplicationDefinition):
    def run(self, x: int = 1) -> int:
        return x


class Says(ApplicationDefinition):
    command_template = "env printf {{ word }}"

    def shell_preamble(self) -> str:
        return ""


class Mpi(ApplicationDefinition):
    def run(self) -> Any:
        import mpi4py

        return mpi4py


class Elsewhere(Runs):
    python_exe = "/opt/python"


def mpi_engine(is_here: bool = True, **given: Any) -> Engine:
    return MpirunEngine(
        Mpich("mpiexec", **given), [PartitionNode(NODE.name, NODE.cpu_ids, NODE.gpu_ids, is_here=is_here)]
    )


class Bench:
    def __init__(self, engine: Engine | None = None) -> None:
        shelf, service = AppShelf(), FakeService.__new__(FakeService)
        service.apps = {}
        for number, app in enumerate((Runs, Says, Mpi, Elsewhere), 1):
            service.add_class(app, number)
            shelf.add(service.apps[number])
        environment = JobEnvironment({"HOME": "/h", "PATH": "/bin"}, "alloc", [GpuVendor.NVIDIA], serial=False)
        told = {"site_id": 5, "batch_job_id": 6}
        self.planner = Planner(shelf, environment, engine or mpi_engine(), lambda job: f"/calls/{job.id}", told)

    def plan(self, app: int = 1, prepared: Any = None, **given: Any) -> Any:
        about = {name: given.pop(name) for name in ("parameters", "launch_params", "tags") if name in given}
        job = LaunchJob(3, app, 1, 2, "job3", Resources(**given), **about)
        placement = NodePool.of([NODE]).place(job.resources)
        assert placement is not None
        return self.planner.plan(job, placement, prepared)


@pytest.mark.parametrize("engine", [mpi_engine(), LocalEngine()], ids=["mpi", "serial"])
def test_a_single_rank_goes_to_a_warm_worker(engine: Engine) -> None:
    plan = Bench(engine).plan(parameters={"x": 2}, tags={"a": "b"})
    assert isinstance(plan, WorkerPlan) and not plan.prepares
    assert plan.call["do"] == "run"
    assert plan.call["env"] == {"BALSAM_JOB_ID": "3", "BALSAM_ATTEMPT": "2"}
    facts = plan.call["job"]
    assert (facts["id"], facts["site_id"], facts["batch_job_id"], facts["app_name"]) == (3, 5, 6, "Runs")
    assert (facts["parameters"], facts["tags"], facts["num_nodes"], facts["attempt"]) == ({"x": 2}, {"a": "b"}, 1, 2)
    assert plan.env["HOME"] == "/h" and plan.env["OMP_NUM_THREADS"] == "1"


def test_jobs_share_a_worker_when_all_that_libraries_read_at_load_is_the_same() -> None:
    bench = Bench()
    one = bench.plan()
    assert bench.plan(parameters={"x": 5}, tags={"a": "b"}).key == one.key
    assert bench.plan(threads_per_rank=2).key != one.key
    first = bench.plan(gpus_per_rank=1)
    assert first.key != one.key and first.gpus == {(0, "0")}
    assert bench.plan(gpus_per_rank=1).key == first.key


@pytest.mark.parametrize(
    ("app", "given", "engine"),
    [
        (1, {"ranks_per_node": 2}, None),
        (3, {}, None),
        (4, {}, None),
        (1, {}, mpi_engine(is_here=False)),
    ],
    ids=["ranks", "mpi4py", "python_exe", "another node"],
)
def test_others_get_processes_of_their_own(app: int, given: dict[str, Any], engine: Engine | None) -> None:
    plan = Bench(engine).plan(app, **given)
    assert isinstance(plan, CommandPlan) and plan.call is not None
    words = [*shlex.split(" ".join(plan.argv))]
    python = "/opt/python" if app == 4 else sys.executable
    assert words[-5:] == [python, "-P", "-m", "balsam.worker.once", "/calls/3"]
    assert plan.call_path == "/calls/3" and plan.call["app"]["name"] in ("Runs", "Mpi", "Elsewhere")


def test_an_app_with_methods_is_prepared_first_and_started_by_what_they_say() -> None:
    bench = Bench()
    first = bench.plan(2, parameters={"word": "x"})
    assert isinstance(first, WorkerPlan) and first.prepares
    assert (first.call["do"], first.call["methods"]) == ("prepare", ["shell_preamble"])
    plain = bench.plan(2, {"shell_preamble": ""}, parameters={"word": "it's"})
    assert isinstance(plain, CommandPlan) and plain.argv == ("env", "printf", "it's") and plain.call is None
    sourced = bench.plan(2, {"shell_preamble": "module load x"}, parameters={"word": "it's"})
    assert sourced.argv[:2] == ("bash", "-c")
    assert sourced.argv[2].startswith("module load x\n") and sourced.argv[2].endswith("exec env printf 'it'\"'\"'s'")
    line = bench.plan(2, {"get_arg_str": "echo a | cat"}, parameters={"word": "x"})
    assert line.argv == ("bash", "-c", "echo a | cat")


def test_returned_variables_replace_the_environment_and_the_marks_stay() -> None:
    environ = {"HOME": "/other", "NEW": "1", "BALSAM_JOB_ID": "99"}
    plan = Bench().plan(2, {"get_environ_vars": environ}, parameters={"word": "x"}, ranks_per_node=2)
    assert (plan.env["HOME"], plan.env["NEW"]) == ("/other", "1")
    assert (plan.env["BALSAM_JOB_ID"], plan.env["BALSAM_ATTEMPT"]) == ("3", "2")
    assert "PATH" not in plan.env and "OMP_NUM_THREADS" not in plan.env


def test_launch_params_are_checked_for_python_jobs_too() -> None:
    with pytest.raises(NotStarted, match="'no-such' is not one that mpich takes"):
        Bench().plan(launch_params={"no-such": "1"})
