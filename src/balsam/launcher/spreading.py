"""The words that start one process on each node of an allocation, by the batch system's own program.

Used by the hub. The process is given its configuration on standard input, which the program must pass to every node.
"""

import shutil
from collections.abc import Mapping, Sequence


class SpreadError(LookupError):
    """There is no way to start processes on the other nodes; the text says what was looked for."""


def find_srun(environ: Mapping[str, str]) -> str:
    """The program. Raises SpreadError."""
    srun = shutil.which("srun", path=environ.get("PATH"))
    if "SLURM_JOB_ID" not in environ or srun is None:
        raise SpreadError(
            "serial mode over several nodes starts processes with srun in an allocation of Slurm, which this is not: "
            "use one node for each BatchJob, or job_mode mpi"
        )
    return srun


def spread_words(names: Sequence[str], argv: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Raises SpreadError."""
    return [
        find_srun(environ),
        f"--nodes={len(names)}",
        f"--ntasks={len(names)}",
        "--ntasks-per-node=1",
        f"--nodelist={','.join(names)}",
        # It shares the nodes with nobody but the batch script, and outlives the loss of a node.
        "--overlap",
        "--no-kill",
        "--kill-on-bad-exit=0",
        "--mpi=none",
        "--cpu-bind=none",
        "--export=ALL",
        "--unbuffered",
        "--label",
        "--quit-on-interrupt",
        *argv,
    ]
