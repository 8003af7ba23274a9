"""Python Jobs in a whole launcher: warm workers, what Jobs do to them, what the next Job sees of it (S9, F18, F21)."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from balsam.client.encoding import decode
from balsam.client.models.application import ApplicationDefinition
from balsam.client.pickling import python_version, seal
from tests.launcher.conftest import Tag, wait_until
from tests.launcher.fake_service import FakeService
from tests.launcher.pilot import Pilot

pytestmark = pytest.mark.slow


class Site:
    """One launcher that runs through the whole module; every test has Jobs and Apps of its own."""

    def __init__(self, pilot: Pilot, service: FakeService) -> None:
        self.pilot, self.service = pilot, service
        self._apps: dict[Any, int] = {}

    def submit(self, app: Any, count: int = 1, **parameters: Any) -> list[int]:
        resources = {
            name: parameters.pop(name) for name in ("ranks_per_node", "threads_per_rank") if name in parameters
        }
        with self.service.lock:
            if app not in self._apps:
                self._apps[app] = len(self.service.apps) + 1
                if isinstance(app, str):
                    self.service.add_app(app, self._apps[app])
                else:
                    self.service.add_class(app, self._apps[app])
            return self.service.add_jobs(
                count, self._apps[app], parameters=parameters, node_packing_count=4, **resources
            )

    def record(self, job_id: int, timeout_sec: float = 60) -> dict[str, Any]:
        """The last record of a Job, once it ended."""
        wait_until(lambda: len(self.service.events(job_id)) >= 2, timeout_sec)
        return [record for record in self.service.records if record["job_id"] == job_id][-1]

    def value(self, job_id: int) -> Any:
        record = self.record(job_id)
        assert record["event"] == "run_done", record
        return decode(record["result"]["value"]) if "result" in record else None

    def run(self, app: Any, **parameters: Any) -> Any:
        return self.value(self.submit(app, **parameters)[0])

    def fails(self, app: Any, **parameters: Any) -> dict[str, Any]:
        record = self.record(self.submit(app, **parameters)[0])
        assert record["event"] == "run_error", record
        return record

    def output(self, job_id: int) -> str:
        return self.pilot.output(job_id)


@pytest.fixture(scope="module")
def service() -> Iterator[FakeService]:
    service = FakeService()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def site(service: FakeService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    tag = Tag(f"97{os.getpid() % 100000:05d}.{time.monotonic_ns() % 1000000:06d}")
    pilot = Pilot(service, tag, tmp_path_factory.mktemp("python"))
    pilot.start(idle_ttl_sec=600.0)
    yield Site(pilot, service)
    pilot.processes[0].terminate()
    assert pilot.wait(60) == 0, pilot.said()
    assert tag.alive() == []


class Pid(ApplicationDefinition):
    def run(self) -> int:
        print("in process", os.getpid())
        return os.getpid()


def test_jobs_of_an_app_share_a_warm_process(site: Site) -> None:
    jobs = site.submit(Pid, 12)
    pids = {site.value(job_id) for job_id in jobs}
    assert 1 <= len(pids) <= 4
    for job_id in jobs:
        assert site.output(job_id) == f"in process {site.value(job_id)}\n"


class Values(ApplicationDefinition):
    def run(self, value: Any, more: Any = ()) -> Any:
        return value, more


@pytest.mark.parametrize("value", [None, 1, {"a": [1, None]}, "ü\u2028"])
def test_values_there_and_back(site: Site, value: Any) -> None:
    assert site.run(Values, value=value) == (value, ())
    assert site.run(Values, value=seal({1: value}).as_json(), more=5) == ({1: value}, 5)


def test_large_values_there_and_back(site: Site) -> None:
    """Longer than what fits into a socket at once, in both directions."""

    class Echo(ApplicationDefinition):
        def run(self, text: str) -> str:
            return text[::-1]

    text = base64.b64encode(os.urandom(300_000)).decode()
    assert site.run(Echo, text=text) == text[::-1]


def test_a_result_that_is_too_large_says_what_to_do(site: Site) -> None:
    class Large(ApplicationDefinition):
        def run(self, kind: str) -> Any:
            return "x" * 600_000 if kind == "text" else b"x" * 600_000

    for kind in ("text", "bytes"):
        record = site.fails(Large, kind=kind)
        assert record["result"]["error"]["type"] == "balsam.client.errors.ResultTooLarge"
        assert "600" in record["message"] and "512000" in record["message"] and "file" in record["message"]


def test_what_is_raised_is_told_with_its_traceback(site: Site) -> None:
    class Raises(ApplicationDefinition):
        def run(self) -> None:
            try:
                inner()
            except KeyError as error:
                raise ValueError("outer") from error

    def inner() -> None:
        raise KeyError("innermost")

    record = site.fails(Raises)
    error = record["result"]["error"]
    assert (error["type"], error["message"], record["return_code"]) == ("ValueError", "outer", 1)
    assert "KeyError: 'innermost'" in error["traceback"] and "in inner" in error["traceback"]
    assert "performing.py" not in error["traceback"]
    with pytest.raises(ValueError, match="outer"):
        raise decode(error["exception"])
    assert "ValueError: outer" in site.output(record["job_id"])


def test_what_can_t_travel_back_is_named(site: Site) -> None:
    class Unpicklable(ApplicationDefinition):
        def run(self, raises: bool) -> Any:
            generator = (item for item in ())
            if not raises:
                return generator
            error = RuntimeError("has a generator")
            error.generator = generator  # type: ignore[attr-defined]
            raise error

    assert "what run() returned can't be pickled" in site.fails(Unpicklable, raises=False)["message"]
    error = site.fails(Unpicklable, raises=True)["result"]["error"]
    assert error["message"] == "has a generator" and "exception" not in error


class Ends(ApplicationDefinition):
    """Everything that ends a process, or makes it unable to go on."""

    def run(self, how: str) -> Any:
        import ctypes
        import resource

        if how == "exit":
            sys.exit(7)
        if how == "exit 0":
            sys.exit(0)
        if how == "exit text":
            sys.exit("words")
        if how == "_exit 0":
            os._exit(0)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "abort":
            os.abort()
        if how == "recursion":
            return self.run(how)
        if how == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
            return len(bytearray(10 << 30))
        if how == "closes all":
            os.closerange(0, 1 << 16)
        if how == "closes stdio":
            for number in range(3):
                os.close(number)
        if how == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        if how == "surrogate":
            raise ValueError("\ud800 is no character")
        if how == "bad str":

            class Bad(Exception):
                def __str__(self) -> str:
                    raise RuntimeError("no text")

            raise Bad
        return "went on"


ENDINGS: dict[str, tuple[int, str]] = {
    "exit": (7, "sys.exit(7) instead of returning"),
    "exit 0": (1, "sys.exit(0) instead of returning"),
    "exit text": (1, "sys.exit('words') instead of returning"),
    "_exit 0": (1, "run() ended its process instead of returning or raising\nexit code 0"),
    "segfault": (139, "killed by SIGSEGV"),
    "kill": (137, "killed by SIGKILL"),
    "abort": (134, "killed by SIGABRT"),
    "recursion": (1, "RecursionError"),
    "memory": (1, "MemoryError"),
    "closes all": (70, "run() closed the descriptor through which its result is told"),
    "interrupt": (1, "KeyboardInterrupt"),
    "surrogate": (1, "is no character"),
    "bad str": (1, "<exception str() failed>"),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_whatever_run_does_the_job_fails_with_a_reason_and_others_go_on(site: Site, how: str) -> None:
    """F21, L5."""
    assert site.run(Ends, how="") == "went on"  # it may be the first test: now the launcher is there
    loops = [process.pid for process in site.pilot.loops()]
    code, text = ENDINGS[how]
    record = site.fails(Ends, how=how)
    assert record["return_code"] == code
    assert text in record["message"], record["message"]
    if how == "segfault":
        assert "string_at" in site.output(record["job_id"]), "where it happened is in the output"
    if how == "exit":
        with pytest.raises(SystemExit, match="7"):
            raise decode(record["result"]["error"]["exception"])
    assert site.run(Ends, how="") == "went on"
    assert [process.pid for process in site.pilot.loops()] == loops


def test_closing_stdio_does_no_harm(site: Site) -> None:
    first, second = site.submit(Ends, how="closes stdio"), site.submit(Pid)
    assert site.value(first[0]) == "went on"
    assert site.value(second[0])
    assert "in process" in site.output(second[0])


class Leaves(ApplicationDefinition):
    """Everything a Job can leave behind in its process or beside it; then says what it finds."""

    def run(self, what: str, seconds: str = "") -> Any:
        import subprocess
        import threading

        seen = {
            "pid": os.getpid(),
            "cwd": Path.cwd().name,
            "variables": [os.environ.get(name) for name in ("LEFT", "HOME", "PATH")],
            "job": os.environ["BALSAM_JOB_ID"],
            "umask": os.umask(0o77),
            "handler": signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
            "mask": signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        }
        print("printed by", what)
        if what == "surroundings":
            os.chdir("/tmp")
            os.environ["LEFT"] = "x"
            del os.environ["HOME"]
            os.environ["PATH"] = "/nowhere"
            os.environ = {**os.environ, "LEFT": "y"}  # type: ignore[assignment]  # noqa: B003
            signal.signal(signal.SIGUSR1, lambda *_: None)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        elif what == "thread":
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        elif what == "memory":
            import balsam

            balsam.kept = bytearray(os.urandom(1 << 20) * 1200)  # type: ignore[attr-defined]
        elif what == "child":
            subprocess.Popen(["sleep", seconds])
        elif what == "daemon":
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execvp("sleep", ["sleep", seconds])
                os._exit(0)
            os.wait()
        elif what == "fork that returns":
            if os.fork() == 0:
                return "from the child"
        elif what == "zombie":
            if os.fork() == 0:
                os._exit(0)
            time.sleep(0.2)
        return seen


def test_a_warm_process_is_put_right_between_jobs(site: Site) -> None:
    first = site.run(Leaves, what="surroundings")
    time.sleep(0.3)  # the timer it had set
    for _ in range(5):
        (job_id,) = site.submit(Leaves, what="nothing")
        after = site.value(job_id)
        if after["pid"] == first["pid"]:
            break
    else:
        pytest.fail("the process was not used again")
    assert (after["cwd"], after["job"]) == (f"job{job_id}", str(job_id))
    assert after["variables"] == [None, *first["variables"][1:]]
    assert (after["umask"], after["handler"], after["mask"]) == (first["umask"], True, False)
    assert site.output(job_id) == "printed by nothing\n"


@pytest.mark.parametrize("what", ["thread", "memory"])
def test_a_process_in_which_a_job_left_something_runs_no_other(site: Site, what: str) -> None:
    pid = site.run(Leaves, what=what)["pid"]
    wait_until(lambda: not psutil.pid_exists(pid), 20)
    assert site.run(Leaves, what="nothing")["pid"] != pid


@pytest.mark.parametrize("what", ["child", "daemon", "fork that returns"])
def test_processes_that_a_job_left_are_gone_before_it_is_told_s9(site: Site, what: str) -> None:
    seconds = f"{site.pilot.tag.seconds}7"
    told = site.run(Leaves, what=what, seconds=seconds)
    assert isinstance(told, dict)
    assert [p for p in site.pilot.tag.alive() if seconds in " ".join(_words(p))] == []
    if what != "fork that returns":  # it may have ended by itself, and then nothing is left
        wait_until(lambda: not psutil.pid_exists(told["pid"]), 20)


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def test_a_child_that_ended_is_no_reason_for_a_new_process(site: Site) -> None:
    pids = [site.run(Leaves, what="zombie")["pid"] for _ in range(4)]
    assert len(set(pids)) < 4


class Hangs(ApplicationDefinition):
    def run(self, seconds: str, stubborn: bool) -> None:
        import subprocess

        if stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", seconds], start_new_session=True)
        print("ready", flush=True)
        while True:
            time.sleep(1)


@pytest.mark.parametrize("stubborn", [False, True])
def test_cancel_ends_a_running_one_with_all_it_started_s9(site: Site, stubborn: bool) -> None:
    seconds = f"{site.pilot.tag.seconds}8"
    (job_id,) = site.submit(Hangs, seconds=seconds, stubborn=stubborn)
    wait_until(lambda: "ready" in site.output(job_id), 30)
    site.service.request_cancel(job_id)
    record = site.record(job_id)
    assert record["event"] == "killed" and "result" not in record
    assert [p for p in site.pilot.tag.alive() if seconds in " ".join(_words(p))] == []
    assert isinstance(site.run(Pid), int)


def test_environment_of_a_python_job(site: Site) -> None:
    class Environ(ApplicationDefinition):
        environment_variables = {"OWN": "of the App"}  # noqa: RUF012

        def run(self) -> dict[str, str]:
            return dict(os.environ)

    (job_id,) = site.submit(Environ, threads_per_rank=2)
    found = site.value(job_id)
    wanted = {
        "BALSAM_JOB_ID": str(job_id), "BALSAM_ATTEMPT": "1", "OMP_NUM_THREADS": "2", "OWN": "of the App",
        "PWD": str(site.pilot.data / f"job{job_id}"), "BALSAM_RANK": "0",
    }  # fmt: skip
    assert {name: found.get(name) for name in wanted} == wanted
    assert "secret" not in repr(found)
    assert "blsm_" not in repr(found)
    assert not {name for name in found if "FDS" in name}
    assert site.run(Environ)["OMP_NUM_THREADS"] == "1", "what libraries read when they are loaded is never changed"


def test_output_of_c_code_and_of_children_is_in_the_jobs_file(site: Site) -> None:
    class Prints(ApplicationDefinition):
        def run(self, word: str) -> None:
            import ctypes
            import subprocess

            ctypes.CDLL(None).printf(b"from C %s\n", word.encode())
            subprocess.run(["echo", "from a child", word], check=True)
            os.write(2, f"raw {word}\n".encode())
            print("from Python", word)

    for word in ("one", "two"):
        (job_id,) = site.submit(Prints, word=word)
        site.value(job_id)
        lines = ["from Python", "from C", "from a child", "raw"]
        assert sorted(site.output(job_id).splitlines()) == sorted(f"{line} {word}" for line in lines)


def test_code_that_can_t_be_loaded_fails_the_job_and_names_where(site: Site) -> None:
    class Missing(ApplicationDefinition):
        def run(self) -> None:
            pass

    site.submit(Missing)
    view = site.service.apps[site._apps[Missing]]
    for payload, python, said in (
        (b"cno_such_module\nname\n.", python_version(), "No module named 'no_such_module'"),
        (b"cos\n_exit\n(I3\ntR.", "3.99", f"pickled by Python 3.99 and this is Python {python_version()}"),
    ):
        from balsam.domain.app import AppSpec
        from balsam.domain.envelope import Envelope

        envelope = Envelope.seal(payload, python=python, pickler="cloudpickle 3.1.2").as_json()
        changed = {**view, "id": len(site.service.apps) + 1, "code": {**view["code"], "envelope": envelope}}
        site.service.apps[changed["id"]] = {**changed, "content_hash": AppSpec.from_view(changed).content_hash}
        (job_id,) = site.service.add_jobs(1, changed["id"], node_packing_count=4)
        record = site.record(job_id)
        assert record["event"] == "run_error"
        assert said in record["message"] and "App Missing" in record["message"]
        assert record["result"]["error"]["type"] == "balsam.worker.loading.AppNotLoaded"
    assert isinstance(site.run(Pid), int)


def test_a_parameter_that_can_t_be_opened_is_named(site: Site) -> None:
    value = {**seal((1,)).as_json(), "python": "3.99"}
    record = site.fails(Values, value=value)
    assert "parameter 'value'" in record["message"] and "Python 3.99" in record["message"]


def test_different_apps_take_turns_and_never_more_processes_than_cores(site: Site) -> None:
    class First(ApplicationDefinition):
        def run(self) -> int:
            return os.getpid()

    class Second(ApplicationDefinition):
        def run(self) -> int:
            return -os.getpid()

    jobs = [job_id for _ in range(6) for app in (First, Second, "true") for job_id in site.submit(app)]
    for job_id in jobs:
        assert site.record(job_id)["event"] == "run_done"
    serving = [p for p in site.pilot.tag.alive() if "balsam.worker.serve" in " ".join(_words(p))]
    assert len(serving) <= 4


def test_self_job_needs_no_service_for_what_the_launcher_knows(site: Site) -> None:
    class Looks(ApplicationDefinition):
        def run(self, x: int) -> Any:
            job = self.job
            return (
                job.id, job.workdir, job.tags, job.data, job.parent_ids, job.parameters, job.attempt, str(job.state),
                job.site_id, job.batch_job_id, job.app_name, job.ranks_per_node, repr(job)[:4],
            )  # fmt: skip

    (job_id,) = site.submit(Looks, x=4)
    found = site.value(job_id)
    assert found[:8] == (job_id, f"job{job_id}", {}, {}, set(), {"x": 4}, 1, "RUNNING")
    assert found[8:] == (1, 1, "Looks", 1, "Job(")
