"""Sites that change, move, are renamed and removed, with an agent, a launcher and Jobs at work in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.services import RunningService, start_service
from tests.system.live_site import BALSAM, eventually, live_site

pytestmark = pytest.mark.slow

APPS = """
from balsam.api import ApplicationDefinition, Job
class Slow(ApplicationDefinition):
    site = "one"
    command_template = "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo $PWD > {{ name }}; echo ended"
class Say(ApplicationDefinition):
    site = "one"
    command_template = "echo {{ text }}"
Slow.sync(); Say.sync()
"""


@dataclass
class Machine:
    """A service, and Sites that are started with `balsam site start`."""

    service: RunningService
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "BALSAM_HOME": str(self.service.home)}

    def run(self, *words: str, put: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(BALSAM), *map(str, words)]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=110, input=put, cwd=self.home
        )

    def __call__(self, *words: Any, code: int = 0) -> Any:
        """The JSON value of a command that must end with this exit code."""
        done = self.run(*map(str, words), "--json")
        assert done.returncode == code, f"{words} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def get(self, path: str) -> Any:
        """What the service says, without a command in between."""
        with self.service.client() as client:
            return client.get(f"/api/{path}").json()

    def wait_for(self, path: str, state: str) -> None:
        eventually(lambda: self.get(path)["state"] == state, f"{path} is {self.get(path)}, not {state}", 60)

    def create(self, app: str, workdir: str, *more: str) -> str:
        return f"jobs/{self('job', 'create', '-a', app, '-w', workdir, '-npc', '4', *more)['id']}"

    def submit(self, *more: str) -> str:
        return f"batch-jobs/{self('queue', 'submit', '-n', 1, '-t', 10, *more)['id']}"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(start_service(tmp_path / "service"), tmp_path)
    try:
        yield made
    finally:
        for path in (tmp_path / "one", tmp_path / "two", tmp_path / "deep" / "two"):
            if (path / ".balsam-site").exists():
                done = made.run("site", "rm", str(path), "--force", "--yes")
                assert done.returncode == 0, done.stderr
        made.service.stop()


@pytest.fixture
def site(machine: Machine) -> Path:
    """The Site `one`, started, with its Apps."""
    path = machine.home / "one"
    machine("site", "init", path)
    machine("site", "start", path)
    subprocess.run([sys.executable, "-c", APPS], env=machine.environment, check=True, timeout=60)
    return path


def status(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "agent.json").read_text())
    return found


def processes_in(path: Path) -> list[int]:
    """Processes that have this directory, or one below it, as theirs."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(path) or str(path) in " ".join(process.cmdline()):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_site_moves_under_an_agent_a_launcher_and_jobs(machine: Machine, site: Path) -> None:
    (machine.home / "deep").mkdir()
    new = machine.home / "deep" / "two"
    allocation = machine.submit("-j", "mpi")
    slow = machine.create("Slow", "slow/1", "-p", "name=where")
    machine.wait_for(slow, "RUNNING")
    agent = status(site)

    moved = machine("site", "mv", site, new)

    assert moved == {"path": str(new), "link": True, "trouble": ""}
    assert site.is_symlink() and site.resolve() == new
    assert (status(new)["pid"], status(new)["instance"]) == (agent["pid"], agent["instance"])
    assert machine.get("sites/1")["path"] == str(new)
    assert machine.get(slow)["state"] == "RUNNING", "what ran runs on"
    say = machine.create("Say", "say/1", "-p", "text=after")
    machine.wait_for(say, "JOB_FINISHED")
    assert (new / "data" / "say" / "1" / "job.out").read_text() == "after\n"
    assert machine("job", "logs", say.partition("/")[2])["text"] == "after\n"
    (new / "data" / "slow" / "1" / "go").touch()
    machine.wait_for(slow, "JOB_FINISHED")
    assert machine("job", "logs", slow.partition("/")[2])["text"] == "begun\nended\n"
    assert (new / "data" / "slow" / "1" / "where").read_text().strip().endswith("/slow/1")
    assert machine.get(allocation)["state"] == "running"

    second = machine.submit("-j", "serial", "-tag", "a=b")
    machine.wait_for(second, "running")
    machine("queue", "rm", allocation.partition("/")[2])
    machine.wait_for(allocation, "finished")
    eventually(lambda: not site.is_symlink(), "the link was not removed", 30)
    assert machine.get(second)["state"] == "running", "what was started after the move needs no link"
    assert processes_in(site) == [agent["pid"]], "the name that the agent was started with"
    assert machine("site", "stop", new) == {"stopped": True}


def test_a_site_moves_without_an_agent_and_starts_there(machine: Machine, site: Path) -> None:
    new = machine.home / "two"
    machine("site", "stop", site)
    assert machine("site", "mv", site, new) == {"path": str(new), "link": False, "trouble": ""}
    assert not site.exists() and machine.get("sites/1")["path"] == str(new)
    machine("site", "start", new)
    assert machine.get("sites/1")["is_active"]


