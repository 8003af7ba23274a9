"""A service's administrator at the command line: accounts, quotas, roles, passwords, old Jobs, the audit log."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.server.world import PASSWORD, Person, furnish
from tests.services import RunningService, running_service
from tests.system.live_site import BALSAM

pytestmark = pytest.mark.slow
OTHER = "four words of another one"


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
    assert "this account is disabled; ask the administrators" in dan.fails("site", "ls")
    assert account(root, "dan")["disabled_at"] and "disabled" in root.says("admin", "users")
    assert root.says("admin", "enable", "dan") == "dan is enabled.\n"
    dan.says("site", "ls")
    assert "root is the only administrator" in root.fails("admin", "disable", "root")


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
