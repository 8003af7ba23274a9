"""Hooks in the agent's workers, with a real service: what they may do, and whatever may go wrong in one of them.

Each bad hook ends its own Job with the reason; the agent lives, and the next hook runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from balsam.client.models.application import ApplicationDefinition
from balsam.client.models.job import Job
from balsam.domain.envelope import Envelope
from balsam.domain.failure import Failure
from balsam.domain.states import JobState
from balsam.site.approvals import approve_app
from balsam.site.hook_workers import MARK
from tests.services import running_service
from tests.site.hook_site import LIMIT_SEC, HookSite, eventually, hook_site

pytestmark = pytest.mark.slow
S = JobState
Hook = Callable[[Any], object]


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HookSite]:
    root = tmp_path_factory.mktemp("hooks")
    with running_service(root / "home") as service, hook_site(service, root / "site") as site:
        yield site


@pytest.fixture(scope="module")
def here(idle: HookSite) -> Iterator[HookSite]:
    """The Site with an agent that all tests of this module share."""
    with idle.running():
        yield idle


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[HookSite]:
    """A Site of this test alone, without an agent yet."""
    with running_service(tmp_path / "home") as service, hook_site(service, tmp_path / "site") as site:
        yield site


_numbers = iter(range(10_000))


def app_with(site: HookSite, **attributes: Any) -> type[ApplicationDefinition]:
    """An App of the Site with these hooks."""
    name = f"App{next(_numbers)}"
    module = next((it.__module__ for it in attributes.values() if callable(it)), __name__)  # whose functions travel
    fields = {"site": "here", "command_template": "true", "__module__": module, **attributes}
    made: type[ApplicationDefinition] = type(name, (site.client.ApplicationDefinition,), fields)
    return made


def submit(site: HookSite, preprocess: Hook, attributes: dict[str, Any] | None = None, **fields: Any) -> Job:
    """A Job whose App has this hook."""
    app = app_with(site, preprocess=preprocess, **(attributes or {}))
    return app.submit(**{"workdir": f"w/{app.__name__}", **fields})


def nothing(self: Any) -> None:
    pass


def is_fine(site: HookSite) -> bool:
    """The agent lives, and runs the next hook."""
    assert site.agent is not None and site.agent.poll() is None
    return site.reach(submit(site, nothing)).state is S.PREPROCESSED


# What hooks may do


def test_a_hook_sees_its_job_and_changes_it(here: HookSite) -> None:
    def preprocess(self: Any) -> None:
        print("in", os.getcwd(), self.job.parameters, self.job.state, self.job.attempt)
        os.write(2, b"at descriptor level\n")
        subprocess.run(["echo", "a child"], check=True)
        self.job.data["seen"] = {"env": os.environ["FROM_APP"], "id": os.environ["BALSAM_JOB_ID"]}
        del self.job.data["gone"]
        self.job.tags = {"new": "tag"}
        self.job.num_nodes = 3
        self.job.state_data = {"reason": "because"}
        self.job.state = "PREPROCESSED"

    attributes = {"environment_variables": {"FROM_APP": "yes"}, "command_template": "echo {{ x }}"}
    app = app_with(here, preprocess=preprocess, **attributes)
    job = app.submit("deep/er", x="1", data={"kept": 1, "gone": 2}, tags={"old": "tag"})
    here.reach(job)
    assert job.state is S.PREPROCESSED
    assert job.data == {"kept": 1, "seen": {"env": "yes", "id": str(job.id)}}
    assert (job.tags, job.num_nodes, job.session_id) == ({"new": "tag"}, 3, None)
    assert here.said(job) == {"hook": "preprocess", "reason": "because"}
    workdir = here.site.data / "deep" / "er"
    assert here.output(job).splitlines() == [
        f"in {workdir} {{'x': '1'}} STAGED_IN 0",
        "at descriptor level",
        "a child",
    ]


@pytest.mark.parametrize(
    ("hook", "end", "verdict", "state"),
    [
        ("postprocess", "run_done", None, S.JOB_FINISHED),
        ("postprocess", "run_done", "RESTART_READY", S.RESTART_READY),
        ("postprocess", "run_done", JobState.POSTPROCESSED, S.JOB_FINISHED),
        ("handle_error", "run_error", None, S.FAILED),
        ("handle_error", "run_error", JobState.RESTART_READY, S.RESTART_READY),
        ("handle_timeout", "run_timeout", None, S.RESTART_READY),
        ("handle_timeout", "run_timeout", "FAILED", S.FAILED),
    ],
)
def test_every_hook_and_its_verdicts(
    here: HookSite, hook: str, end: str, verdict: str | JobState | None, state: JobState
) -> None:
    def method(self: Any) -> None:
        assert self.job.return_code == (0 if hook == "postprocess" else 3)
        if verdict is not None:
            self.job.state = verdict

    app = app_with(here, **{hook: method})
    job = app.submit(f"w/{app.__name__}")
    here.attempt(job, end, return_code=0 if hook == "postprocess" else 3)
    here.reach(job, state)
    assert job.state is state


def test_super_calls_the_default(here: HookSite) -> None:
    class Base(here.client.ApplicationDefinition):  # type: ignore[name-defined, misc]
        site = "here"
        command_template = "true"

        def preprocess(self) -> None:
            super().preprocess()
            self.job.tags["by"] = "base"

    class Derived(Base):
        def preprocess(self) -> None:
            super().preprocess()
            assert self.job.state == "PREPROCESSED"
            self.job.tags["also"] = "derived"

    job = Derived.submit("w/super")
    here.reach(job)
    assert (job.state, job.tags) == (S.PREPROCESSED, {"by": "base", "also": "derived"})


def test_a_hook_reads_its_job_when_it_starts(fresh: HookSite) -> None:
    job = submit(fresh, lambda self: self.job.data.update(copy=self.job.data["late"]))
    job.data = {"late": "value"}
    job.save()
    with fresh.running():
        fresh.reach(job)
    assert job.data == {"late": "value", "copy": "value"}


def test_hooks_submit_jobs_and_read_parents(here: HookSite) -> None:
    """A dynamic workflow: a hook makes the next Jobs, of its own App and of others, and waits for one of them."""

    class Leaf(here.client.ApplicationDefinition):  # type: ignore[name-defined, misc]
        site = "here"
        command_template = "echo {{ n }}"

    Leaf.sync()

    def preprocess(self: Any) -> None:
        from balsam.api import Job as Jobs

        if self.job.tags.get("role") == "child":
            (parent,) = self.job.parent_query()
            self.job.data["parent"] = parent.data["number"]
            return
        self.job.data["number"] = 7
        self.job.save()
        made = [Leaf.submit(f"leaf/{n}", n=str(n), tags={"of": str(self.job.id)}, save=False) for n in range(3)]
        Jobs.objects.bulk_create(made)
        child = type(self).submit("w/child", parent_ids=[self.job.id], tags={"role": "child"})
        assert Jobs.objects.filter(tags={"of": str(self.job.id)}).count() == 3
        made[0].cancel()
        assert made[0].wait(timeout=20)
        self.job.data["child"] = child.id

    job = submit(here, preprocess)
    here.reach(job)
    assert job.state is S.PREPROCESSED, here.said(job)
    leaves = here.client.Job.objects.filter(tags={"of": str(job.id)})
    assert sorted(leaf.state for leaf in leaves) == [S.CANCELLED, S.PREPROCESSED, S.PREPROCESSED]
    child = here.client.Job.objects.get(id=job.data["child"])
    assert child.state is S.AWAITING_PARENTS
    here.attempt(job, "run_done", return_code=0)
    here.reach(child, S.PREPROCESSED)
    assert child.data == {"parent": 7}


def test_who_waits_sees_what_the_hook_set_and_undoes_nothing_of_it(here: HookSite) -> None:
    def preprocess(self: Any) -> None:
        self.job.data["by hook"] = 1
        self.job.state = "FAILED"

    job = submit(here, preprocess, data={"mine": 0})
    assert job.data == {"mine": 0}
    assert job.wait(timeout=30)
    assert job.failure is Failure.HOOK
    job.tags = {"read": "yes"}
    job.save()
    assert job.data == {"mine": 0, "by hook": 1}
    job.refresh_from_db()
    assert job.data == {"mine": 0, "by hook": 1}


def test_save_in_the_middle_of_a_hook_is_seen_at_once(here: HookSite) -> None:
    def preprocess(self: Any) -> None:
        self.job.data = {"step": 1}
        self.job.save()
        while not Path("go on").exists():
            time.sleep(0.01)
        self.job.data["step"] = 2

    job = submit(here, preprocess)
    eventually(lambda: here.client.Job.objects.get(id=job.id).data == {"step": 1}, "the first step is not seen")
    job.refresh_from_db()
    job.tags = {"set": "meanwhile"}
    job.save()
    (here.site.data / job.workdir / "go on").touch()
    here.reach(job)
    assert (job.data, job.tags) == ({"step": 2}, {"set": "meanwhile"})


def test_a_hook_finds_the_process_as_it_was(here: HookSite) -> None:
    def spoil(self: Any) -> None:
        os.environ["SPOILED"] = "1"
        os.environ.pop("PATH")
        os.umask(0o777)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.alarm(1)
        sys.stdout.close()
        sys.stderr = None  # type: ignore[assignment]
        os.close(1)
        os.chdir("/")

    def check(self: Any) -> None:
        time.sleep(1.2)
        Path("written").write_text("x")
        self.job.data = {
            "env": ["SPOILED" in os.environ, "PATH" in os.environ],
            "mode": Path("written").stat().st_mode & 0o400,
            "handler": str(signal.getsignal(signal.SIGUSR1)),
        }
        print("it can print")

    for hook in (spoil, spoil, check, check):
        job = submit(here, hook)
        here.reach(job)
        assert job.state is S.PREPROCESSED, here.said(job)
    assert job.data == {"env": [False, True], "mode": 0o400, "handler": "0"}
    assert here.output(job) == "it can print\n"


# Whatever may go wrong


def raises(self: Any) -> None:
    raise ValueError("no such thing")


def exits(self: Any) -> None:
    sys.exit("enough")


def exits_hard(self: Any) -> None:
    os._exit(7)


def is_killed(self: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashes(self: Any) -> None:
    ctypes.string_at(0)


def recurses(self: Any) -> None:
    recurses(self)


def closes_everything(self: Any) -> None:
    os.closerange(0, 1000)


def talks_nonsense(self: Any) -> None:
    os.write(202, b"nonsense\n")
    time.sleep(10)


def hangs(self: Any) -> None:
    time.sleep(1000)


def hangs_in_c(self: Any) -> None:
    ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock


def hangs_and_ignores(self: Any) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    subprocess.run(["setsid", "sleep", "1000"], check=False)


def wrong_state(self: Any) -> None:
    self.job.state = "RUNNING"


def no_state(self: Any) -> None:
    self.job.state = "FINISHED"


def bad_value(self: Any) -> None:
    self.job.num_nodes = -1


def no_json(self: Any) -> None:
    self.job.data = {"x": {1, object()}}


def too_large(self: Any) -> None:
    self.job.data = {"x": "y" * 100_000}


def much_too_large(self: Any) -> None:
    self.job.data = {"x": "y" * 10_000_000}


def kills_its_keeper(self: Any) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(10)


def says_failed(self: Any) -> None:
    self.job.state = "FAILED"


BAD: list[tuple[Hook, str]] = [
    (raises, "preprocess raised ValueError: no such thing"),
    (exits, "preprocess called sys.exit('enough') instead of returning"),
    (exits_hard, "preprocess: it ended its process with exit code 7"),
    (is_killed, "preprocess: its process was ended by SIGKILL"),
    (crashes, "preprocess: its process was ended by SIGSEGV"),
    (recurses, "preprocess raised RecursionError"),
    (closes_everything, "preprocess: it closed descriptors that are not its own"),
    (talks_nonsense, "preprocess: it wrote into the channel of its process"),
    (hangs, f"preprocess: it ran longer than the {LIMIT_SEC:g} s that this Site gives a hook"),
    (hangs_in_c, f"preprocess: it ran longer than the {LIMIT_SEC:g} s"),
    (hangs_and_ignores, f"preprocess: it ran longer than the {LIMIT_SEC:g} s"),
    (wrong_state, "preprocess set the state RUNNING; from STAGED_IN it may be PREPROCESSED, FAILED"),
    (no_state, "preprocess set the state FINISHED; from STAGED_IN it may be PREPROCESSED, FAILED"),
    (bad_value, "num_nodes"),
    (no_json, "object is no JSON value"),
    (too_large, "preprocess set what a Job can't have: data: data is 100008 bytes as JSON"),
    (much_too_large, "Write large data to a file in the workdir"),
    (kills_its_keeper, "preprocess: something killed the process that keeps it"),
    (says_failed, ""),
]


@pytest.mark.parametrize(("hook", "said"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_f21_a_bad_hook_ends_its_own_job_and_nothing_else(here: HookSite, hook: Hook, said: str) -> None:
    job = submit(here, hook)
    beside = submit(here, lambda self: time.sleep(0.5))
    here.reach(job)
    assert (job.state, job.failure) == (S.FAILED, Failure.HOOK), here.said(job)
    assert said in here.said(job).get("message", ""), here.said(job)
    assert here.reach(beside).state is S.PREPROCESSED, here.said(beside)
    assert is_fine(here)


def fills_the_disk(self: Any) -> None:
    with Path("everything").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def fills_the_disk_and_goes_on(self: Any) -> None:
    with contextlib.suppress(OSError):
        fills_the_disk(self)
    print("x" * 1000)


@pytest.mark.parametrize("hook", [fills_the_disk, fills_the_disk_and_goes_on])
def test_f10_a_hook_that_fills_the_disk_harms_its_own_job(here: HookSite, hook: Hook) -> None:
    workdir = here.site.data / "small" / hook.__name__
    workdir.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(workdir)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root and a container that lets it")
    try:
        job = submit(here, hook, workdir=f"small/{hook.__name__}")
        beside = submit(here, lambda self: time.sleep(0.5))
        here.reach(job)
        assert (job.state, job.failure) == (S.FAILED, Failure.HOOK), here.said(job)
        assert "No space left on device" in here.said(job)["message"]
        assert "No space left on device" in here.said(job)["traceback"]
        assert here.reach(beside).state is S.PREPROCESSED
        for after in [submit(here, nothing) for _ in range(4)]:
            assert here.reach(after).state is S.PREPROCESSED
            assert here.output(after) == "", "what did not go to that Job's file goes nowhere"
    finally:
        subprocess.run(["umount", "-l", str(workdir)], check=True)


def test_the_traceback_is_in_the_event_and_in_the_log(here: HookSite) -> None:
    job = submit(here, raises)
    here.reach(job)
    traceback = here.said(job)["traceback"]
    assert "in raises" in traceback and traceback.endswith("ValueError: no such thing\n")
    assert "hook_runner" not in traceback
    assert here.output(job) == traceback
    assert any("no such thing" in reason for reason in job.explain().reasons)
    assert job.retry() is None
    assert here.reach(job, S.FAILED).attempt == 0


def forks_and_returns(self: Any) -> None:
    """The child comes back from the hook as well; it must not tell a second verdict."""
    if os.fork():
        os.wait()
    self.job.data["by"] = "parent"


def leaves_processes(self: Any) -> None:
    for words in (["sleep", "1000"], ["setsid", "sleep", "1000"], ["sh", "-c", "(setsid sleep 1000 &)"]):
        subprocess.Popen(words, stdout=subprocess.DEVNULL)
    time.sleep(0.2)


def leaves_a_thread(self: Any) -> None:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


@pytest.mark.parametrize("hook", [forks_and_returns, leaves_processes, leaves_a_thread], ids=lambda hook: hook.__name__)
def test_s6_what_a_hook_starts_ends_with_it(here: HookSite, hook: Hook) -> None:
    job = submit(here, hook)
    here.reach(job)
    assert job.state is S.PREPROCESSED, here.said(job)
    assert not [process for process in marked(here) if process.name() == "sleep"]
    assert is_fine(here)


def marked(site: HookSite) -> list[psutil.Process]:
    """Living processes in which hooks of the Site run, or which they started."""
    found, own = [], site.site.root.stat()
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if environ.get(MARK) == f"{own.st_dev}:{own.st_ino}" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_hook_that_can_not_be_loaded_names_what_is_missing_and_where(here: HookSite) -> None:
    """The import is carried out at the Site, where the module is not."""
    module = type(sys)("only_on_my_laptop")
    sys.modules["only_on_my_laptop"] = module
    try:
        job = submit(here, nothing, {"uses": module})
    finally:
        del sys.modules["only_on_my_laptop"]
    here.reach(job)
    message = here.said(job)["message"]
    assert (job.state, job.failure) == (S.FAILED, Failure.HOOK)
    assert "No module named 'only_on_my_laptop'" in message
    assert sys.executable in message and job.app_name in message
    assert is_fine(here)


@pytest.mark.parametrize(
    ("python", "payload", "said"),
    [
        ("2.7", b"x", "pickled by Python 2.7 and this is Python"),
        ("", b"no pickle", "can't be loaded by"),
    ],
)
def test_code_of_another_python_is_never_unpickled(here: HookSite, python: str, payload: bytes, said: str) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    envelope = Envelope.seal(payload, python=python or own, pickler="cloudpickle 3.1").as_json()
    name = f"Foreign{next(_numbers)}"
    body = {"site_id": 1, "name": name, "command_template": "true", "hooks": ["preprocess"]}
    with here.service.client() as client:
        made = client.put("/api/apps", json=body | {"code": {"envelope": envelope}})
        assert made.status_code == 200, made.text
    job = here.client.Job(app_id=name, site_name="here", workdir=f"w/{name}")
    job.save()
    here.reach(job)
    assert job.state is S.FAILED
    assert said in here.said(job)["message"]
    assert is_fine(here)


def test_s15_a_site_that_loads_no_python_says_so(fresh: HookSite) -> None:
    fresh.settings(apps={"python": False})
    marker = fresh.site.root / "was loaded"
    job = submit(fresh, lambda self: marker.touch())
    with fresh.running():
        fresh.reach(job)
        assert job.state is S.FAILED
        assert "apps.python is false" in fresh.said(job)["message"]
        assert marked(fresh) == []
    assert not marker.exists()


def test_s15_a_pinned_site_runs_what_was_approved(fresh: HookSite) -> None:
    fresh.settings(apps={"accept": "pinned"})
    job = submit(fresh, nothing)
    with fresh.running():
        fresh.reach(job)
        assert job.state is S.FAILED
        assert f"balsam app approve {job.app_name}" in fresh.said(job)["message"]
        assert marked(fresh) == []
        app = fresh.client.App.objects.get(name=job.app_name)
        approve_app(fresh.site, app.content_hash, app.name)
        job.retry()
        assert fresh.reach(job).state is S.PREPROCESSED


def test_s15_the_workdir_is_below_the_data_directory_or_nowhere(here: HookSite, tmp_path: Path) -> None:
    (here.site.data / "link").symlink_to(tmp_path)
    job = submit(here, nothing, workdir="link/out")
    assert here.reach(job).state is S.FAILED
    assert "is a link or a file" in here.said(job)["message"]
    (here.site.data / "trap").mkdir()
    (here.site.data / "trap" / "balsam.log").symlink_to(tmp_path / "target")
    job = submit(here, lambda self: print("out"), workdir="trap")
    assert here.reach(job).state is S.FAILED
    assert "balsam.log" in here.said(job)["message"]
    assert list(tmp_path.iterdir()) == []
    os.mkfifo(here.site.data / "pipe.log")
    (here.site.data / "pipe").mkdir()
    os.mkfifo(here.site.data / "pipe" / "balsam.log")
    job = submit(here, nothing, workdir="pipe")
    assert here.reach(job).state is S.FAILED
    assert is_fine(here)


def test_a_cancel_stops_the_hook(here: HookSite) -> None:
    def preprocess(self: Any) -> None:
        Path("begun").touch()
        subprocess.run(["sleep", "1000"], check=True)

    job = submit(here, preprocess)
    eventually(lambda: (here.site.data / job.workdir / "begun").exists(), "the hook did not begin")
    begin = time.monotonic()
    job.cancel()
    here.reach(job, S.CANCELLED)
    eventually(lambda: here.client.Job.objects.get(id=job.id).session_id is None, "it is still held")
    assert time.monotonic() - begin < LIMIT_SEC - 1
    assert not [process for process in marked(here) if process.name() == "sleep"]
    assert is_fine(here)


def test_a_later_definition_without_the_hook_means_its_default(fresh: HookSite) -> None:
    app = app_with(fresh, preprocess=raises)
    jobs = [app.submit(f"w/{n}") for n in range(2)]
    plain = type(app.__name__, (fresh.client.ApplicationDefinition,), {"site": "here", "command_template": "true"})
    plain.sync()
    with fresh.running():
        assert fresh.reach(jobs[0]).state is S.PREPROCESSED
        assert "has no hook preprocess any more" in fresh.said(jobs[0])["message"]


def test_many_hooks_are_run_by_a_few_processes(here: HookSite) -> None:
    """Code stays loaded: a hundred hooks of one App cost one start of a worker each at most."""

    def preprocess(self: Any) -> None:
        self.job.data = {"pid": os.getpid()}

    app = app_with(here, preprocess=preprocess)
    jobs = here.client.Job.objects.bulk_create([app.submit(f"many/{n}", save=False) for n in range(100)])
    for job in jobs:
        here.reach(job)
    assert {job.state for job in jobs} == {S.PREPROCESSED}
    assert len({job.data["pid"] for job in jobs}) <= 2


def test_workers_come_when_needed_and_go(fresh: HookSite) -> None:
    with fresh.running():
        eventually(lambda: "agent is running" in fresh.log, "the agent is not up")
        time.sleep(0.5)
        assert marked(fresh) == []
        fresh.reach(submit(fresh, nothing))
        assert len(marked(fresh)) == 2
    assert marked(fresh) == []
