"""kill -9 around hooks: of the agent at every crash point, of the service, of workers; each Job goes on by itself.

A hook may run a second time after a crash, never twice at once (S6); its verdict is taken once (S3).
"""

from __future__ import annotations

import itertools
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from balsam.domain.states import JobState
from balsam.site.control import sync_site
from balsam.site.crash_points import OF_HOOKS
from balsam.site.directory import SiteDirectory
from balsam.site.lock import read_status
from balsam.site.reload import ask_to_reload
from tests.services import running_service
from tests.site.hook_site import HookSite, eventually, hook_site
from tests.site.test_hooks import app_with, marked

S = JobState


@pytest.fixture
def place(tmp_path: Path) -> Iterator[HookSite]:
    with running_service(tmp_path / "home") as service, hook_site(service, tmp_path / "site") as site:
        yield site


def counted(self: Any) -> None:
    """A hook that notes its beginning and end, and sees whether another one of its Job runs."""
    with Path("runs").open("a") as file:
        file.write("begin\n")
        file.flush()
        time.sleep(0.3)
        file.write("end\n")


def runs(site: HookSite, workdir: str) -> list[str]:
    path = site.site.data / workdir / "runs"
    return path.read_text().split() if path.exists() else []


def check_history(site: HookSite, job: Any, most_runs: int) -> None:
    """One verdict; no two runs at once: after a beginning comes its end, or the beginning of the next try."""
    verdicts = [event for event in site.client.EventLog.objects.filter(job_id=job.id) if event.actor == "site"]
    assert len(verdicts) == 1
    noted = runs(site, job.workdir)
    assert noted[-1] == "end"
    assert 1 <= noted.count("begin") <= most_runs
    assert all(before != "end" or after == "begin" for before, after in itertools.pairwise(noted))


@pytest.mark.parametrize("point", OF_HOOKS)
def test_killed_at(point: str, place: HookSite) -> None:
    app = app_with(place, preprocess=counted)
    jobs = [app.submit(f"w/{n}") for n in range(3)]
    with place.running(BALSAM_CRASH_POINT=point) as agent:
        assert agent.wait(60) == -signal.SIGKILL, f"the agent never came through {point}"
    eventually(lambda: not marked(place), "hooks outlive their agent", 10)
    begin = time.monotonic()
    with place.running():
        for job in jobs:
            assert place.reach(job).state is S.PREPROCESSED
    assert time.monotonic() - begin < 60, "its Session was left to a time-out"
    for job in jobs:
        check_history(place, job, 2)
    assert list(place.site.processing.iterdir()) == []
    assert marked(place) == []


def test_killed_again_and_again_at_random_instants(place: HookSite) -> None:
    app = app_with(place, preprocess=counted)
    jobs = place.client.Job.objects.bulk_create([app.submit(f"w/{n}", save=False) for n in range(12)])
    for lifetime_sec in (0.9, 1.3, 1.0, 1.7, 1.2, 2.0):
        with place.running() as agent:
            time.sleep(lifetime_sec)
            agent.kill()
            agent.wait()
    with place.running():
        for job in jobs:
            assert place.reach(job).state is S.PREPROCESSED
    for job in jobs:
        check_history(place, job, 7)
    assert marked(place) == []


def test_l2_the_service_is_killed_while_hooks_run(place: HookSite) -> None:
    """Verdicts wait on disk for its return; a hook that begins meanwhile waits for its Job to be read."""
    app = app_with(place, preprocess=counted)
    jobs = [app.submit(f"w/{n}") for n in range(6)]
    with place.running() as agent:
        eventually(lambda: runs(place, "w/0"), "no hook began")
        place.service.kill()
        eventually(lambda: len(runs(place, "w/0")) == 2, "the hook did not end")
        time.sleep(2.0)
        assert agent.poll() is None
        place.service = place.service.restart()
        for job in jobs:
            assert place.reach(job).state is S.PREPROCESSED
        for job in jobs:
            check_history(place, job, 1)
    place.service.stop()


