"""The `balsam` command as a first user types it, against `balsam up` and against a service of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from tests.services import start_service
from tests.system.live_site import BALSAM, LiveSite, eventually, live_site

pytestmark = pytest.mark.slow

JOBS = """
from balsam.api import ApplicationDefinition, BatchJob, Job

class Say(ApplicationDefinition):
    site = "local"
    command_template = "printf '%s' {{ text }}"

class Sleep(ApplicationDefinition):
    site = "local"
    command_template = "sleep {{ seconds }}"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("command")) as live:
        yield live


def balsam(environment: dict[str, str], *words: str, code: int = 0, cwd: Path | None = None, put: str = "") -> str:
    """Stdout of a balsam command that must end with this exit code."""
    done = subprocess.run(
        [str(BALSAM), *words], env=environment, capture_output=True, text=True, timeout=60, cwd=cwd, input=put
    )
    assert done.returncode == code, f"balsam {' '.join(words)} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code in (0, 3) else done.stdout + done.stderr


def as_json(environment: dict[str, str], *words: str, code: int = 0, cwd: Path | None = None) -> Any:
    """The one JSON value of a command."""
    return json.loads(balsam(environment, *words, "--json", code=code, cwd=cwd))


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import sys; sys.argv=['balsam','--help']\n"
        "from balsam.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "found = set('pydantic httpx2 fastapi rich yaml jinja2 psutil sqlite3 asyncio'.split()) & set(sys.modules)\n"
        "print('heavy:', sorted(found), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "heavy: []"
    for command in ("up", "server", "login", "site", "app", "job", "queue", "doctor"):
        assert f"\n  {command} " in done.stdout


def test_a_job_from_queue_submit_to_logs(site: LiveSite) -> None:
    made = as_json(site.environment, "queue", "submit", "-n", "1", "-t", "5", "-j", "mpi")
    assert made["state"] in ("pending_submission", "queued", "running")
    text = 'it\'s "quoted" $(not run) \x1b[31mred'
    site.run(
        JOBS + f"\njob = Say.submit(workdir='say/1', tags={{'kind': 'say'}}, text={text!r}); assert job.wait(60)",
        name="a.py",
    )
    (job,) = as_json(site.environment, "job", "ls", "--tag", "kind=say")
    assert (job["state"], job["workdir"], job["app_name"]) == ("JOB_FINISHED", "say/1", "Say")
    assert as_json(site.environment, "job", "logs", str(job["id"]))["text"] == text
    shown = balsam(site.environment, "job", "logs", str(job["id"]))
    assert "\x1b" not in shown and "$(not run)" in shown
    assert "say/1" in balsam(site.environment, "job", "ls")
    assert as_json(site.environment, "job", "ls", "--by-state", "--tag", "kind=say") == {"JOB_FINISHED": 1}
    assert [app["name"] for app in as_json(site.environment, "app", "ls")].count("Say") == 1
    assert as_json(site.environment, "job", "explain", str(job["id"]))["state"] == "JOB_FINISHED"
    assert made["id"] in [one["id"] for one in as_json(site.environment, "queue", "ls")]
    balsam(site.environment, "queue", "rm", str(made["id"]))
    eventually(lambda: as_json(site.environment, "queue", "ls") == [], "the allocation did not end")
    assert made["id"] in [one["id"] for one in as_json(site.environment, "queue", "ls", "--history")]


def test_waiting_is_explained_and_cancelled(site: LiveSite) -> None:
    site.run(JOBS + "\nSleep.submit(workdir='sleep/1', tags={'kind': 'wait'}, seconds=60)", name="b.py")
    (job,) = as_json(site.environment, "job", "ls", "--tag", "kind=wait")
    why = as_json(site.environment, "job", "explain", str(job["id"]))
    assert "allocation" in why["summary"] and "balsam queue submit" in " ".join(why["reasons"])
    assert as_json(site.environment, "job", "cancel", "--tag", "kind=wait", "-y") == {"cancelled": 1, "refused": {}}
    assert as_json(site.environment, "job", "ls", "--id", str(job["id"]))[0]["state"] == "CANCELLED"
    assert as_json(site.environment, "job", "cancel", "--tag", "kind=wait") == {"cancelled": 0, "refused": {}}


