"""A service's administrator at the command line: accounts, quotas, roles, passwords, old Jobs, the audit log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from balsam.launcher.courier import DOUBT_SEC
from tests.server.world import PASSWORD, Person, furnish
from tests.services import RunningService, running_service
from tests.system.live_site import BALSAM, eventually

pytestmark = pytest.mark.slow
OTHER = "four words of another one"
# A first attempt stays until it is ended; each says that it is there.
LONG = """
import sys, time
from balsam.api import ApplicationDefinition, BatchJob, Job, Site

class Long(ApplicationDefinition):
    site = "dans"
    command_template = "echo $BALSAM_ATTEMPT $$ >>spells; [ $BALSAM_ATTEMPT != 1 ] || exec sleep 600"

site = Site.objects.get(name="dans")
if sys.argv[1] == "first":
    Long.submit(workdir="long")
allocation = BatchJob.objects.create(
    site_id=site.id, num_nodes=1, wall_time_min=20, job_mode="mpi", queue="local", project="local"
)
(job,) = Job.objects.filter(workdir="long")
if sys.argv[1] == "again":
    assert job.wait(90), job.explain()
    print(job.state.value, job.attempt)
    allocation.cancel()
    while allocation.state != "finished":
        time.sleep(0.1)
        allocation.refresh_from_db()
"""


@dataclass
class Home:
    """Somebody with a home of their own."""

    home: Path

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        given = {**os.environ, "BALSAM_HOME": str(self.home), "BALSAM_RETRY_FOR_SEC": "0", **environment}
        command = [str(BALSAM), *map(str, words)]
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=100)

    def says(self, *words: object, **environment: str) -> str:
        """What a command for people prints."""
        done = self.run(*words, **environment)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def json(self, *words: object, **environment: str) -> Any:
        return json.loads(self.says(*words, "--json", **environment))

    def fails(self, *words: object, **environment: str) -> str:
        done = self.run(*words, **environment)
        assert done.returncode != 0 and "Traceback" not in done.stderr, (words, done.stdout, done.stderr)
        return done.stderr


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service") / "home", options=["--multi-user"]) as running:
        yield running


@pytest.fixture(scope="module")
def root(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The first administrator, logged in."""
    root = Home(tmp_path_factory.mktemp("people") / "root")
    code = re.search(r"--code (\S+)", service.log)
    assert code is not None
    root.says("admin", "first", service.url, "--code", code[1], "-u", "root", BALSAM_PASSWORD=PASSWORD)
    root.says("login", service.url, "-u", "root", BALSAM_PASSWORD=PASSWORD)
    return root


def make(root: Home, service: RunningService, name: str) -> Home:
    """An account, logged in."""
    root.says("server", "add-user", name, BALSAM_PASSWORD=PASSWORD)
    made = Home(root.home.parent / name)
    made.says("login", service.url, "-u", name, BALSAM_PASSWORD=PASSWORD)
    return made


def account(root: Home, name: str) -> dict[str, Any]:
    (found,) = [one for one in root.json("admin", "users") if one["username"] == name]
    return dict(found)


def test_limits_of_an_account(root: Home, service: RunningService) -> None:
    make(root, service, "lea")
    words = ("admin", "quota", "lea", "--max-jobs", "5", "--requests-per-sec", "7", "--quota-bytes", "1000")
    assert root.says(*words) == "lea: max_jobs 5, quota_bytes 1000, requests_per_sec 7.\n"
    assert root.says("admin", "quota", "lea", "--max-jobs", "none") == "lea: max_jobs as for everybody.\n"
    lea = account(root, "lea")
    assert (lea["max_jobs"], lea["quota_bytes"], lea["requests_per_sec"]) == (None, 1000, 7)
    assert "neither a whole number nor none" in root.fails("admin", "quota", "lea", "--max-jobs", "many")
    assert "say what to set" in root.fails("admin", "quota", "lea")
    assert "balsam admin users" in root.fails("admin", "quota", "nobody", "--max-jobs", "1")
    assert re.search(r"lea .*active .* 1000 +7", root.says("admin", "users"))


def test_an_account_is_disabled_and_enabled(root: Home, service: RunningService) -> None:
    dan = make(root, service, "dan")
    assert root.says("admin", "disable", "dan") == "dan is disabled.\n"
    refusal = dan.fails("site", "ls")
    assert "this account is disabled; ask the administrators" in refusal
    assert "balsam login" not in refusal, "it would not help"
    assert account(root, "dan")["disabled_at"] and "disabled" in root.says("admin", "users")
    assert root.says("admin", "enable", "dan") == "dan is enabled.\n"
    dan.says("site", "ls")
    assert "root is the only administrator" in root.fails("admin", "disable", "root")


