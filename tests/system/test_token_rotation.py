"""Credentials that end under a running Site: nothing is lost, the agent says so, waits, and goes on with new ones."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.live_site import BALSAM, LiveSite, eventually, live_site

pytestmark = pytest.mark.slow

SUBMIT = """
from balsam.api import ApplicationDefinition, BatchJob, Job

class Wait(ApplicationDefinition):
    site = "local"
    command_template = "until [ -e {{ path }} ]; do sleep 0.2; done; echo done"

Wait.submit(workdir="wait/1", path="../../go")
BatchJob.objects.create(site_id=%d, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local")
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LiveSite]:
    with live_site(tmp_path) as live:
        yield live


def balsam(site: LiveSite, *words: str) -> Any:
    done = subprocess.run(
        [str(BALSAM), *words, "--json"], env=site.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def agent_log(site: LiveSite) -> str:
    return "".join(path.read_text() for path in (site.path / "log").rglob("*") if path.is_file())


def state(site: LiveSite) -> str:
    [job] = balsam(site, "job", "ls")
    return str(job["state"])


def states(site: LiveSite) -> set[str]:
    return {job["state"] for job in balsam(site, "job", "ls")}


def test_a_jobs_run_survives_revocation_and_rotation_of_the_agents_token(site: LiveSite) -> None:
    site.run(SUBMIT % site.id)
    eventually(lambda: states(site) == {"RUNNING"}, "the Job does not run", 60)
    agents = [one["id"] for one in balsam(site, "token", "ls") if one["kind"] == "site"]
    assert balsam(site, "token", "revoke", *map(str, agents))["revoked"] == len(agents)
    eventually(lambda: "balsam token rotate" in agent_log(site), "the agent does not say what is wrong", 60)
    assert states(site) == {"RUNNING"}
    assert balsam(site, "token", "rotate", str(site.path)) == {"site_id": site.id, "ended": 0}
    assert balsam(site, "token", "rotate", str(site.path))["ended"] == 1
    (site.path / "data" / "go").touch()
    eventually(lambda: states(site) == {"JOB_FINISHED"}, "the Job does not end", 60)
    assert len(site.pids("agent")) == 1
