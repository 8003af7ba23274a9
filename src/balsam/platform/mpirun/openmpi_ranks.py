"""Sends a signal to ranks of Open MPI, beside its mpiexec: `python -I -S openmpi_ranks.py ALLOCATION SIGNAL RANKS...`.

Run by the launcher, as a file and by the standard library alone. RANKS are those of one Job, `NAME@NODE,NODE...`, or
`NAME@` of this machine. ALLOCATION is that of Slurm, where there is one: a step of it on all those nodes runs this file
again, with HERE in its place. Ranks are found by the marks in their environment. Printed are the names that nobody
knows (any more, or yet), one a line; HERE, those that are known. The exit code is 1 when not all nodes could be asked,
and it said why.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = "--here"
TIMEOUT_SEC = 40.0
EXIT_USAGE = 64
_ALLOCATION = b"BALSAM_ALLOCATION"
# What Open MPI tells a rank, and all that the rank starts.
_RANK = b"OMPI_COMM_WORLD_RANK"


class Rank(NamedTuple):
    """A process of a Job's ranks. `name`: of the Job's attempt."""

    name: str
    pid: int
    parent: int
    group: int


def main(words: list[str]) -> int:
    """Signal, print; returns the exit code."""
    if len(words) < 3:
        print("usage: openmpi_ranks.py ALLOCATION SIGNAL NAME@NODE,NODE...", file=sys.stderr)  # noqa: T201 -- a program
        return EXIT_USAGE
    allocation, name, wanted = words[0], words[1], words[2:]
    if allocation == HERE:
        print(*sorted(signal_here(signal.Signals[name], wanted)), sep="\n")  # noqa: T201
        return 0
    told = signal_here(signal.Signals[name], [ranks[:-1] for ranks in wanted if ranks.endswith("@")])
    spread = [ranks for ranks in wanted if not ranks.endswith("@")]
    try:
        told |= _ask(step_words(allocation, name, spread)) if spread else set()
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        print(f"{said}".strip(), file=sys.stderr)  # noqa: T201
        return 1
    for ranks in wanted:
        if ranks.partition("@")[0] not in told:
            print(ranks)  # noqa: T201
    return 0


def step_words(allocation: str, number: str, wanted: Sequence[str]) -> list[str]:
    """The step that runs this file once on each node that is named, beside whatever runs there.

    >>> step_words("7", "SIGTERM", ["balsam-1.1@n1,n2", "balsam-2.1@n2"])[1:5]
    ['--jobid=7', '--nodes=2', '--ntasks=2', '--nodelist=n1,n2']
    """
    names = [ranks.partition("@")[0] for ranks in wanted]
    nodes = sorted({node for ranks in wanted for node in ranks.partition("@")[2].split(",")})
    words = ["srun", f"--jobid={allocation}", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}"]
    words += [f"--nodelist={','.join(nodes)}", "--ntasks-per-node=1", "--overlap", "--mem=0", "--mpi=none"]
    words += ["--cpu-bind=none", "--input=none", "--export=ALL", "--no-kill", "--kill-on-bad-exit=0"]
    return [*words, sys.executable, "-I", "-S", __file__, HERE, number, *names]


def signal_here(number: signal.Signals, names: Sequence[str]) -> set[str]:
    """Signal the ranks of these names on this machine, each with what it started in its process group.

    Returns the names of those that were there.
    """
    if not names:
        return set()
    ranks = {rank.pid: rank for rank in _ranks(os.environb.get(_ALLOCATION, b""), {*names})}
    for rank in ranks.values():
        if rank.parent not in ranks:
            _send(rank, number)
            if number is signal.SIGTERM:
                _send(rank, signal.SIGCONT)  # or one that is stopped would not hear it
    return {rank.name for rank in ranks.values()}


def _ranks(allocation: bytes, names: set[str]) -> Iterator[Rank]:
    """What runs here and belongs to ranks of this allocation; other people's processes can't be read."""
    for pid in [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]:
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            marks = dict(word.partition(b"=")[::2] for word in words)
            attempt = marks.get(b"BALSAM_JOB_ID", b""), marks.get(b"BALSAM_ATTEMPT", b"")
            name = "balsam-" + b".".join(attempt).decode(errors="replace")
            if name in names and _RANK in marks and marks.get(_ALLOCATION) == allocation:
                fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
                yield Rank(name, pid, int(fields[1]), int(fields[2]))


def _send(rank: Rank, number: signal.Signals) -> None:
    """To its process group, which Open MPI gives each rank."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(-rank.pid if rank.group == rank.pid else rank.pid, number)


def _ask(words: list[str]) -> set[str]:
    answer = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_SEC,
        check=True,
    )
    return {*answer.stdout.split()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
