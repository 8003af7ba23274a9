"""`balsam up` ends whatever is dead, deaf or stubborn at that moment, and leaves no process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.system.live_site import PARTS, LiveSite, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# The Job says that it runs by a file; with `deaf` it and its child take no SIGTERM.
ONE_JOB = """
from balsam.api import ApplicationDefinition, BatchJob, Job

class Stay(ApplicationDefinition):
    site = "local"
    command_template = "trap {{{{ trap }}}} TERM; : > here; while :; do sleep 0.2; done"

BatchJob.objects.create(site_id={id}, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local")
Stay.submit(workdir="stay", trap="{trap}")
"""


@contextmanager
def busy_site(home: Path, *, deaf: bool = False) -> Iterator[LiveSite]:
    """`balsam up` with one running Job; whatever is left at the end is killed, so that a red test leaves nothing."""
    site = LiveSite(home)
    site.start()
    try:
        site.run(ONE_JOB.format(id=site.id, trap="" if deaf else "exit 3"), name="job.py")
        eventually(lambda: (site.path / "data" / "stay" / "here").exists(), "the Job did not start")
        yield site
    finally:
        assert site.up is not None
        if site.up.poll() is None:
            site.up.kill()
        site.up.wait()
        for process in of_home(site):
            process.kill()


def of_home(site: LiveSite) -> list[psutil.Process]:
    """Every process that carries this home in its environment, the Job's included."""
    mark = f"BALSAM_HOME={site.home}".encode()
    found = []
    for process in psutil.process_iter():
        try:
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(process)
        except OSError:
            continue
    return found


def ends_within(site: LiveSite, seconds: float) -> int:
    """The exit status; red when it takes longer or a process is left."""
    assert site.up is not None
    status = site.up.wait(seconds)
    assert [process.cmdline() for process in of_home(site)] == []
    return status


def said(site: LiveSite) -> str:
    return (site.home / "up.stderr").read_text()


def test_s9_service_killed_and_then_the_signal(tmp_path: Path) -> None:
    """The service is started again for the end, so that the launcher's report still arrives."""
    with busy_site(tmp_path) as site:
        service = site.kill("service")
        assert site.up is not None
        site.up.send_signal(signal.SIGTERM)
        assert ends_within(site, 25) == 0, said(site)
        assert "the service ended with status -9" in said(site) and "by force" not in said(site)
        assert not psutil.pid_exists(service)
        site.start()
        counts = site.run("from balsam.api import Job; print(dict(Job.objects.all().count_by('state')))", name="n.py")
        assert "RESTART_READY" in counts, counts
        assert site.stop() == 0


def test_s9_agent_killed_and_then_the_signal(tmp_path: Path) -> None:
    with busy_site(tmp_path) as site:
        site.kill("agent")
        assert site.up is not None
        site.up.send_signal(signal.SIGINT)
        assert ends_within(site, 25) == 0, said(site)
        assert "by force" not in said(site)


def test_s9_a_second_signal_ends_the_waiting(tmp_path: Path) -> None:
    """The service is stopped, not dead: nobody can answer, and nobody can be started in its place."""
    with busy_site(tmp_path, deaf=True) as site:
        os.kill(site.pids("service")[0], signal.SIGSTOP)
        assert site.up is not None
        site.up.send_signal(signal.SIGINT)
        time.sleep(1.5)
        assert site.up.poll() is None
        site.up.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert ends_within(site, 30) == 0, said(site)
        assert time.monotonic() - begin < 25
        assert "a second signal" in said(site) and "1 allocation(s) by force" in said(site)


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path: Path) -> None:
    """`timeout` signals the process and its group."""
    with busy_site(tmp_path) as site:
        assert site.up is not None
        site.up.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        site.up.send_signal(signal.SIGTERM)
        assert ends_within(site, 25) == 0, said(site)
        assert "second signal" not in said(site) and "by force" not in said(site)


def test_s9_a_job_that_ignores_sigterm(tmp_path: Path) -> None:
    with busy_site(tmp_path, deaf=True) as site:
        assert site.up is not None
        site.up.send_signal(signal.SIGTERM)
        assert ends_within(site, 60) == 0, said(site)
        assert "by force" not in said(site)


def test_s9_a_killed_up_leaves_the_allocation_and_an_interrupted_start_ends_it(tmp_path: Path) -> None:
    with busy_site(tmp_path) as site:
        assert site.up is not None
        site.up.kill()
        site.up.wait()
        eventually(lambda: not site.pids("service") and not site.pids("agent"), "they outlive balsam up")
        assert site.pids("launcher"), "allocations outlive the agent"
        site.start()
        assert site.stop() == 0
        assert not any(site.pids(part) for part in PARTS)
        assert of_home(site) == []
