"""Python Apps as a user has them: `balsam up`, a script, values and exceptions; what the Site and its Python forbid."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balsam.client.pickling import python_version
from tests.system.live_site import BALSAM, LiveSite, eventually, finished, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

HEAD = """
import os, time
from balsam.api import *
site = Site.objects.get(name="{name}")

def allocate(minutes=5):
    return BatchJob.objects.create(
        site_id=site.id, num_nodes=1, wall_time_min=minutes, job_mode="mpi", queue="local", project="local"
    )
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("python") / "home") as running:
        yield running


def run(site: LiveSite, code: str, **more: Any) -> str:
    return site.run(HEAD.format(name=site.name) + code, **more)


def test_a_script_with_functions_of_its_own(site: LiveSite) -> None:
    said = run(
        site,
        """
OFFSET = 5

class Result:
    def __init__(self, value):
        self.value = value

def twice(x):
    return 2 * x

class Base(ApplicationDefinition):
    site = site.name
    def offset(self):
        return OFFSET

class Python(Base):
    def run(self, x, mode="fast"):
        if mode == "bad":
            raise ZeroDivisionError(f"bad {x}")
        return Result(twice(x) + self.offset())

class Collect(Base):
    def run(self):
        return [parent.result().value for parent in sorted(self.job.parent_query(), key=lambda job: job.id)]

batch = allocate()
jobs = [Python.submit(f"python/{n}", x=n, node_packing_count=2) for n in range(5)]
print([job.result(timeout=60).value for job in jobs], type(jobs[0].result()) is Result)
bad = Python.submit("python/bad", x=3, mode="bad")
try:
    bad.result(timeout=60)
except ZeroDivisionError as error:
    import traceback
    text = "".join(traceback.format_exception(error))
    print(error, "in run" in text, "Traceback" in text)
print(bad.state.value, "ZeroDivisionError: bad 3" in " ".join(bad.explain().reasons), bad.return_code)
print("ZeroDivisionError: bad 3" in bad.read_text("job.out"))
""",
    )
    assert said.splitlines() == ["[5, 7, 9, 11, 13] True", "bad 3 True True", "FAILED True 1", "True"]


def test_cancel_stops_it_and_the_result_says_so(site: LiveSite) -> None:
    said = run(
        site,
        """
allocate()

class Long(ApplicationDefinition):
    site = site.name
    def run(self):
        print("runs", flush=True)
        time.sleep(600)

job = Long.submit("long/1")
while job.poll_state() != "RUNNING" or not (job.file_exists("job.out") and "runs" in job.read_text("job.out")):
    time.sleep(0.1)
begin = time.monotonic()
job.cancel("enough")
try:
    job.result(timeout=60)
except JobCancelled as error:
    print(job.state.value, "was cancelled" in str(error), time.monotonic() - begin < 30)
""",
    )
    assert said.split() == ["CANCELLED", "True", "True"]


