"""A service that is newer than the users and the Site it has: one wire version apart it serves them, two apart it says
what to upgrade, and nobody at the Site ends over that (docs/operations.md, "Upgrades").

The newer services are copies of this one; the SDK, the command, the agent and the launcher are of this version.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from balsam.client.client import Client
from balsam.client.errors import WireVersionMismatch
from balsam.client.settings import ClientSettings
from balsam.client.transport import Transport
from balsam.domain.states import JobState
from balsam.site.directory import SiteDirectory
from balsam.site.init import init_site
from tests.crash.test_upgrade import Installation, replace, speaks
from tests.services import RunningService, running_service
from tests.site.conftest import end_allocations, running_agent
from tests.system.live_site import BALSAM, eventually

pytestmark = pytest.mark.timeout(300)
PATIENCE_SEC = 120.0
UPGRADE_HERE = "upgrade openbalsam where this call came from"
UPGRADE_THERE = "upgrade the service, or use an openbalsam of its version"


@dataclass(frozen=True)
class Served:
    """A service, and a user and a Site with its agent, who are of this version."""

    installation: Installation
    service: RunningService
    client: Client
    site: SiteDirectory
    agent: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        """What the agent said."""
        return (self.site.log / "agent.log").read_text()

    @property
    def pilot_output(self) -> str:
        """What guardians and launchers said."""
        return "".join(path.read_text() for path in self.site.qsubmit.glob("*.output"))

    def become(self, wire_version: int) -> None:
        """The service starts anew as the version that speaks this one."""
        version = self.installation.root / f"wire-{wire_version}"
        self.installation.install(version if version.exists() else self.installation.make_newer(wire_version))
        replace(self.service, wire_version)

    def allocate(self) -> Any:
        return self.client.BatchJob.objects.create(
            site_id=self.client.Site.objects.first().id,
            num_nodes=1,
            wall_time_min=10,
            job_mode="mpi",
            queue="local",
            project="local",
        )


@contextmanager
def served(root: Path, wire_version: int) -> Iterator[Served]:
    """Everything in place at a service that speaks this version and the one before."""
    installation, site = Installation(root), SiteDirectory(root / "site")
    installation.install(installation.make_newer(wire_version))
    with running_service(root / "home", env={"PYTHONPATH": str(installation.path)}) as service:
        assert speaks(service) == wire_version, "it is not the copy that runs"
        settings = ClientSettings(service.url, service.token)
        transport = Transport(settings)
        init_site(site.root, transport=transport)
        transport.close()
        try:
            with Client(settings) as client, running_agent(site) as agent:
                yield Served(installation, service, client, site, agent)
        finally:
            end_allocations(site)


def wait_app(client: Client) -> Any:
    class Wait(client.ApplicationDefinition):  # type: ignore[misc,name-defined]
        """Runs until there is a file."""

        site = "site"
        command_template = ": > here; until [ -e {{ path }} ]; do sleep 0.1; done"

    return Wait


def job_ls(service: RunningService, program: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, "job", "ls"],
        env={**os.environ, "BALSAM_HOME": str(service.home), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SEC,
    )


def test_a_service_one_wire_version_newer_runs_the_jobs_of_users_and_sites_of_before(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.touch()
    with served(tmp_path, 2) as parts:
        job = wait_app(parts.client).submit("one", path=str(go))
        parts.allocate()
        assert job.wait(timeout=PATIENCE_SEC), parts.log
        assert (job.state, job.return_code) == (JobState.JOB_FINISHED, 0)
        listed = job_ls(parts.service, [str(BALSAM)])
        assert listed.returncode == 0 and "JOB_FINISHED" in listed.stdout, listed
        assert parts.agent.poll() is None


def test_a_service_two_wire_versions_newer_says_what_to_upgrade_and_ends_nothing_at_the_site(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with served(tmp_path, 2) as parts:
        client, wait = parts.client, wait_app(parts.client)
        job = wait.submit("long", path=str(go))
        parts.allocate()
        eventually(lambda: (parts.site.data / "long" / "here").exists(), "the Job did not start", PATIENCE_SEC)
        raised: list[Exception] = []

        def wait_for_it() -> None:
            try:
                job.wait()
            except WireVersionMismatch as error:
                raised.append(error)

        waiting = threading.Thread(target=wait_for_it, daemon=True)
        waiting.start()
        parts.become(3)

        with pytest.raises(WireVersionMismatch, match=UPGRADE_HERE):
            client.Job.objects.count()
        listed = job_ls(parts.service, [str(BALSAM)])
        assert listed.returncode == 1 and UPGRADE_HERE in listed.stderr and "Traceback" not in listed.stderr, listed
        waiting.join(PATIENCE_SEC)
        assert [UPGRADE_HERE in str(error) for error in raised] == [True], "who waits is not told"
        eventually(lambda: UPGRADE_HERE in parts.log, "the agent does not say it", PATIENCE_SEC)
        go.touch()  # the Job ends while nobody is there to whom its launcher can say so
        eventually(lambda: UPGRADE_HERE in parts.pilot_output, "the launcher does not say it", PATIENCE_SEC)
        assert parts.agent.poll() is None, parts.log
        parts.become(2)
        eventually(lambda: "answers again" in parts.log, "the agent does not go on", PATIENCE_SEC)
        ended = client.Job.objects.get(id=job.id)
        assert ended.wait(timeout=PATIENCE_SEC), parts.log
        assert (ended.state, ended.return_code, ended.attempt) == (JobState.JOB_FINISHED, 0, 1), "it ran again"
        allocation = parts.allocate()

        def is_submitted() -> bool:
            allocation.refresh_from_db()
            return allocation.scheduler_id is not None

        eventually(is_submitted, "the agent takes no allocation any more", PATIENCE_SEC)
        another = wait.submit("another", path=str(go))
        assert another.wait(timeout=PATIENCE_SEC) and another.state is JobState.JOB_FINISHED, parts.log
        assert parts.agent.poll() is None
        assert parts.log.count(UPGRADE_HERE) < 20, "it is said again and again"
        assert "Traceback" not in parts.pilot_output, "no fault of the launcher's"


def test_a_command_that_is_newer_than_the_service_says_that_the_service_is_to_be_upgraded(tmp_path: Path) -> None:
    newer = Installation(tmp_path).make_newer()
    with running_service(tmp_path / "home") as service:
        listed = job_ls(service, [sys.executable, "-m", "balsam.cli.main"], PYTHONPATH=str(newer))
    assert listed.returncode == 1 and UPGRADE_THERE in listed.stderr and "Traceback" not in listed.stderr, listed
