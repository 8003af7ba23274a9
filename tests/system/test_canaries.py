"""A pickle is opened by the worker that runs it and by whoever asks for its value, and by nobody else (T12).

Each canary writes down who opened it. They travel in every place that a pickle can stand in: a parameter, what `run`
returns, what it raises, and the code of the App itself.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.system.live_site import BALSAM, LiveSite, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

# `sings` is what unpickling calls. It is in the script, so that it travels by value, as a user's own code does.
CANARIES = """
import json, sys
from pathlib import Path
from balsam.api import ApplicationDefinition, BatchJob, Site

[SITE] = Site.objects.all()
SONGS = {songs!r}

def sings(name):
    from pathlib import Path
    words = Path("/proc/self/cmdline").read_bytes().decode().split(chr(0))
    with open(SONGS, "a") as file:
        file.write(name + " " + " ".join(words) + chr(10))
    return name

class Canary:
    def __init__(self, name):
        self.name = name
    def __reduce__(self):
        return sings, (self.name,)

class Broken(Exception):
    def __reduce__(self):
        return sings, ("raised",)

class Opens(ApplicationDefinition):
    site = SITE.name
    bird = Canary("code")
    def run(self, bird):
        return Canary("returned")

class Raises(ApplicationDefinition):
    site = SITE.name
    def run(self, bird):
        raise Broken("as it was to")
"""
SUBMITS = """
jobs = [app.submit(f"birds/{app.__name__}", bird=Canary("parameter"), node_packing_count=2) for app in (Opens, Raises)]
BatchJob.objects.create(site_id=SITE.id, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local")
for job in jobs:
    job.wait(120)
print(json.dumps([[job.id, job.state.value] for job in jobs]))
"""
LOOKS = """
from balsam.api import EventLog, Job
for job in Job.objects.all():
    job.refresh_from_db()
    job.explain(), job.state, job.data, job.tags, repr(job)
print(len(list(EventLog.objects.all())), sorted(ApplicationDefinition.load_by_site(SITE.name)))
"""
ASKS = """
from balsam.api import Job
print(Job.objects.get(id={job}).result())
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LiveSite]:
    with live_site(tmp_path / "home") as running:
        yield running


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    return tmp_path / "songs"


def heard(songs: Path) -> list[tuple[str, str]]:
    """Which canary sang, and the command line of the process that opened it."""
    lines = songs.read_text().splitlines() if songs.exists() else []
    return [(name, words) for name, _, words in (line.partition(" ") for line in lines)]


def looked_at(site: LiveSite) -> Iterator[str]:
    """What the service tells, in every way of asking, of everything there is."""
    token = json.loads((site.home / "service.json").read_text())
    headers = {"Authorization": f"Bearer {token['token']}", "Balsam-Wire": "1"}
    with httpx2.Client(base_url=site.ready["url"], headers=headers, trust_env=False) as client:
        jobs = client.get("/api/jobs").json()["results"]
        paths = ["/api/apps", "/api/events", "/api/sites", "/api/sessions", "/api/batch-jobs", "/metrics"]
        paths += [f"/api/jobs/{job['id']}{part}" for job in jobs for part in ("", "/explain", "/result")]
        for path in paths:
            reply = client.get(path)
            assert reply.status_code < 500, reply.text
            yield reply.text


def test_t12_nobody_opens_a_pickle_but_its_worker(site: LiveSite, songs: Path) -> None:
    begin = CANARIES.format(songs=str(songs))
    (first, *one), (second, *other) = json.loads(site.run(begin + SUBMITS, 150).splitlines()[-1])
    assert (one, other) == (["JOB_FINISHED"], ["FAILED"])
    site.run(begin + LOOKS)
    assert any("birds/Opens" in text for text in looked_at(site))
    for verb in (("job", "ls"), ("job", "explain", str(second)), ("job", "events", str(first)), ("app", "ls")):
        subprocess.run([BALSAM, *verb], env=site.environment, check=True, capture_output=True, timeout=60)
    assert site.stop() == 0  # and what it does when it starts again, with all that it kept
    site.start()
    assert list(looked_at(site))
    found = heard(songs)
    assert {"parameter", "code"} <= {name for name, _ in found}, "or the canaries could not be heard"
    strangers = [(name, words) for name, words in found if "balsam.worker" not in words]
    assert strangers == []
    site.run(begin + ASKS.format(job=first))
    assert [(name, "script" in words) for name, words in heard(songs)[len(found) :]] == [("returned", True)]


def test_t12_a_site_without_python_apps_opens_none(tmp_path: Path, songs: Path) -> None:
    with live_site(tmp_path / "home", lambda settings: settings.update(apps={"python": False})) as site:
        said = site.run(CANARIES.format(songs=str(songs)) + SUBMITS, 150)
        assert [state for _, state in json.loads(said.splitlines()[-1])] == ["FAILED", "FAILED"]
        assert "apps.python" in " ".join(looked_at(site))
    assert heard(songs) == []
