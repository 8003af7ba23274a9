"""A Site that runs only what its owner approved there (S15): refused, approved, run; and not after a change."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.live_site import BALSAM, LiveSite, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

# One allocation, one Job of an App with this template; prints how the Job ended and what it or the launcher said.
SUBMIT = """
import json, time
from balsam.api import ApplicationDefinition, BatchJob, EventLog

class Guarded(ApplicationDefinition):
    site = "local"
    command_template = {template!r}
    environment_variables = {{"GREETING": "hello"}}

batch = BatchJob.objects.create(
    site_id={site}, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local"
)
job = Guarded.submit(workdir="guarded/{number}", word="World")
assert job.wait(60)
data = [event.data for event in EventLog.objects.filter(job_id=job.id)]
said = job.read_text("job.out") if job.state == "JOB_FINISHED" else data
print(json.dumps([job.state, said]))
batch.cancel()
while batch.state != "finished":  # its launcher must not take the next Job
    time.sleep(0.1)
    batch.refresh_from_db()
"""


def pinned(settings: dict[str, Any]) -> None:
    settings["apps"] = {"accept": "pinned"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("pinned") / "home", pinned) as running:
        yield running


def outcome(site: LiveSite, number: int, template: str) -> tuple[str, str]:
    said = site.run(SUBMIT.format(template=template, site=site.id, number=number))
    state, text = json.loads(said.splitlines()[-1])
    return state, text if isinstance(text, str) else json.dumps(text)


def balsam(site: LiveSite, *words: str, put: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BALSAM), "app", *words],
        env=site.environment, capture_output=True, text=True, timeout=60, input=put, cwd=cwd,
    )  # fmt: skip


def test_refused_then_approved_then_run_and_refused_after_a_change_s15(site: LiveSite) -> None:
    template = 'echo "$GREETING" {{ word }}'
    state, said = outcome(site, 1, template)
    assert state == "FAILED" and "balsam app approve Guarded" in said
    shown = balsam(site, "show", "Guarded")
    assert template in shown.stdout and '"GREETING": "hello"' in shown.stdout
    declined = balsam(site, "approve", "Guarded", put="n\n", cwd=site.path)
    assert declined.returncode == 130 and template in declined.stdout
    assert not (site.path / "approved-apps.json").exists()
    approved = balsam(site, "approve", "Guarded", put="y\n", cwd=site.path)
    assert approved.returncode == 0 and "from now on" in approved.stdout, approved.stderr
    (digest,) = json.loads((site.path / "approved-apps.json").read_text())
    assert digest in shown.stdout
    assert outcome(site, 2, template) == ("JOB_FINISHED", "hello World\n")
    state, said = outcome(site, 3, template + "; echo more")
    assert state == "FAILED" and "not approved" in said
    again = balsam(site, "approve", "Guarded", "--site-path", str(site.path), "--yes", "--json")
    assert json.loads(again.stdout)["was_approved"] is False
    assert outcome(site, 4, template + "; echo more") == ("JOB_FINISHED", "hello World\nmore\n")


def test_approving_says_what_is_wrong(site: LiveSite, tmp_path: Path) -> None:
    assert "has no App 'Nobody'" in balsam(site, "approve", "Nobody", "--yes", cwd=site.path).stderr
    assert "not in a Site directory" in balsam(site, "approve", "Nobody", "--yes", cwd=tmp_path).stderr
    assert "add --yes" in balsam(site, "approve", "Guarded", "--json", cwd=site.path).stdout
    marker = site.path / ".balsam-site"
    before = marker.read_text()
    try:
        marker.write_text(json.dumps({**json.loads(before), "name": "elsewhere"}))
        said = balsam(site, "approve", "Guarded", "--yes", cwd=site.path)
    finally:
        marker.write_text(before)
    assert said.returncode == 1 and "'elsewhere'; log in at its own" in said.stderr
