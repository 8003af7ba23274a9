"""Signals to ranks of Open MPI: real processes with the marks of ranks, and a srun that runs the step here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from balsam.platform.mpirun import openmpi_ranks
from tests.launcher.conftest import wait_until
from tests.platform.fake_commands import write_program

pytestmark = pytest.mark.slow
# Runs what stands behind its options.
SRUN = 'echo "$@" > "$SAID"; while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"'
# Says of the signal, and of a second one; its child has a trap of its own.
CHILD = "trap 'echo $0-child told; exit' USR1 TERM; touch $0.up; while :; do sleep 0.05; done"
RANK = f"trap 'echo $0 told' USR1 TERM; ({CHILD}) & while :; do wait; done"


class Machine:
    """Processes of one node, and what they said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environ = {"PATH": f"{root}/bin:/usr/bin:/bin", "BALSAM_ALLOCATION": "ours", "SAID": str(root / "srun")}

    def start(self, name: str, job_id: int, attempt: int = 1, allocation: str = "ours", rank: str | None = "0") -> None:
        """A rank (a mpiexec, or its daemon, without `rank`) in a process group of its own."""
        marks = {"BALSAM_JOB_ID": str(job_id), "BALSAM_ATTEMPT": str(attempt), "BALSAM_ALLOCATION": allocation}
        marks |= {} if rank is None else {"OMPI_COMM_WORLD_RANK": rank}
        with (self.root / "told").open("ab") as out:
            words = ["bash", "-c", RANK, name]
            self.processes.append(
                subprocess.Popen(words, cwd=self.root, stdout=out, env={**self.environ, **marks}, process_group=0)
            )
        wait_until((self.root / f"{name}.up").exists, 30)

    def send(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-I", "-S", openmpi_ranks.__file__, "7", *words]
        return subprocess.run(program, env=self.environ, capture_output=True, text=True, timeout=60, check=False)

    def told(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.lines()) == count

    def lines(self) -> list[str]:
        return sorted((self.root / "told").read_text().splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    write_program(tmp_path / "bin", "srun", SRUN)
    machine = Machine(tmp_path)
    yield machine
    for process in machine.processes:
        os.killpg(process.pid, 9)
        process.wait()


def test_ranks_of_the_job_are_told_and_nobody_else(machine: Machine) -> None:
    """Once each, with what they have started; not the mpiexec, another attempt, Job, or allocation with that number."""
    machine.start("first", 1)
    machine.start("second", 1, rank="1")
    machine.start("mpiexec", 1, rank=None)
    machine.start("again", 1, attempt=2)
    machine.start("other", 12)
    machine.start("theirs", 1, allocation="theirs")
    answer = machine.send("SIGUSR1", "balsam-1.1@n2,n1", "balsam-3.1@n3")
    assert (answer.returncode, answer.stdout) == (0, "balsam-3.1@n3\n"), answer.stderr
    wait_until(machine.told(4), 30)
    said = (machine.root / "srun").read_text()
    assert said.startswith("--jobid=7 --nodes=3 --ntasks=3 --nodelist=n1,n2,n3 --ntasks-per-node=1 --overlap --mem=0 ")
    machine.send("SIGTERM", "balsam-12.1@n1")
    wait_until(machine.told(6), 30)
    assert machine.lines() == [
        *("first told", "first-child told", "other told", "other-child told", "second told", "second-child told"),
    ]


def test_what_srun_says_is_told_on_and_nobody_counts_as_unknown(machine: Machine) -> None:
    write_program(machine.root / "bin", "srun", "echo Unable to contact slurm controller >&2; exit 1")
    answer = machine.send("SIGTERM", "balsam-1.1@n1")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "Unable to contact slurm controller\n"
    (machine.root / "bin" / "srun").unlink()
    machine.environ["PATH"] = str(machine.root / "bin")
    assert "srun" in machine.send("SIGTERM", "balsam-1.1@n1").stderr


def test_a_word_too_few_is_refused(machine: Machine) -> None:
    assert machine.send("SIGTERM").returncode == openmpi_ranks.EXIT_USAGE