def test_cancel_asks_first_and_wants_to_know_which(site: LiveSite) -> None:
    site.run(JOBS + "\nSleep.submit(workdir='sleep/2', tags={'kind': 'ask'}, seconds=60)", name="c.py")
    balsam(site.environment, "job", "cancel", "--tag", "kind=ask", put="n\n", code=130)
    assert as_json(site.environment, "job", "ls", "--tag", "kind=ask")[0]["state"] == "PREPROCESSED"
    assert "which Jobs" in balsam(site.environment, "job", "cancel", code=2)
    balsam(site.environment, "job", "cancel", "--tag", "kind=ask", "--yes")


def test_errors_are_one_json_value_with_an_exit_code(site: LiveSite) -> None:
    missing = as_json(site.environment, "job", "explain", "999999", code=1)
    assert missing["exit_code"] == 1 and missing["error"]["message"]
    wrong = as_json(site.environment, "queue", "submit", "-n", "1", "-t", "5", "-j", "mpi", "-q", "nowhere", code=1)
    assert "nowhere" in wrong["error"]["message"] and "local" in wrong["error"]["message"]
    assert (
        "MODE:NODES"
        in as_json(site.environment, "queue", "submit", "-n", "1", "-t", "5", "-j", "mpi", "-p", "mpi", code=2)[
            "error"
        ]["message"]
    )


def test_doctor_finds_service_and_site(site: LiveSite) -> None:
    found = {finding["check"]: finding["status"] for finding in as_json(site.environment, "doctor")}
    assert found["service"] == found["login"] == "ok"
    assert as_json(site.environment, "login") == {"url": site.ready["url"], "username": getuser(), "expires_at": None}
    inside = json.loads(balsam(site.environment, "doctor", "--json", cwd=site.path))
    assert [one["status"] for one in inside if one["check"] == "site"] == ["ok"]


def test_doctor_without_a_service_says_what_to_do(tmp_path: Path) -> None:
    said = balsam({**os.environ, "BALSAM_HOME": str(tmp_path)}, "doctor", code=1)
    assert "PROBLEM" in said and "balsam up" in said


