"""A service to talk to, a Site directory and an agent in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.platform.scheduler.base import SchedulerConfig
from balsam.platform.scheduler.local import LocalScheduler
from balsam.site.directory import SiteDirectory
from balsam.site.init import init_site
from balsam.site.settings import Settings
from balsam.testing.clock import FakeClock
from tests.services import RunningService, running_service
from tests.site.bench import Bench
from tests.site.fake_service import USER_TOKEN, FakeService, serving
from tests.site.scripted_scheduler import ScriptedScheduler

WAIT_SEC = 30.0
# A pilot that does nothing but live: what the template runs in place of the launcher.
SLEEPING_TEMPLATE = "#!/bin/bash\necho started >> {{ balsam_site_path }}/starts\nexec sleep 600\n"
QUICK_TEMPLATE = "#!/bin/bash\necho started >> {{ balsam_site_path }}/starts\n"


def settings_text(sync_period_sec: float) -> str:
    """settings.yml of the tests' own, so that they do not move with the shipped one."""
    return f"""
scheduler:
  sync_period: {sync_period_sec}
  allowed_queues:
    local: {{max_nodes: 1, max_walltime: 1440, max_queued_jobs: 0}}
  allowed_projects: [local]
processing: null
file_cleaner: null
"""


@pytest.fixture
def service() -> Iterator[FakeService]:
    with serving(FakeService()) as running:
        yield running


@pytest.fixture
def user(service: FakeService) -> Iterator[Transport]:
    """The transport of the Site's owner."""
    transport = Transport(ClientSettings(url=service.url, token=USER_TOKEN))
    yield transport
    transport.close()


@pytest.fixture
def site(tmp_path: Path, user: Transport) -> Iterator[SiteDirectory]:
    """A Site with short periods whose allocations only sleep."""
    made = init_site(tmp_path / "site", transport=user)
    directory = SiteDirectory(made.path)
    directory.settings.write_text(settings_text(sync_period_sec=0.3))
    (directory.root / "job-template.sh").write_text(SLEEPING_TEMPLATE)
    yield directory
    end_allocations(directory)


@pytest.fixture
def bench(tmp_path: Path, user: Transport, service: FakeService) -> Bench:
    made = init_site(tmp_path / "site", transport=user)
    return Bench(SiteDirectory(made.path), service, ScriptedScheduler(), FakeClock(), Settings())


def start_agent(site: SiteDirectory, **environment: str) -> subprocess.Popen[bytes]:
    """An agent as a child of this process."""
    with (site.log / "agent.out").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "balsam.site", "--site", str(site.root)],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )


@contextmanager
def running_agent(site: SiteDirectory, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """An agent for the length of the block; stopped in order, when it still runs."""
    agent = start_agent(site, **environment)
    try:
        yield agent
    finally:
        end(agent)


def end(agent: subprocess.Popen[bytes]) -> int:
    """SIGTERM, and the exit status."""
    if agent.poll() is None:
        agent.send_signal(signal.SIGTERM)
    try:
        return agent.wait(10)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()
        raise


def starts(site: SiteDirectory) -> int:
    """How often a batch script of the Site was started."""
    path = site.root / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def end_allocations(site: SiteDirectory) -> None:
    """End what the local scheduler of a Site still runs."""
    scheduler = LocalScheduler(SchedulerConfig(submit_dir=site.qsubmit, options={"kill_grace_sec": 0.1}))
    deadline = time.monotonic() + 10
    while open_ones := [number for number, job in scheduler.jobs().items() if not job.state.is_over]:
        for number in open_ones:
            scheduler.cancel(number)
        assert time.monotonic() < deadline, open_ones
        time.sleep(0.02)
    scheduler.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RunningService]:
    with running_service(tmp_path / "home") as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, real: RunningService) -> Iterator[SiteDirectory]:
    """A Site of the real service whose allocations only sleep."""
    transport = Transport(ClientSettings(url=real.url, token=real.token))
    made = init_site(tmp_path / "place", "a place", transport=transport)
    transport.close()
    directory = SiteDirectory(made.path)
    directory.settings.write_text(settings_text(sync_period_sec=1))
    (directory.root / "job-template.sh").write_text(SLEEPING_TEMPLATE)
    yield directory
    end_allocations(directory)


def ask_for_allocation(client: httpx2.Client, **more: object) -> int:
    body = {
        "site_id": 1,
        "num_nodes": 1,
        "wall_time_min": 5,
        "job_mode": "serial",
        "queue": "local",
        "project": "local",
    }
    answer = client.post("/api/batch-jobs", json=body | more)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def wait_for(client: httpx2.Client, number: int, state: str) -> dict[str, object]:
    deadline = time.monotonic() + WAIT_SEC
    while True:
        view = client.get(f"/api/batch-jobs/{number}").json()
        if view["state"] == state:
            return dict(view)
        assert time.monotonic() < deadline, view
        time.sleep(0.02)