@pytest.mark.parametrize("part", ["keeper", "runner"])
def test_a_worker_that_is_killed_while_idle_is_replaced(place: HookSite, part: str) -> None:
    app = app_with(place, preprocess=counted)
    with place.running():
        assert place.reach(app.submit("w/1")).state is S.PREPROCESSED
        keepers = [process for process in marked(place) if process.children()]
        assert len(keepers) == 1
        victim = keepers[0] if part == "keeper" else keepers[0].children()[0]
        victim.kill()
        eventually(lambda: not psutil.pid_exists(keepers[0].pid), "its keeper is still there")
        assert place.reach(app.submit("w/2")).state is S.PREPROCESSED


def test_an_agent_that_stops_in_order_hands_its_hooks_back(place: HookSite) -> None:
    def slow(self: Any) -> None:
        Path("begun").touch()
        time.sleep(1000)

    job = app_with(place, preprocess=slow).submit("w/slow")
    with place.running() as agent:
        eventually(lambda: (place.site.data / "w" / "slow" / "begun").exists(), "the hook did not begin")
        begin = time.monotonic()
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(10) == 0
        assert time.monotonic() - begin < 5
    assert marked(place) == []
    job.refresh_from_db()
    assert (job.state, job.session_id) == (S.STAGED_IN, None)
    assert list(place.site.processing.iterdir()) == []


def test_an_agent_that_begins_anew_runs_its_hooks_again(place: HookSite) -> None:
    """New settings and then another place for the Site's directory, while a hook runs."""

    def slow(self: Any) -> None:
        with Path("runs").open("a") as file:
            file.write("begin\n")
        end = time.monotonic() + 100
        while not Path("go").exists() and time.monotonic() < end:
            time.sleep(0.01)
        with Path("runs").open("a") as file:
            file.write("end\n")

    place.settings(processing={"num_workers": 2, "hook_time_limit_sec": 1000})
    job = app_with(place, preprocess=slow).submit("w/slow")
    with place.running() as agent:
        eventually(lambda: len(runs(place, "w/slow")) == 1, "the hook did not begin")
        place.settings(processing={"num_workers": 1, "hook_time_limit_sec": 2000})
        assert sync_site(place.site.root).agent is not None
        eventually(lambda: len(runs(place, "w/slow")) == 2, "it did not begin again under the new settings", 30)
        moved = SiteDirectory(place.site.root.with_name("moved"))
        shutil.move(place.site.root, moved.root)
        place.site.root.symlink_to(moved.root)
        request = ask_to_reload(place.site, moved.root)
        eventually(lambda: (found := read_status(moved)) and found.answered == request.number, "not heard", 30)
        place.site = moved
        eventually(lambda: len(runs(place, "w/slow")) == 3, "it did not begin again in the new place", 30)
        (moved.data / "w" / "slow" / "go").touch()
        assert place.reach(job).state is S.PREPROCESSED
        assert runs(place, "w/slow") == ["begin", "begin", "begin", "end"]
        assert agent.poll() is None
    assert list(place.site.processing.iterdir()) == []
    assert marked(place) == []


def test_a_frozen_agent_loses_its_hooks_at_the_lease_end_s6(place: HookSite) -> None:
    """The keeper reads the deadline by itself; here the agent says it once, and never again."""
    from balsam.site.hook_workers import HookOrder, HookWorkers
    from balsam.site.services.hook_apps import HookApp
    from balsam.testing.clock import FakeClock

    def slow(self: Any) -> None:
        time.sleep(1000)

    app = app_with(place, preprocess=slow)
    job = app.submit("w/frozen")
    (view,) = place.client.App.objects.filter(name=app.__name__)
    envelope = place.client.apps.view(view.id).code
    assert envelope is not None
    workers = HookWorkers(place.site, 1, 1000.0, FakeClock())
    try:
        workers.lease_until(time.monotonic() + 5)
        hooks = HookApp(app.__name__, view.content_hash, envelope.envelope, {})
        workers.start(HookOrder(job.id, 1, "preprocess", 0, job.workdir, hooks))
        workers.wait(0.5)
        assert marked(place)
        eventually(lambda: workers.wait(0.1) or workers.ends(), "it runs on", 60)
        assert not [process for process in marked(place) if process.children()]
    finally:
        workers.close(5)
