"""The Slurm of tests/testbed/slurm, for tests: started when it does not run, taken down by the last who use it.

It is there for root on Debian; elsewhere tests that ask for it are skipped, with the reason.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import session_rules

HERE = Path(__file__).parent
BED = Path("/var/lib/balsam-slurm")
STARTED_BY_TESTS = BED / "started-by-tests"
LOCK = Path(tempfile.gettempdir()) / "balsam-slurm.lock"
PROGRAMS = ("sacct", "sacctmgr", "sbatch", "scancel", "scontrol", "sinfo", "squeue")


@dataclass(frozen=True)
class ClusterUser:
    """An unprivileged Unix user of the cluster; what it starts has a clean environment."""

    name: str
    bed: Path = BED

    @property
    def venv(self) -> Path:
        """This project, installed so that the user may run it."""
        return self.bed / "venv"

    @property
    def entry(self) -> pwd.struct_passwd:
        return pwd.getpwnam(self.name)

    @property
    def home(self) -> Path:
        return Path(self.entry.pw_dir)

    @property
    def environment(self) -> dict[str, str]:
        """`session_rules.MARKER` goes along, so that what a test leaves behind is found on the nodes too."""
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": "/bin/bash",
            "PATH": f"{self.venv}/bin:/usr/local/bin:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "SLURM_CONF": f"{BED}/etc/slurm.conf",
            "NO_PROXY": "127.0.0.1,localhost",
            session_rules.MARKER: os.environ[session_rules.MARKER],
        }

    @property
    def run_as(self) -> list[str]:
        """What makes the rest of a command line run as the user, with the environment of the caller."""
        ids = [f"--reuid={self.name}", f"--regid={self.name}", "--init-groups"]
        return ["setpriv", *ids, "env", f"HOME={self.home}", f"SLURM_CONF={self.environment['SLURM_CONF']}"]

    def start(self, words: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """A process of this user, in its home. `env` is added to its environment."""
        options["env"] = {**self.environment, **options.get("env", {})}
        ids = {"user": self.entry.pw_uid, "group": self.entry.pw_gid, "extra_groups": [self.entry.pw_gid]}
        return subprocess.Popen(
            [*words], **{"cwd": self.home, "stdin": subprocess.DEVNULL, "text": True, "umask": 0o077, **ids, **options}
        )

    def run(self, *words: str, timeout: float = 60, **options: Any) -> str:
        """What a command printed; fails with what it said when its status is not 0."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(words, start_new_session=True, **pipes, **options) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # with the workers that it started
                raise
        assert process.returncode == 0, f"{words}: status {process.returncode}\n{out}\n{err}"
        return out

    def processes_with(self, variable: str) -> list[int]:
        """Pids of the user's processes that have NAME=VALUE in their environment."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if path.stat().st_uid == self.entry.pw_uid and variable.encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:  # it has ended
                continue
        return found

    def kill_processes_with(self, variable: str) -> None:
        for pid in self.processes_with(variable):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def directory(self) -> Path:
        """A new, empty directory in the home, which all nodes see."""
        path = self.home / f"test-{uuid.uuid4().hex[:8]}"
        path.mkdir(mode=0o700)
        os.chown(path, self.entry.pw_uid, self.entry.pw_gid)
        return path


@dataclass(frozen=True)
class SlurmBed:
    """The running cluster. `do` is an administrator's scontrol, the rest are faults."""

    user: ClusterUser = ClusterUser("sci")

    def do(self, *words: str) -> str:
        environment = {**os.environ, "SLURM_CONF": f"{BED}/etc/slurm.conf"}
        answer = subprocess.run(
            ["/usr/bin/scontrol", *words], env=environment, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, (words, answer.stderr)
        return answer.stdout

    def stop_controller(self) -> None:
        _bed("controller", "stop")

    def start_controller(self) -> None:
        _bed("controller", "start")

    def node(self, name: str, verb: str) -> None:
        """`crash`, `cut` or `start` one of node1 to node4."""
        _bed("node", name, verb)

    def processes(self, scheduler_id: str) -> list[int]:
        """Processes of an allocation, on all nodes."""
        return self.user.processes_with(f"SLURM_JOB_ID={scheduler_id}")

    def kill_processes(self, scheduler_id: str) -> None:
        self.user.kill_processes_with(f"SLURM_JOB_ID={scheduler_id}")

    def end_everything(self) -> None:
        """Cancel what the user still has, and wait until its processes are gone."""
        self.user.run("scancel", f"--user={self.user.name}")
        deadline = time.monotonic() + 30
        while self.user.run("squeue", "--noheader", "--me"):
            assert time.monotonic() < deadline, "allocations do not end"
            time.sleep(0.2)


def reason_against() -> str | None:
    """Why this machine can't have the cluster; None when it can."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "a Slurm of our own needs root on Debian: tests/testbed/slurm"
    return None


@contextmanager
def running_slurm() -> Iterator[SlurmBed]:
    """The cluster and its users' environment of this project as it is now. Shared by all test processes."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_ours = not BED.exists()
        _bed("up")
        if is_ours:
            STARTED_BY_TESTS.touch()
        install_for(SlurmBed().user)
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            yield SlurmBed()
        finally:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # another test process still uses it
            else:
                if STARTED_BY_TESTS.exists():
                    _bed("down")


def install_for(user: ClusterUser) -> None:
    """The project as it is now, for this user."""
    subprocess.run([HERE / "user-venv", user.name, user.venv], check=True)


def _bed(*words: str) -> None:
    # Daemons are no children of a test's, so they go without its mark.
    environment = {name: value for name, value in os.environ.items() if name != session_rules.MARKER}
    subprocess.run([HERE / "slurm", *words], check=True, stdin=subprocess.DEVNULL, env=environment)


def require() -> None:
    """Skip where no cluster can be; a machine that can have it and fails to start it fails the test."""
    why = reason_against()
    if why is not None:
        pytest.skip(why)