def test_a_move_that_can_not_be_told_changes_nothing(machine: Machine, site: Path) -> None:
    machine.service.stop()
    refused = machine("site", "mv", site, machine.home / "two", code=1)["error"]["message"]
    assert "nothing was changed" in refused
    assert site.is_dir() and not site.is_symlink() and not (machine.home / "two").exists()
    machine.service = machine.service.restart()
    eventually(lambda: machine.get("sites/1")["is_active"], "the agent did not go on", 30)


def test_a_place_that_can_not_be_had_is_refused(machine: Machine, site: Path) -> None:
    (machine.home / "taken").mkdir()
    (machine.home / "linked").symlink_to(machine.home)
    for name in ("taken", "linked"):
        assert "exists already" in machine("site", "mv", site, machine.home / name, code=1)["error"]["message"]
    assert "no directory" in machine("site", "mv", site, machine.home / "a" / "b", code=1)["error"]["message"]
    assert "inside of" in machine("site", "mv", site, site / "data" / "x", code=1)["error"]["message"]
    assert "not a Site" in machine("site", "mv", machine.home, machine.home / "b", code=1)["error"]["message"]
    assert status(site)["state"] == "running"


def test_a_site_gets_another_name(machine: Machine, site: Path) -> None:
    other = machine.home / "two"
    machine("site", "init", other)
    assert "named 'two'" in machine("site", "rename", site, "two", code=1)["error"]["message"]
    assert json.loads((site / ".balsam-site").read_text())["name"] == "one"
    assert machine("site", "rename", site, "three") == {"name": "three", "was": "one"}
    assert json.loads((site / ".balsam-site").read_text())["name"] == "three"
    assert {one["name"] for one in machine("site", "ls")} == {"two", "three"}
    assert status(site)["state"] == "running"
    say = machine.create("Say", "x", "-p", "text=a", "--site", "three")
    assert machine.get(say)["state"] == "PREPROCESSED"
    assert "name" in machine("site", "rename", site, "", code=1)["error"]["message"]


def test_sync_changes_what_the_site_offers(machine: Machine, site: Path) -> None:
    allocation = machine.submit("-j", "mpi")
    slow = machine.create("Slow", "slow/1", "-p", "name=where")
    machine.wait_for(slow, "RUNNING")
    settings = (site / "settings.yml").read_text()
    (site / "settings.yml").write_text(settings.replace("max_nodes: 8 ", "max_nods: 8 "))
    refused = machine("site", "sync", site, code=1)["error"]["message"]
    assert "line " in refused and "did you mean max_nodes" in refused
    (site / "settings.yml").write_text(settings.replace("    local:\n", "    night:\n"))
    synced = machine("site", "sync", site)
    assert list(synced["offer"]["allowed_queues"]) == ["night"] and synced["agent"]["state"] == "running"
    eventually(lambda: "night" in machine.get("sites/1")["allowed_queues"], "the service was not told", 30)
    wrong = machine("queue", "submit", "-n", 1, "-t", 5, "-j", "mpi", code=1)["error"]["message"]
    assert "no queue 'local'" in wrong and "night" in wrong
    (site / "data" / "slow" / "1" / "go").touch()
    machine.wait_for(slow, "JOB_FINISHED")
    assert machine.get(allocation)["state"] == "running"


def test_rm_counts_refuses_and_leaves_nothing(machine: Machine, site: Path) -> None:
    machine.submit("-j", "mpi")
    slow = machine.create("Slow", "slow/1", "-p", "name=where")
    machine.wait_for(slow, "RUNNING")
    assert "1 allocation of it run or wait" in machine("site", "rm", site, "--yes", code=1)["error"]["message"]
    assert machine.get(slow)["state"] == "RUNNING"
    removed = machine("site", "rm", site, "-f")  # asks nothing, as it did in Balsam 0.7
    assert (removed["name"], removed["files_removed"]) == ("one", True)
    assert not site.exists() and machine("site", "ls") == [] and not processes_in(site)
    assert not [path for path in machine.home.iterdir() if path.name.startswith(".one")]


def test_rm_can_leave_the_files_and_goes_on_after_an_interruption(machine: Machine, site: Path) -> None:
    (site / "data" / "kept").write_text("x")
    assert machine("site", "rm", "--site", "one", "-y", code=1)["error"]["message"].startswith("the agent of Site one")
    machine("site", "stop", site)
    asked = machine.run("site", "rm", str(site), put="n\n")
    assert asked.returncode == 130
    assert f"Remove Site one: 2 Apps and 0 Jobs, and all files in {site}?" in asked.stderr
    assert machine("site", "rm", "--site", "one", "-y")["files_removed"] is False
    assert site.exists() and machine("site", "ls") == []
    done = machine.run("site", "rm", str(site), "--keep-files", put="y\n")
    assert done.returncode == 0 and "which the service does not know any more" in done.stderr
    assert (site / "data" / "kept").read_text() == "x" and not (site / ".balsam-site").exists()
    assert not (site / "credentials.json").exists()
    assert "not a Site" in machine("site", "rm", site, "-y", code=1)["error"]["message"]
    assert machine("site", "rm", code=2)["exit_code"] == 2