def test_a_result_waits_through_a_restart_of_the_service(site: LiveSite) -> None:
    process = site.begin(
        HEAD.format(name=site.name)
        + """
allocate()

class Slow(ApplicationDefinition):
    site = site.name
    def run(self, seconds):
        time.sleep(seconds)
        return {"slept": seconds}

job = Slow.submit("slow/1", seconds=4)
while job.poll_state() != "RUNNING":
    time.sleep(0.1)
print("running", flush=True)
print(job.result(timeout=100))
""",
        name="restart.py",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    site.kill("service")
    assert finished(process, 120) == "{'slept': 4}\n"


def balsam(site: LiveSite, *words: str) -> str:
    done = subprocess.run([str(BALSAM), *words], env=site.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_source_is_readable_in_the_service(site: LiveSite) -> None:
    run(
        site,
        "class Readable(ApplicationDefinition):\n    site = site.name\n    def run(self): return 1\nReadable.sync()\n",
    )
    shown = balsam(site, "app", "show", "Readable")
    assert "def run(self): return 1" in shown
    assert f'"python_exe": null' in shown and f'["{python_version()}", "cloudpickle' in shown  # noqa: F541
    (app,) = json.loads(balsam(site, "app", "show", "Readable", "--json"))
    assert app["code"]["runs"] is True and "def run" in app["source_code"]


def test_code_of_jobs_uses_the_service_with_a_token_of_its_own(site: LiveSite) -> None:
    """Neither that of the user nor that of the launcher; in a file of mode 0600 that ends with the allocation."""
    of_others = credentials(site)
    said = run(
        site,
        """
class Leaf(ApplicationDefinition):
    site = site.name
    command_template = "echo leaf {{ number }}"

class Grows(ApplicationDefinition):
    site = site.name
    def run(self):
        from balsam.api import App, BatchJob, Conflict, BalsamError, client
        who = client.who_am_i()
        assert (who.kind, who.site_id) == ("job", self.job.site_id), who
        small = {"node_packing_count": 2}  # beside this one, on its node
        leaves = [Job(app_id="Leaf", workdir=f"leaf/{n}", parameters={"number": n}, **small) for n in range(2)]
        Job.objects.bulk_create(leaves)
        waits = Job(app_id="Leaf", workdir="leaf/x", parameters={"number": 9}, num_nodes=1000)
        waits.save()
        waits.cancel()
        done = Job.objects.wait(leaves, timeout=60).done
        try:
            BatchJob.objects.create(
                site_id=who.site_id, num_nodes=1, wall_time_min=1, job_mode="mpi", queue="local", project="local"
            )
        except BalsamError as error:
            refused = "code of a Job" in str(error)
        mode = os.stat(os.environ["BALSAM_CLIENT_PATH"]).st_mode & 0o777
        return [len(done), waits.state.value, refused, oct(mode), BatchJob.objects.get(id=who.batch_job_id).state.value]

class InACommand(ApplicationDefinition):
    site = site.name
    command_template = "{{ python }} -c 'from balsam.api import client; print(client.who_am_i().kind)'"

Leaf.sync()
batch = allocate()
import sys
print(Grows.submit("grows/1", node_packing_count=2).result(timeout=90))
command = InACommand.submit("command/1", python=sys.executable)
command.result(timeout=60)
print(command.read_text("job.out").strip())
batch.cancel()
""",
    )
    assert said.splitlines() == ["[2, 'CANCELLED', True, '0o600', 'running']", "job"]
    eventually(lambda: credentials(site) <= of_others, "credentials of Jobs are left", 60)


def credentials(site: LiveSite) -> set[Path]:
    """Those for code of Jobs, of all allocations that are not over."""
    return set((site.path / "qsubmit").glob("*/job-credentials.json"))


def other_python() -> Path:
    """An interpreter of another minor version in which openbalsam can be used."""
    for version in ("3.12", "3.13", "3.11"):
        if version == python_version():
            continue
        found = shutil.which(f"python{version}")
        candidates = [Path(found)] if found else []
        candidates += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
        candidates += sorted(Path("/opt").glob(f"**/versions/{version}.*/bin/python3"))
        for candidate in candidates:
            if _works(candidate):
                return candidate
    pytest.skip("no Python of another minor version here: install python3.12 or python3.13")


def _works(python: Path) -> bool:
    done = subprocess.run([str(python), "-c", "import sys, venv; print(sys.version_info[:2])"], capture_output=True)
    return done.returncode == 0


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of another minor version with openbalsam in it, as on a user's laptop."""
    python = other_python()
    path = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([str(python), "-m", "venv", str(path)], check=True)
    pip = [str(path / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "-e", str(Path(__file__).parents[2])], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"openbalsam can't be installed for {python}: {done.stderr.strip().splitlines()[-1]}")
    return path / "bin" / "python"


def test_another_minor_version_is_refused_at_the_client_and_checked_at_the_site(
    site: LiveSite, elsewhere: Path, tmp_path: Path
) -> None:
    """Both versions are named, and nothing crashes."""
    script = tmp_path / "other.py"
    script.write_text(
        HEAD.format(name=site.name)
        + """
class Other(ApplicationDefinition):
    site = site.name
    def run(self, x):
        return x

try:
    Other.submit("other/1", x=1)
except ValidationFailed as error:
    print(error)
Site.python = None            # a client that does not know
from balsam.client.client import Client
Client.python_of = lambda self, site_id: None
allocate()
job = Other.submit("other/2", x=1)
try:
    job.result(timeout=90)
except RemoteError as error:
    print(error)
"""
    )
    done = subprocess.run(
        [str(elsewhere), str(script)], env=site.environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    version = subprocess.run([str(elsewhere), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                             capture_output=True, text=True).stdout.strip()  # fmt: skip
    refused, failed = done.stdout.split("AppNotLoaded", 1)
    assert f"Python {version} here, and its Site runs Python {python_version()}" in refused
    assert f"pickled by Python {version} and this is Python {python_version()}" in failed


def test_python_exe_of_another_minor_version_runs_what_was_made_there(
    site: LiveSite, elsewhere: Path, tmp_path: Path
) -> None:
    script = tmp_path / "there.py"
    script.write_text(
        HEAD.format(name=site.name)
        + f"""
class There(ApplicationDefinition):
    site = site.name
    python_exe = {str(elsewhere)!r}
    def run(self, x):
        import sys
        return sys.version_info[:2], x

allocate()
print(There.submit("there/1", x=(1, 2)).result(timeout=90) == (__import__("sys").version_info[:2], (1, 2)))
"""
    )
    done = subprocess.run(
        [str(elsewhere), str(script)], env=site.environment, capture_output=True, text=True, timeout=150
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_site_without_python(tmp_path: Path) -> None:
    def no_python(settings: dict[str, Any]) -> None:
        settings["apps"] = {"python": False}

    with live_site(tmp_path / "home", no_python) as running:
        said = run(
            running,
            """
class Refused(ApplicationDefinition):
    site = site.name
    def run(self):
        return 1

class Runs(ApplicationDefinition):
    site = site.name
    command_template = "echo ran"

allocate()
job, command = Refused.submit("a"), Runs.submit("b")
try:
    job.result(timeout=60)
except JobFailed as error:
    print("this Site loads none" in str(error))
print(command.result(timeout=60))
""",
        )
    assert said.split() == ["True", "None"]


def test_import_of_the_worker_is_light() -> None:
    """What a worker needs is up in a fraction of a second: neither pydantic nor HTTP comes with it."""
    code = (
        "import sys; import balsam.worker.serve; "
        "late = {'pydantic', 'httpcore2', 'yaml', 'click', 'asyncio', 'jinja2', 'numpy'} & set(sys.modules); "
        "assert not late, late"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": ""})