def test_open_without_a_screen_leaves_the_link_to_the_reader(site: LiveSite) -> None:
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    environment = {name: value for name, value in site.environment.items() if name not in screens}
    done = subprocess.run(
        [str(BALSAM), "open"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(site.ready["url"])
    assert done.stderr == "No browser could be started here; open the link yourself.\n"


def test_the_log_of_up_s_service_is_rotated(tmp_path: Path) -> None:
    site = LiveSite(tmp_path / "home")
    (site.home / "log").mkdir(mode=0o700, parents=True)
    site.home.chmod(0o700)
    log = site.home / "log" / "service.log"
    log.write_bytes(b"old\n" * 2_500_000)
    site.start()
    assert site.stop() == 0
    assert "listening on" in log.read_text() and "old" not in log.read_text()
    assert (log.parent / "service.log.1").stat().st_size >= 10_000_000  # and what it says on stdout


def test_a_second_up_for_the_same_home_is_refused(site: LiveSite) -> None:
    assert "runs already" in balsam(site.environment, "up", code=1)


def test_two_homes_do_not_meet(site: LiveSite, tmp_path: Path) -> None:
    with live_site(tmp_path) as other:
        assert other.ready["url"] != site.ready["url"]
        assert as_json(other.environment, "job", "ls") == []
        assert [one["path"] for one in as_json(other.environment, "site", "ls")] == [str(other.path)]


def test_up_leaves_nothing_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with live_site(tmp_path) as live:
        as_json(live.environment, "queue", "submit", "-n", "1", "-t", "5", "-j", "mpi")
        live.run(JOBS + "\nSleep.submit(workdir='s/1', seconds=300)", name="d.py")
        eventually(lambda: as_json(live.environment, "job", "ls")[0]["state"] == "RUNNING", "the Job did not start")
        assert live.up is not None
        live.up.send_signal(signal.SIGINT)
        assert live.up.wait(60) == 0
        eventually(lambda: not any(live.pids(part) for part in ("service", "agent", "launcher", "guardian")), "left")
        live.start()
        (job,) = as_json(live.environment, "job", "ls")
        assert job["state"] == "RESTART_READY"
        assert as_json(live.environment, "queue", "ls") == []


def test_password_account_logs_in_and_sees_only_its_own(tmp_path: Path) -> None:
    service = start_service(tmp_path / "service")
    mine = {**os.environ, "BALSAM_HOME": str(service.home)}
    hers = {**os.environ, "BALSAM_HOME": str(tmp_path / "alice")}
    try:
        as_json({**mine, "BALSAM_PASSWORD": "correct horse"}, "server", "add-user", "alice")
        login = ("login", service.url, "-u", "alice", "--password-stdin", "--json")
        refused = json.loads(balsam({**hers, "BALSAM_PASSWORD": "correct horse"}, *login, put="wrong\n", code=1))
        assert "password" in refused["error"]["message"]
        assert "standard input" in balsam(hers, *login, put="", code=2)
        assert json.loads(balsam(hers, *login, put="correct horse\n"))["username"] == "alice"
        assert as_json({**hers, "BALSAM_PASSWORD": "correct horse"}, *login[:4])["username"] == "alice"
        kept = tmp_path / "alice" / "client.yml"
        assert kept.stat().st_mode & 0o777 == 0o600
        made = as_json(hers, "site", "init", str(tmp_path / "hers"), "--name", "hers")
        assert [one["name"] for one in as_json(hers, "site", "ls")] == ["hers"]
        assert as_json(mine, "site", "ls") == []
        assert made["id"] not in [one["id"] for one in as_json(mine, "site", "ls")]
        assert as_json(hers, "logout")["url"] == service.url
        assert not kept.exists()
    finally:
        service.stop()


def test_no_password_on_a_command_line() -> None:
    """Every user of the machine can read the arguments of a process."""
    for words in (("login", "http://127.0.0.1:1", "-u", "ann"), ("server", "add-user", "ann")):
        assert "No such option" in balsam(dict(os.environ), *words, "--password", "secret", code=2)


def test_both_ways_to_start_a_service_take_the_same_options() -> None:
    helps = []
    for words in ([str(BALSAM), "server", "up"], [sys.executable, "-m", "balsam.server"]):
        done = subprocess.run([*words, "--help"], capture_output=True, text=True, timeout=60, check=True)
        helps.append({word.rstrip(",") for word in done.stdout.split() if word.startswith("--")})
    assert helps[0] - {"--background"} == helps[1]
    assert helps[1] >= {"--multi-user", "--synchronous", "--tls-key", "--behind-proxy", "--data-dir"}


def test_site_start_says_when_its_agent_waits_for_the_service(tmp_path: Path) -> None:
    service = start_service(tmp_path / "service")
    environment = {**os.environ, "BALSAM_HOME": str(service.home)}
    path = str(tmp_path / "site")
    try:
        balsam(environment, "site", "init", path, "--name", "mine")
    finally:
        service.stop()
    try:
        started = as_json(environment, "site", "start", path)
        assert started["state"] == "waiting" and service.url in started["detail"]
        balsam(environment, "site", "stop", path)
        done = subprocess.run(
            [str(BALSAM), "site", "start", path], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and "It waits for the service" in done.stderr
    finally:
        balsam(environment, "site", "stop", path)


def test_site_start_in_the_background_and_stop(tmp_path: Path) -> None:
    service = start_service(tmp_path / "service")
    environment = {**os.environ, "BALSAM_HOME": str(service.home)}
    path = str(tmp_path / "site")
    try:
        balsam(environment, "site", "init", path, "--name", "mine")
        started = as_json(environment, "site", "start", path)
        assert "runs already" in as_json(environment, "site", "start", path, code=1)["error"]["message"]
        assert as_json(environment, "site", "ls")[0]["is_active"]
        assert as_json(environment, "site", "stop", path) == {"stopped": True}
        deadline = time.monotonic() + 10
        while Path(f"/proc/{started['pid']}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert as_json(environment, "site", "stop", path) == {"stopped": False}
    finally:
        service.stop()
