"""The Grid Engine of tests/testbed/gridengine, for tests: started when it does not run, taken down by who started it.

It is there for root on Debian; elsewhere tests that ask for it are skipped, with the reason.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import session_rules
from tests.testbed.slurm_bed import ClusterUser

SCRIPT = Path(__file__).parent / "gridengine"
BED = Path("/var/lib/balsam-gridengine")
LOCK = Path(tempfile.gettempdir()) / "balsam-gridengine.lock"
USER = ClusterUser("gridsci")
PROGRAMS = ("qacct", "qconf", "qdel", "qstat", "qsub")


@dataclass(frozen=True)
class GridEngineBed:
    """The running cluster. Only inside its namespaces is it reached."""

    user: ClusterUser = USER

    @property
    def run_as(self) -> list[str]:
        """What makes the rest of a command line run there, as the user, with the environment of the caller."""
        holder = (BED / "holder.pid").read_text().strip()
        name, home = self.user.name, self.user.home
        ids = ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups"]
        where = ["nsenter", f"--target={holder}", "--net", "--uts", "--mount", "--wdns=" + str(home)]
        return [*where, *ids, "env", f"HOME={home}", f"USER={name}", f"LOGNAME={name}"]

    def do(self, *words: str) -> str:
        """A command of the cluster's administrator."""
        return subprocess.run([SCRIPT, "as", "root", *words], check=True, capture_output=True, text=True).stdout

    def kill_processes(self, scheduler_id: str) -> None:
        self.user.kill_processes_with(f"JOB_ID={scheduler_id}")

    def end_everything(self) -> None:
        subprocess.run([SCRIPT, "as", self.user.name, "qdel", "-u", self.user.name], check=False, capture_output=True)


@contextmanager
def running_grid_engine() -> Iterator[GridEngineBed]:
    """The cluster, shared by all test processes of this machine one after another."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_ours = not BED.exists()
        _bed("up")
        try:
            yield GridEngineBed()
        finally:
            if is_ours:
                _bed("down")


def _bed(verb: str) -> None:
    # Daemons are no children of a test's, so they go without its mark.
    environment = {name: value for name, value in os.environ.items() if name != session_rules.MARKER}
    subprocess.run([SCRIPT, verb], check=True, stdin=subprocess.DEVNULL, env=environment)