def test_rm_wants_the_login_of_its_own_service(machine: Machine, site: Path, tmp_path: Path) -> None:
    other = start_service(tmp_path / "other")
    try:
        elsewhere = Machine(other, tmp_path)
        elsewhere("site", "init", tmp_path / "elsewhere")
        refused = elsewhere("site", "rm", site, "--yes", code=1)["error"]["message"]
        assert "log in at its own" in refused and site.exists()
    finally:
        other.stop()


def test_a_site_of_balsam_up_is_moved_while_that_is_stopped(tmp_path: Path) -> None:
    with live_site(tmp_path / "home") as live:
        machine = Machine(start_service(tmp_path / "unused"), tmp_path)
        machine.service.stop()
        machine.service.home = live.home
        for words in (("mv", live.path, tmp_path / "moved"), ("rm", live.path, "--yes"), ("stop", live.path)):
            assert "balsam up" in machine("site", *words, code=1)["error"]["message"]
        assert live.stop() == 0
        service = start_service(live.home, port=int(live.ready["url"].rpartition(":")[2]))
        try:
            assert machine("site", "mv", live.path, tmp_path / "moved")["link"] is False
        finally:
            service.stop()
        live.start()
        assert live.path == tmp_path / "moved" and live.name == "local"
        assert [one["path"] for one in machine("site", "ls")] == [str(live.path)]


def findings(machine: Machine, *words: Any, code: int = 0) -> dict[str, dict[str, str]]:
    return {one["check"]: one for one in machine(*words, code=code)}


def test_doctor_looks_at_everything_a_site_needs(machine: Machine, site: Path) -> None:
    found = findings(machine, "site", "doctor", site)
    assert found["service"]["message"].endswith("launchers that report to it now: 0")
    checks = {"site", "directories", "settings", "template", "scheduler", "queues", "MPI", "service", "agent"}
    assert found.keys() == checks and {one["status"] for one in found.values()} == {"ok"}
    shown = machine.run("site", "doctor", str(site))
    assert len(shown.stdout.splitlines()) == len(checks) and "PROBLEM" not in shown.stdout

    settings, template = site / "settings.yml", site / "job-template.sh"
    good = settings.read_text()
    settings.write_text(good.replace("    local:\n", "    night:\n"))
    found = findings(machine, "site", "doctor", site, code=1)
    assert (found["queues"]["status"], found["queues"]["message"]) == ("problem", "local has no 'night'; it has: local")
    settings.write_text(good.replace("allowed_projects: [local]", "allowed_projects: []"))
    found = findings(machine, "site", "doctor", site, code=1)
    assert "allows no projects" in found["projects"]["message"] and "site sync" in found["projects"]["fix"]
    template.write_text("{{ launcher_cmd")
    assert "job-template.sh, line 1" in findings(machine, "site", "doctor", site, code=1)["template"]["message"]
    settings.write_text(good.replace("sync_period: 10", "sync_period: 0"))
    found = findings(machine, "site", "doctor", site, code=1)
    assert "scheduler.sync_period is 0; it must be greater than 0" in found["settings"]["message"]
    assert "sample-settings" in found["settings"]["fix"] and "scheduler" not in found
    assert "PROBLEM  settings: " in machine.run("site", "doctor", str(site)).stdout
    settings.write_text(good)


def test_doctor_tells_what_is_not_running(machine: Machine, site: Path) -> None:
    machine("site", "stop", site)
    found = findings(machine, "site", "doctor", site)
    assert found["agent"]["status"] == "warning" and found["agent"]["fix"] == f"balsam site start {site}"
    site.rename(machine.home / "two")  # by hand, instead of with `balsam site mv`
    found = findings(machine, "site", "doctor", machine.home / "two")
    assert "knows the directory as" in found["path"]["message"]
    assert machine("site", "mv", *([machine.home / "two"] * 2))["path"] == str(machine.home / "two")
    assert machine.get("sites/1")["path"] == str(machine.home / "two")
    machine.service.stop()
    found = findings(machine, "site", "doctor", machine.home / "two", code=1)
    assert found["service"]["status"] == "problem" and found["settings"]["status"] == "ok"
    assert "not in a Site" in machine("site", "doctor", machine.home, code=1)["error"]["message"]
    machine.service = machine.service.restart()


def test_sample_settings_are_those_of_a_new_site(machine: Machine, site: Path) -> None:
    assert machine.run("site", "sample-settings").stdout == (site / "settings.yml").read_text()
    assert machine("site", "sample-settings", "-m", "local")["text"] == (site / "settings.yml").read_text()
    wrong = machine("site", "sample-settings", "-m", "lokal", code=2)["error"]["message"]
    assert "did you mean 'local'" in wrong
