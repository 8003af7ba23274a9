"""Pickles that tell who opened them (T12): carried, listed, shown and explained by all, opened by workers alone.

A canary writes the command line of the process that opened it into a file of its own name. With what a Site has by
default those are worker processes, and the program of a user who asks for a value; with `apps.python: false` nobody.
"""

from __future__ import annotations

import inspect
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx2
import pytest

from balsam.client.outbox import Outbox, outbox_path
from balsam.client.pickling import open_envelope, pickler_version, python_version
from balsam.domain.envelope import Envelope
from tests.system.live_site import BALSAM, LiveSite, eventually, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Canary:
    """Its pickle is code: whoever opens it does not need this class."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"import sys\nwith open({self.path!r}, 'a') as file:\n    print(*sys.orig_argv, file=file)"
        return exec, (code,)


HEAD = (
    "from typing import Any\n"
    + inspect.getsource(Canary)
    + """
import os, sys, time
from pathlib import Path
from balsam.api import *

TRAPS = %(traps)r

class Wrong(Exception):
    def __reduce__(self):
        return Canary(TRAPS + "/exception").__reduce__()

class Command(ApplicationDefinition):
    site = "local"
    command_template = "echo {{ word }}"

class Python(ApplicationDefinition):
    site = "local"
    trap = Canary(TRAPS + "/app")
    def run(self, value):
        if self.job.tags["ends"] == "badly":
            raise Wrong("bad")
        return Canary(TRAPS + "/result")

class Prepared(Python):
    def preprocess(self):
        self.job.state = "PREPROCESSED"

class Alone(Python):
    # In a process of its own, which leaves a pickle where its answer is looked for.
    python_exe = sys.executable
    def run(self, value):
        import pickle
        Path(sys.orig_argv[-1] + ".answer").write_bytes(pickle.dumps(Canary(TRAPS + "/answer")))
        os._exit(0)
"""
)

# All that may hold a canary does; a command takes none.
SUBMIT = """
def submit(app, ends="well", **more):
    more = {"tags": {"of": "t12", "ends": ends}, "node_packing_count": 4, **more}
    return app.submit(f"trap/{app.__name__}/{ends}", value=Canary(TRAPS + "/parameter"), **more)

jobs = [submit(Python, data={"x": %(data)r}), submit(Python, "badly"), submit(Prepared), submit(Alone)]
for word in (Canary(TRAPS + "/word"), %(data)r):
    try:
        Command.submit("trap/command", word=word)
    except (ValidationFailed, TypeError) as error:
        print(error)
    else:
        raise SystemExit("a command line has taken a pickle")
"""

RUN = """
from balsam.api import *
jobs = list(Job.objects.filter(tags={"of": "t12"}).order_by("id"))
batch = BatchJob.objects.create(
    site_id=jobs[0].site_id, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local"
)
assert len(Job.objects.wait(jobs, timeout=150).done) == 4
print(*(job.state.value for job in jobs))
print(*(" ".join(job.explain().reasons).replace("\\n", " ") for job in jobs), sep="\\n")
"""

# A user asks for values; here the code runs, as the guide says.
ASK = """
from balsam.api import *
well, badly, *_ = Job.objects.filter(tags={"of": "t12"}).order_by("id")
print(well.result(timeout=60))
try:
    badly.result(timeout=60)
except RemoteError as error:
    print(error.remote_type, error.remote_message)
"""

# Everything that a program can ask without asking for a value.
LOOK = """
from balsam.api import *

for job in Job.objects.all():
    job.refresh_from_db()
    told = [repr(job), str(job), job._repr_html_(), job.display_dict(), job.parameters, job.data, job.tags, job.state,
            job.app_name, job.app.__name__, job.explain(), job.done(), list(job.parent_query()), job.workdir_exists()]
    assert len(told) == 14
assert Job.objects.filter(workdir__contains="trap").count() == len(list(Job.objects.filter(tags={"of": "t12"})))
for kind in (App, Site, BatchJob, EventLog):
    for found in kind.objects.all():
        repr(found), str(found), found.display_dict()
