"""Python Jobs in processes of their own (ranks, MPI, another interpreter), and Apps that say how their Jobs start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from balsam.client.encoding import decode
from balsam.client.models.application import ApplicationDefinition
from tests.launcher.conftest import wait_until
from tests.launcher.fake_service import FakeService
from tests.launcher.pilot import Pilot

pytestmark = pytest.mark.slow


def ended(pilot: Pilot, job_id: int, timeout_sec: float = 60) -> dict[str, Any]:
    service = pilot.service
    wait_until(lambda: len(service.events(job_id)) >= 2, timeout_sec)
    return [record for record in service.records if record["job_id"] == job_id][-1]


def submit(pilot: Pilot, app: Any, count: int = 1, **given: Any) -> list[int]:
    app_id = len(pilot.service.apps) + 1
    pilot.service.add_class(app, app_id)
    return pilot.service.add_jobs(count, app_id, **given)


class Ranks(ApplicationDefinition):
    def run(self, fails: str = "", delay: float = 0.0) -> Any:
        rank = os.environ["BALSAM_RANK"]
        print(f"rank {rank} of {os.environ['BALSAM_SIZE']}", flush=True)
        if rank == fails:
            raise ValueError(f"from rank {rank}")
        time.sleep(delay)
        return int(rank), os.environ["OMP_NUM_THREADS"], os.environ["BALSAM_JOB_ID"]


def test_every_rank_runs_and_the_value_of_rank_0_is_told(pilot: Pilot) -> None:
    (job_id,) = submit(pilot, Ranks, ranks_per_node=3, threads_per_rank=1)
    pilot.start()
    record = ended(pilot, job_id)
    assert (record["event"], decode(record["result"]["value"])) == ("run_done", (0, "1", str(job_id)))
    assert sorted(pilot.output(job_id).splitlines()) == [f"rank {rank} of 3" for rank in range(3)]
    assert list(pilot.directory.glob("calls-0/*")) == []


@pytest.mark.parametrize("fails", ["0", "2"])
def test_an_error_of_any_rank_is_the_jobs(pilot: Pilot, fails: str) -> None:
    (job_id,) = submit(
        pilot, Ranks, ranks_per_node=3, parameters={"fails": fails, "delay": 0.0 if fails == "2" else 60}
    )
    pilot.start()
    record = ended(pilot, job_id)
    assert (record["event"], record["return_code"]) == ("run_error", 1)
    assert record["result"]["error"]["message"] == f"from rank {fails}"


def test_a_killed_one_leaves_nothing_s9(pilot: Pilot, service: FakeService) -> None:
    (job_id,) = submit(pilot, Ranks, ranks_per_node=2, parameters={"delay": 600.0})
    pilot.start()
    wait_until(lambda: pilot.output(job_id).count("rank") == 2, 60)
    service.request_cancel(job_id)
    record = ended(pilot, job_id)
    assert record["event"] == "killed" and "result" not in record
    assert [p for p in pilot.tag.alive() if "balsam.worker" in " ".join(p.cmdline())] == []
    assert list(pilot.directory.glob("calls-0/*")) == []


class Interpreter(ApplicationDefinition):
    def run(self) -> str:
        return sys.executable


def link_to_python(tmp_path: Path) -> Path:
    """This environment's interpreter under another name."""
    path = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    site_packages = path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    own = [entry for entry in sys.path if entry.endswith("site-packages")] + [str(Path(__file__).parents[2] / "src")]
    (site_packages / "here.pth").write_text("\n".join(own))
    return path / "bin" / "python"


def test_python_exe_is_the_interpreter_of_run(pilot: Pilot, tmp_path: Path) -> None:
    class Other(Interpreter):
        python_exe = str(link_to_python(tmp_path))

    (job_id,) = submit(pilot, Other)
    pilot.start()
    record = ended(pilot, job_id)
    assert record.get("result") == {"value": Other.python_exe}, record


@pytest.mark.parametrize("kind", ["bare", "absent", "not python"])
def test_an_interpreter_that_won_t_do_is_named(pilot: Pilot, tmp_path: Path, kind: str) -> None:
    if kind == "bare":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    path = {"bare": str(tmp_path / "bare/bin/python"), "absent": "/no/such/python", "not python": "/bin/false"}[kind]

    class Other(Interpreter):
        python_exe = path

    (job_id,) = submit(pilot, Other)
    pilot.start()
    record = ended(pilot, job_id)
    assert record["event"] == "run_error"
    if kind == "absent":
        assert record["message"] == "/no/such/python: No such file or directory"
    else:
        assert f"{path} did not get to run(); it needs openbalsam" in record["message"]
        assert kind != "bare" or "No module named" in record["message"]


