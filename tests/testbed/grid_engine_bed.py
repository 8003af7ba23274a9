"""The Grid Engine of tests/testbed/gridengine, for tests: started when it does not run, taken down by who started it.

It is there for root on Debian; elsewhere tests that ask for it are skipped, with the reason.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed import session_rules
from tests.testbed.slurm_bed import ClusterUser, install_for

SCRIPT = Path(__file__).parent / "gridengine"
BED = Path("/var/lib/balsam-gridengine")
LOCK = Path(tempfile.gettempdir()) / "balsam-gridengine.lock"
PROGRAMS = ("qacct", "qconf", "qdel", "qstat", "qsub")


@dataclass(frozen=True)
class GridUser(ClusterUser):
    """As any user of a cluster, but what it starts runs inside the cluster's namespaces."""

    @property
    def ids(self) -> list[str]:
        holder = (self.bed / "holder.pid").read_text().strip()
        where = ["nsenter", f"--target={holder}", "--net", "--uts", "--mount", f"--wdns={self.home}"]
        return [*where, "setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--init-groups"]

    @property
    def run_as(self) -> list[str]:
        """What makes the rest of a command line run there, as the user, with the environment of the caller."""
        return [*self.ids, "env", f"HOME={self.home}", f"USER={self.name}", f"LOGNAME={self.name}"]

    def start(self, words: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        options["env"] = {**self.environment, **options.get("env", {})}
        defaults = {"stdin": subprocess.DEVNULL, "text": True, "umask": 0o077}
        return subprocess.Popen([*self.ids, *words], **{**defaults, **options})


@dataclass(frozen=True)
class GridEngineBed:
    """The running cluster. Only inside its namespaces is it reached."""

    user: GridUser = GridUser("gridsci", BED)

    def do(self, *words: str) -> str:
        """A command of the cluster's administrator."""
        return subprocess.run([SCRIPT, "as", "root", *words], check=True, capture_output=True, text=True).stdout

    def kill_processes(self, scheduler_id: str) -> None:
        self.user.kill_processes_with(f"JOB_ID={scheduler_id}")

    def end_everything(self) -> None:
        """Delete what the user still has, and wait until it is gone."""
        subprocess.run([SCRIPT, "as", self.user.name, "qdel", "-u", self.user.name], check=False, capture_output=True)
        deadline = time.monotonic() + 30
        while self.user.run("qstat"):
            assert time.monotonic() < deadline, "allocations do not end"
            time.sleep(0.2)


@contextmanager
def running_grid_engine() -> Iterator[GridEngineBed]:
    """The cluster, shared by all test processes of this machine one after another."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_ours = not BED.exists()
        _bed("up")
        install_for(GridEngineBed().user)
        try:
            yield GridEngineBed()
        finally:
            if is_ours:
                _bed("down")


def _bed(verb: str) -> None:
    # Daemons are no children of a test's, so they go without its mark.
    environment = {name: value for name, value in os.environ.items() if name != session_rules.MARKER}
    subprocess.run([SCRIPT, verb], check=True, stdin=subprocess.DEVNULL, env=environment)