@contextmanager
def agent_of(person: Home, site: Path) -> Iterator[Path]:
    """A Site with its agent; the agent's log."""
    person.says("site", "init", site, "--name", "dans", "--machine", "local")
    log = site.parent / "agent.log"
    words = [str(BALSAM), "site", "start", "--foreground", str(site)]
    with log.open("w") as file:
        env = {**os.environ, "BALSAM_HOME": str(person.home)}
        agent = subprocess.Popen(words, stdout=file, stderr=file, env=env)
    try:
        eventually(lambda: "agent is running" in log.read_text(), "no agent", 30)
        yield log
        assert agent.poll() is None, "it lived through all of it"
    finally:
        agent.terminate()
        agent.wait()
        for process in psutil.process_iter():  # where the test has failed
            with suppress(psutil.Error):
                if process.environ().get("BALSAM_HOME") == str(person.home):
                    process.kill()


@pytest.mark.timeout(300)
def test_an_account_whose_jobs_run_is_disabled_and_enabled(
    root: Home, service: RunningService, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """What runs ends, once the launcher has been refused for a minute. Nothing is lost: it runs again afterwards."""
    ed = make(root, service, "ed")
    script, spells = tmp_path / "long.py", tmp_path / "site" / "data" / "long" / "spells"
    script.write_text(LONG)
    env = {**os.environ, "BALSAM_HOME": str(ed.home)}
    with agent_of(ed, tmp_path / "site") as log:
        subprocess.run([sys.executable, script, "first"], env=env, check=True, timeout=60)
        eventually(lambda: spells.exists() and spells.read_text().endswith("\n"), "the Job does not run", 60)
        pid = int(spells.read_text().split()[1])
        root.says("admin", "disable", "ed")
        begun = time.monotonic()
        eventually(lambda: "this account is disabled" in log.read_text(), "the agent does not say why", 60)
        eventually(lambda: not psutil.pid_exists(pid), "the Job runs on", 150)
        ended_sec = time.monotonic() - begun
        assert ended_sec > DOUBT_SEC, "an answer that may be a mistake ends nothing"
        root.says("admin", "enable", "ed")
        again = subprocess.run(
            [sys.executable, script, "again"], env=env, capture_output=True, text=True, check=False, timeout=150
        )
        assert again.stdout.split() == ["JOB_FINISHED", "2"], again.stderr
    figure(f"a Job of a disabled account ended after {ended_sec:.0f} s, and ran again once it was enabled")


def test_another_administrator_is_made_and_unmade(root: Home, service: RunningService) -> None:
    amy = make(root, service, "amy")
    assert "not an administrator" in amy.fails("admin", "users")
    assert root.says("admin", "role", "amy", "admin") == "amy is an administrator.\n"
    assert account(amy, "amy")["is_admin"]
    assert "root is the only administrator" not in root.says("admin", "role", "amy", "user")
    assert "not an administrator" in amy.fails("admin", "users"), "at once, with the login that she has"
    assert "root is the only administrator" in root.fails("admin", "role", "root", "user")
    assert "'boss' is not one of" in root.fails("admin", "role", "amy", "boss")


def test_a_forgotten_password(root: Home, service: RunningService) -> None:
    fay = make(root, service, "fay")
    told = root.says("admin", "password", "fay", BALSAM_PASSWORD=OTHER)
    assert told == "fay has another password, and is logged out everywhere.\n"
    assert "balsam login" in fay.fails("site", "ls")
    assert "wrong user name or password" in fay.fails("login", service.url, "-u", "fay", BALSAM_PASSWORD=PASSWORD)
    fay.says("login", service.url, "-u", "fay", BALSAM_PASSWORD=OTHER)
    fay.says("site", "ls")
    assert "characters" in root.fails("admin", "password", "fay", BALSAM_PASSWORD="short")
    assert "balsam admin users" in root.fails("admin", "password", "nobody", BALSAM_PASSWORD=OTHER)
    assert "not an administrator" in fay.fails("admin", "password", "root", BALSAM_PASSWORD=OTHER)
    assert OTHER not in service.log and OTHER not in json.dumps(root.json("admin", "audit"))


def test_old_jobs_and_the_audit_log(root: Home, service: RunningService) -> None:
    pia = make(root, service, "pia")
    token = re.search(r"blsm_user_[\w-]+", (pia.home / "client.yml").read_text())
    assert token is not None
    furnish(service, Person("pia", token[0]))
    assert root.says("admin", "prune", "--older-than-days", "1", "--dry-run") == "0 Jobs would be removed.\n"
    assert root.says("admin", "prune", "--older-than-days", "1", "--username", "pia") == "0 Jobs removed.\n"
    assert "no account 'nobody'" in root.fails("admin", "prune", "--older-than-days", "1", "--username", "nobody")
    rows = root.json("admin", "audit", "--event", "account_made")
    assert rows[0]["actor"] == "root" and rows[0]["detail"]["username"] == "pia"
    assert {row["actor"] for row in root.json("admin", "audit", "--actor", "pia")} == {"pia"}
    (newest,) = root.json("admin", "audit", "--limit", "1")
    (before,) = root.json("admin", "audit", "--limit", "1", "--before", newest["id"])
    assert before["id"] < newest["id"]
    assert "jobs_pruned" in root.says("admin", "audit", "--limit", "5")
    assert root.json("admin", "audit", "--event", "nothing") == []