class Mpi(ApplicationDefinition):
    def run(self, fails: int = -1, value: Any = None) -> Any:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        if world.Get_rank() == fails:
            raise ValueError(f"rank {fails} of {world.Get_size()}")
        gathered = world.gather(world.Get_rank() ** 2, root=0)
        world.Barrier()
        return gathered


def test_mpi4py_inside_run_and_the_value_of_rank_0(pilot: Pilot, mpich: Path) -> None:
    (job_id,) = submit(pilot, Mpi, ranks_per_node=3)
    (single,) = submit(pilot, Mpi)
    os.environ["BALSAM_MPIRUN"] = f"mpich:{mpich}"
    try:
        pilot.start(mpirun="auto")
    finally:
        del os.environ["BALSAM_MPIRUN"]
    record = ended(pilot, job_id)
    assert record.get("result") == {"value": [0, 1, 4]}, (record, pilot.said(), pilot.output(job_id))
    assert ended(pilot, single)["result"] == {"value": [0]}


def test_an_mpi_rank_that_raises_ends_the_others_which_wait_for_it(pilot: Pilot, mpich: Path) -> None:
    (job_id,) = submit(pilot, Mpi, ranks_per_node=3, parameters={"fails": 1})
    os.environ["BALSAM_MPIRUN"] = f"mpich:{mpich}"
    try:
        pilot.start(mpirun="auto")
    finally:
        del os.environ["BALSAM_MPIRUN"]
    record = ended(pilot, job_id)
    assert record["event"] == "run_error"
    assert record["result"]["error"]["message"] == "rank 1 of 3"


# Apps that say how their Jobs are started


class Prepared(ApplicationDefinition):
    command_template = "echo {{ word }}"
    environment_variables = {"FROM_APP": "1", "GONE": "1"}  # noqa: RUF012

    def shell_preamble(self) -> list[str]:
        print("in the preamble's method")
        return ["FROM_PREAMBLE=yes", "export FROM_PREAMBLE"]

    def get_environ_vars(self) -> dict[str, str]:
        found = super().get_environ_vars()
        del found["GONE"]
        return {**found, "FROM_METHOD": self.job.workdir}

    def get_arg_str(self) -> str:
        return super().get_arg_str() + '; echo "$FROM_APP,$FROM_METHOD,$FROM_PREAMBLE,$GONE,$BALSAM_JOB_ID,$HOME"'


@pytest.mark.parametrize("ranks", [1, 2])
def test_methods_say_how_the_command_is_started(pilot: Pilot, ranks: int) -> None:
    (job_id,) = submit(pilot, Prepared, parameters={"word": "it's"}, ranks_per_node=ranks)
    pilot.start()
    assert ended(pilot, job_id)["event"] == "run_done", pilot.output(job_id)
    line = f"1,job{job_id},yes,,{job_id},{os.environ['HOME']}"
    lines = pilot.output(job_id).splitlines()
    assert sorted(lines) == sorted(["in the preamble's method", *["it's", line] * ranks])
    assert not (pilot.data / f"job{job_id}" / "job.out.1").exists()


def test_a_preamble_is_there_for_run_too(pilot: Pilot) -> None:
    class Module(ApplicationDefinition):
        def shell_preamble(self) -> str:
            return "# like `module load`\nexport LOADED=yes\n"

        def run(self) -> str:
            return os.environ["LOADED"]

    (job_id,) = submit(pilot, Module)
    pilot.start()
    assert ended(pilot, job_id)["result"] == {"value": "yes"}


def test_a_preamble_that_fails_ends_the_job(pilot: Pilot) -> None:
    class Fails(ApplicationDefinition):
        command_template = "echo ran"

        def shell_preamble(self) -> list[str]:
            return ["echo first", "sh -c 'exit 9'", "echo never"]

    (job_id,) = submit(pilot, Fails)
    pilot.start()
    record = ended(pilot, job_id)
    assert (record["event"], record["return_code"], pilot.output(job_id)) == ("run_error", 9, "first\n")


class Bad(ApplicationDefinition):
    command_template = "echo ran {{ how }}"

    def get_environ_vars(self) -> Any:
        how = self._given["how"]
        if how == "raises":
            raise LookupError("no such module")
        if how == "exits":
            os._exit(0)
        if how == "leaves a child" and os.fork() == 0:
            time.sleep(600)
        return {"none": None, "name": {"a=b": "c"}, "number": {"N": 5}, "NUL": {"N": "\0"}}.get(how, dict(os.environ))


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("raises", "LookupError: no such module"),
        ("exits", "ended its process instead of returning"),
        ("none", "returned a NoneType; it must return a dict of texts"),
        ("name", "the name 'a=b'"),
        ("number", "N as a int; values must be text"),
        ("NUL", "a NUL character"),
    ],
)
def test_a_method_that_fails_fails_the_job_with_its_reason(pilot: Pilot, how: str, text: str) -> None:
    (job_id,) = submit(pilot, Bad, parameters={"how": how})
    pilot.start()
    record = ended(pilot, job_id)
    assert record["event"] == "run_error"
    assert text in record["message"], record
    assert "ran" not in pilot.output(job_id).splitlines()


