"""Secrets of a live Site: in the files that are made for them and nowhere else (T16), whatever the umask.

`balsam up` is started with umask 000, and Jobs of every kind of process run there. What Jobs write is their owner's and
gets the umask that the user has; it lies below `data`, which nobody else can enter.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.system.live_site import BALSAM, LiveSite, eventually, finished, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TOKEN = re.compile(rb"blsm_(user|site|launcher|job)_[A-Za-z0-9_-]{43}")
# Which kind of token is meant to be in which file of a home.
HOLDERS = {
    r"service\.json": "user",
    r"service/local\.token": "user",
    r"site/credentials\.json": "site",
    r"site/qsubmit/[^/]+/credentials\.json": "launcher",
    r"site/qsubmit/[^/]+/job-credentials\.json": "job",
}
# Made by this test's own process, not by the product.
OURS = ("up.stderr", "scripts")
REFUSED = "blsm_user_" + "x" * 43

# A command, `run()` in a process that stays warm, `run()` of two ranks in processes of their own. Each uses what it has
# of the service, says so, and waits for a file in GO.
SUBMIT = """
from balsam.api import ApplicationDefinition, BatchJob

GO = {go!r}

class Command(ApplicationDefinition):
    site = "local"
    command_template = "umask; echo runs; until [ -e {{{{ path }}}} ]; do sleep 0.1; done"

class Python(ApplicationDefinition):
    site = "local"
    def run(self, value, path):
        import os, time
        from balsam.api import client
        assert client.who_am_i().kind == "job"
        print("runs", flush=True)
        while not os.path.exists(path):
            time.sleep(0.1)
        return value

Command.submit("of/command", path=GO + "/command", node_packing_count=2)
Python.submit("of/worker", value=(1, 2), path=GO + "/worker", node_packing_count=2)
Python.submit("of/ranks", value=(1, 2), path=GO + "/ranks", ranks_per_node=2, node_packing_count=2)
BatchJob.objects.create(site_id={site}, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local")
"""
JOBS = ("command", "worker", "ranks")


@dataclass
class Processes:
    """What can be read of all processes that ran for one home, by anybody who looks often enough."""

    home: Path
    # By pid and command line: a process that execs is another one.
    environments: dict[tuple[int, bytes], bytes] = field(default_factory=dict)

    def look(self) -> None:
        mark = f"BALSAM_HOME={self.home}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:  # gone meanwhile, or another user's
                continue
            if mark in environment.split(b"\0"):
                self.environments[int(entry.name), command] = environment

    def jobs(self) -> set[bytes]:
        """The marks of Jobs (BALSAM_JOB_ID) in the environments."""
        return {
            variable.partition(b"=")[2]
            for environment in self.environments.values()
            for variable in environment.split(b"\0")
            if variable.startswith(b"BALSAM_JOB_ID=")
        }


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LiveSite]:
    with ExitStack() as stack:
        before = os.umask(0)
        try:
            running = stack.enter_context(live_site(tmp_path / "home"))
        finally:
            os.umask(before)
        yield running


def entries(home: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything below a home that is the product's or a Job's, by its path in there."""
    found = {}
    for directory, directories, files in os.walk(home):
        if Path(directory) == home:
            directories[:] = [name for name in directories if name not in OURS]
            files = [name for name in files if name not in OURS]
        for name in (*directories, *files):
            path = Path(directory, name)
            try:
                mode = path.lstat().st_mode
                content = path.read_bytes() if stat.S_ISREG(mode) else b""
            except FileNotFoundError:  # a draft of a file that has its name now
                continue
            found[str(path.relative_to(home))] = (mode, content)
    return found


def check_files(home: Path, nowhere: list[str]) -> set[str]:
    """Modes, and in which files tokens are. The kinds of tokens that were found."""
    kinds = set()
    for name, (mode, content) in entries(home).items():
        tokens = {match[0]: match[1].decode() for match in TOKEN.finditer(content)}
        allowed = {kind for pattern, kind in HOLDERS.items() if re.fullmatch(pattern, name)}
        assert set(tokens.values()) <= allowed, f"{name} has tokens of {sorted(set(tokens.values()))}"
        kinds |= set(tokens.values())
        assert not [secret for secret in nowhere if secret.encode() in content], f"{name} has a secret"
        if not name.startswith("site/data/"):
            assert not mode & 0o077, f"{name} is open to others: {stat.filemode(mode)}"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    return kinds


def secrets_of(home: Path) -> set[bytes]:
    """All tokens that are in files now."""
    return {match[0] for _, content in entries(home).values() for match in TOKEN.finditer(content)}


def balsam(site: LiveSite, *words: str) -> Any:
    done = subprocess.run(
        [str(BALSAM), *words, "--json"], env=site.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def states(site: LiveSite) -> set[str]:
    return {job["state"] for job in balsam(site, "job", "ls")}


def test_secrets_of_a_live_site_are_in_files_of_their_own_and_nowhere_else(site: LiveSite, tmp_path: Path) -> None:
    home, go = site.home, tmp_path / "go"
    go.mkdir()
    processes, kinds = Processes(home), set[str]()
    # A program's token is shown once and kept by nobody but its owner; one that is refused is nobody's.
    program = str(balsam(site, "token", "create", "t16", "--scope", "jobs:read")["token"])
    assert TOKEN.fullmatch(program.encode())
    for token, status in ((program, 200), (REFUSED, 401)):
        headers = {"Authorization": f"Bearer {token}", "Balsam-Wire": "1"}
        reply = httpx2.get(f"{site.ready['url']}/api/jobs", headers=headers, trust_env=False, timeout=30)
        assert reply.status_code == status and token not in reply.text
    secrets = {program.encode()}
    submitting = site.begin(SUBMIT.format(go=str(go), site=site.id))

    def all_have_run() -> bool:
        """Looks around in the middle of each Job, which then may end: they need not fit beside each other."""
        processes.look()
        for name in JOBS:
            output = site.path / "data" / "of" / name / "job.out"
            if not (go / name).exists() and output.exists() and "runs" in output.read_text():
                processes.look()
                secrets.update(secrets_of(home))
                kinds.update(check_files(home, [program, REFUSED]))
                (go / name).touch()
        return all((go / name).exists() for name in JOBS)

    try:
        eventually(all_have_run, "the Jobs do not run", 150)
    finally:
        finished(submitting, 60)
    eventually(lambda: states(site) == {"JOB_FINISHED"}, "the Jobs do not end", 60)

    # Nothing above could fail if Jobs ran with another umask, if no rank were seen, or no token.
    assert (site.path / "data" / "of" / "command" / "job.out").read_text().startswith("0000\n")
    assert {b"1", b"3"} <= processes.jobs() and any(job.startswith(b"worker") for job in processes.jobs())
    assert kinds == {"user", "site", "launcher", "job"}
    for (pid, command), environment in processes.environments.items():
        said = f"{pid}: {command.replace(bytes(1), b' ').decode(errors='replace')}"
        assert not [secret for secret in secrets if secret in command], f"a secret in the command line of {said}"
        # Ranks above all; launcher and agent read theirs from files as well.
        assert not [secret for secret in secrets if secret in environment], f"a secret in the environment of {said}"

    assert site.stop() == 0
    # The launcher's and the Jobs' ended with the allocation.
    assert check_files(home, [program, REFUSED]) == {"user", "site"}