print(EventLog.objects.filter(job_id=[job.id for job in Job.objects.all()]).count())
"""


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    path = tmp_path / "traps"
    path.mkdir()
    return path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LiveSite]:
    with live_site(tmp_path / "home") as running:
        yield running


@pytest.fixture
def careful(tmp_path: Path) -> Iterator[LiveSite]:
    def no_python(settings: dict[str, Any]) -> None:
        settings["apps"] = {"python": False}

    with live_site(tmp_path / "home", no_python) as running:
        yield running


def head(traps: Path) -> str:
    return HEAD.replace("%(traps)r", repr(str(traps)))


def opened(traps: Path) -> dict[str, set[str]]:
    """The names of the canaries that somebody opened, with the command lines of those who did."""
    return {path.name: set(path.read_text().splitlines()) for path in traps.iterdir()}


def envelope(traps: Path, name: str) -> dict[str, Any]:
    payload = pickle.dumps(Canary(str(traps / name)))
    return Envelope.seal(payload, python=python_version(), pickler=pickler_version()).as_json()


def balsam(site: LiveSite, *words: str) -> str:
    done = subprocess.run([str(BALSAM), *words], env=site.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def look_everywhere(site: LiveSite) -> None:
    """As a program, at the command line, at the calls of the service themselves, and at its pages."""
    assert int(site.run(LOOK, name="look.py")) > 0
    ids = [str(job["id"]) for job in json.loads(balsam(site, "job", "ls", "--json"))]
    for words in ("job ls", "job ls --verbose", "job ls --by-state", "app ls", "site ls", "queue ls"):
        balsam(site, *words.split())
    for verb in ("explain", "events"):
        balsam(site, "job", verb, *ids)
        balsam(site, "job", verb, *ids, "--json")
    for app in ("Python", "Prepared", "Alone"):
        balsam(site, "app", "show", app)
        balsam(site, "app", "show", app, "--json")
    token = json.loads((site.home / "service.json").read_text())["token"]
    headers = {"Authorization": f"Bearer {token}", "Balsam-Wire": "1"}
    with httpx2.Client(base_url=site.ready["url"], headers=headers, trust_env=False, timeout=30) as client:
        for path in (
            "jobs",
            "apps",
            "events",
            *(f"jobs/{number}/{what}" for number in ids for what in ("result", "explain")),
        ):
            assert client.get(f"/api/{path}").status_code == 200, path
        link = client.post("/api/auth/browser-link").json()["path"]
    with httpx2.Client(base_url=site.ready["url"], trust_env=False, timeout=30, follow_redirects=True) as browser:
        fields = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', browser.get(link).text)
        entered = browser.post("/ui/enter", data={name: unescape(value) for name, value in fields})
        assert entered.status_code == 200 and str(entered.url).endswith("/ui")
        for path in ("", "/jobs", "/allocations", "/sites", *(f"/jobs/{number}" for number in ids)):
            page = browser.get(f"/ui{path}")
            assert page.status_code == 200, path
        assert "trap/" in page.text


def check(traps: Path, *names: str) -> None:
    """Canaries of these names were opened, by processes of workers, and no others."""
    found = opened(traps)
    assert set(found) == set(names), found
    for commands in found.values():
        assert all(" -m balsam.worker." in command for command in commands), found


def submit(site: LiveSite, traps: Path) -> None:
    site.run(head(traps) + SUBMIT.replace("%(data)r", repr(envelope(traps, "data"))), name="submit.py")


def leave_outboxes(directory: Path, traps: Path) -> tuple[Path, Path]:
    """What a process that was taken over could leave: a file that is a pickle, and a result with one in it."""
    bad, good = (outbox_path(directory, number) for number in (90_001, 90_002))
    bad.write_bytes(pickle.dumps(Canary(str(traps / "outbox"))))
    outbox = Outbox(good, 90_002)
    told = {"job_id": 1, "token": 1, "event": "run_done", "at": "2026-01-01T00:00:00Z", "return_code": 0}
    outbox.append([{**told, "result": {"value": envelope(traps, "record")}}])
    outbox.close()
    return bad, good


def test_a_canary_tells_that_it_was_opened(traps: Path) -> None:
    """Else nothing here could fail."""
    pickle.loads(pickle.dumps(Canary(str(traps / "plain"))))
    open_envelope(Envelope.from_json(envelope(traps, "sealed")))
    assert opened(traps) == {name: {" ".join(sys.orig_argv)} for name in ("plain", "sealed")}


def test_t12_nobody_but_workers_opens_what_is_carried_and_shown(site: LiveSite, traps: Path) -> None:
    submit(site, traps)
    # The one Job that has a hook needs no allocation for that.
    eventually(lambda: "app" in opened(traps), "the hook does not run", 90)
    look_everywhere(site)
    check(traps, "app")
    states, *why = site.run(RUN, name="run.py", timeout=200).splitlines()
    assert states == "JOB_FINISHED FAILED JOB_FINISHED FAILED"
    assert "Wrong: bad" in why[1] and "run() ended its process" in why[3], why
    (directory,) = (path.parent for path in site.path.glob("qsubmit/*/launcher.json"))
    left = leave_outboxes(directory, traps)
    look_everywhere(site)
    check(traps, "app", "parameter")

    site.run("from balsam.api import *\nfor batch in BatchJob.objects.all(): batch.cancel()\n", name="end.py")
    eventually(lambda: not any(path.exists() for path in left), "the agent does not look at the outboxes", 90)
    assert all(path.with_name(path.name + ".refused").exists() for path in left)
    assert site.stop() == 0
    left = leave_outboxes(site.path / "processing", traps)
    site.start()
    eventually(lambda: not any(path.exists() for path in left), "the agent does not look at its own outboxes", 90)
    look_everywhere(site)
    check(traps, "app", "parameter")

    assert site.run(ASK, name="ask.py").splitlines() == ["None", "__main__.Wrong bad"]
    found = opened(traps)
    assert set(found) == {"app", "parameter", "result", "exception"}
    for name in ("result", "exception"):
        (command,) = found[name]
        assert command.endswith("/ask.py"), command


def test_t12_a_site_without_python_opens_nothing(careful: LiveSite, traps: Path) -> None:
    submit(careful, traps)
    states, *why = careful.run(RUN, name="run.py", timeout=200).splitlines()
    assert states == "FAILED FAILED FAILED FAILED"
    assert len(why) == 4 and all("this Site loads none" in reason for reason in why), why
    look_everywhere(careful)
    check(traps)