def test_what_a_method_left_is_gone_and_the_job_runs_s9(pilot: Pilot) -> None:
    (job_id,) = submit(pilot, Bad, parameters={"how": "leaves a child"})
    pilot.start()
    assert ended(pilot, job_id)["event"] == "run_done"
    assert [p for p in pilot.tag.alive() if "balsam.worker" in " ".join(p.cmdline())] == []


class Slow(ApplicationDefinition):
    command_template = "echo ran"

    def shell_preamble(self) -> str:
        print("begins", flush=True)
        time.sleep(600)
        return ""


def test_cancel_while_methods_run(pilot: Pilot, service: FakeService) -> None:
    (job_id,) = submit(pilot, Slow)
    pilot.start()
    wait_until(lambda: "begins" in pilot.output(job_id), 60)
    service.request_cancel(job_id)
    wait_until(lambda: service.events(job_id)[:1] == ["released"], 30)
    assert [p for p in pilot.tag.alive() if "balsam.worker" in " ".join(p.cmdline())] == []


# What the Site says


def test_a_site_that_wants_no_python_loads_none_s15(pilot: Pilot, service: FakeService) -> None:
    (python,) = submit(pilot, Interpreter)
    (prepared,) = submit(pilot, Prepared, parameters={"word": "x"})
    service.add_app("true", 9)
    (command,) = service.add_jobs(1, 9)
    pilot.start(python_apps=False)
    assert ended(pilot, command)["event"] == "run_done"
    for job_id, names in ((python, "run"), (prepared, "get_arg_str, get_environ_vars, shell_preamble")):
        record = ended(pilot, job_id)
        assert f"runs at the Site ({names}), and this Site loads none" in record["message"]
    assert not (pilot.data / f"job{python}").exists()


def test_a_pinned_site_runs_approved_code_only_s15(pilot: Pilot, service: FakeService) -> None:
    (approved,) = submit(pilot, Interpreter)
    (refused,) = submit(pilot, Ranks)
    pilot.start(pinned_apps=[service.apps[1]["content_hash"]])
    assert ended(pilot, approved)["event"] == "run_done"
    assert "balsam app approve Ranks" in ended(pilot, refused)["message"]


def test_code_that_is_not_what_its_hash_says_is_not_loaded_s15(pilot: Pilot, service: FakeService) -> None:
    (job_id,) = submit(pilot, Interpreter)
    service.add_class(Ranks, 77)
    service.apps[1]["code"] = service.apps[77]["code"]
    pilot.start()
    assert "another definition" in ended(pilot, job_id)["message"]


def test_a_killed_launcher_takes_its_workers_along(pilot: Pilot, service: FakeService) -> None:
    """F5, S6: busy and idle ones; the Jobs run again."""

    class Sleeps(ApplicationDefinition):
        def run(self) -> str:
            print("attempt", os.environ["BALSAM_ATTEMPT"], flush=True)
            time.sleep(600 if os.environ["BALSAM_ATTEMPT"] == "1" else 0)
            return os.environ["BALSAM_ATTEMPT"]

    submit(pilot, Interpreter, node_packing_count=4)
    (busy,) = submit(pilot, Sleeps, node_packing_count=4)
    pilot.start()
    wait_until(lambda: "attempt 1" in pilot.output(busy) and service.states()[0] == "run_done", 60)
    workers = [p for p in pilot.tag.alive() if "balsam.worker.serve" in " ".join(p.cmdline())]
    assert len(workers) == 2
    pilot.loops()[0].kill()
    wait_until(lambda: service.states()[1] == "run_done", 60)
    assert not any(worker.is_running() for worker in workers)
    assert service.events(busy) == ["started", "lease_ended", "started", "run_done"]
    assert service.records[-1]["result"] == {"value": "2"}


def test_a_killed_guardian_ends_everything(pilot: Pilot, service: FakeService) -> None:
    class Sleeps(ApplicationDefinition):
        def run(self) -> None:
            time.sleep(600)

    (job_id,) = submit(pilot, Sleeps)
    pid = pilot.start()
    wait_until(lambda: service.events(job_id) == ["started"], 60)
    os.kill(pid, 9)
    wait_until(lambda: pilot.tag.alive() == [], 20)
    pilot.wait()
