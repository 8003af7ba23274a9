"""No MPI installed: the ranks of a Job as plain processes of this machine.

Each gets BALSAM_RANK, BALSAM_SIZE, BALSAM_LOCAL_RANK and BALSAM_LOCAL_SIZE, and PMI_RANK and PMI_SIZE, which scripts
written for MPICH or Slurm read. Variables of Open MPI are not imitated: a program that sees them expects Open MPI's
runtime behind them. There is no communication: a real MPI program would run as N times one rank.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from balsam.platform.mpirun.base import (
    LaunchParamRefused,
    RankCommand,
    RankPlacement,
    param_words,
)

_STARTER = str(Path(__file__).with_name("ranks.py"))


class Plain:
    """One rank is executed directly; more are started by `ranks.py`, in one process group, which waits for them."""

    name = "plain"
    programs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.python = sys.executable

    def command(self, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str]) -> RankCommand:
        param_words(placement.launch_params, {}, "a machine without MPI")
        if not placement.is_local:
            hosts = ", ".join(node.host for node in placement.nodes)
            raise LaunchParamRefused(f"no mpiexec was found, and plain processes can't be started on {hosts}")
        if placement.num_ranks == 1:
            one = {"BALSAM_RANK": "0", "BALSAM_SIZE": "1", "BALSAM_LOCAL_RANK": "0", "BALSAM_LOCAL_SIZE": "1"}
            return RankCommand(list(argv), one)
        return RankCommand([self.python, "-I", "-S", _STARTER, str(placement.num_ranks), "--", *argv], reach="group")
