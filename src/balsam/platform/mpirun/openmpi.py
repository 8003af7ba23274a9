"""Open MPI 4 and 5.

Slots are given with each host, so that Open MPI does not count cores itself and refuse. Its default binding starts at
core 0 in every run, which would pile concurrent Jobs onto the same cores: it is switched off unless the Job asks.
Variables are named for ranks on other nodes, which inherit nothing otherwise. Open MPI 5 looks for `--mca` among the
program's own arguments, so that those travel inside one word. SIGTERM is the end for mpiexec itself: it gives its ranks
a second after it, and those on other nodes may be killed without it. So ranks are signalled beside it, where they can
be reached (`openmpi_ranks.py`): on this machine, and on other nodes of a Slurm.
"""

import os
import re
from collections.abc import Mapping, Sequence

from balsam.platform.mpirun.base import (
    RankCommand,
    RankPlacement,
    is_direct,
    one_program,
    param_words,
    step_name,
    steps_beside_others,
)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class OpenMpi:
    """`mpiexec --host a:2,b:2 -n 4 --map-by ppr:2:node --bind-to none -x NAME ... ARGV`."""

    name = "openmpi"
    programs: tuple[str, ...] = ("mpiexec.openmpi", "mpiexec")
    params: Mapping[str, str] = {"bind-to": "--bind-to", "cpu-bind": "--bind-to"}

    def __init__(
        self,
        mpiexec: str = "mpiexec",
        is_root: bool | None = None,
        in_slurm: bool | None = None,
    ) -> None:
        self.mpiexec = mpiexec
        self.is_root = os.geteuid() == 0 if is_root is None else is_root
        self.in_slurm = "SLURM_JOB_ID" in os.environ if in_slurm is None else in_slurm

    def command(self, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str]) -> RankCommand:
        extra = param_words(placement.launch_params, self.params, self.name) or ["--bind-to", "none"]
        if is_direct(placement):
            return RankCommand(list(argv))
        words = [self.mpiexec]
        if self.is_root:
            words.append("--allow-run-as-root")
        words += [*self._where(placement), "-n", str(placement.num_ranks), *extra]
        if not placement.is_local:
            for name in sorted(env):
                if _VARIABLE.fullmatch(name):
                    words += ["-x", name]
        words += one_program(argv, hide_options=True)
        if not (placement.is_local or self.in_slurm):
            return RankCommand(words, self._env(placement))
        nodes = "" if placement.is_local else ",".join(node.host for node in placement.nodes)
        return RankCommand(words, self._env(placement), "step", f"{step_name(env)}@{nodes}")

    def _where(self, placement: RankPlacement) -> list[str]:
        if placement.is_local:
            return ["--host", f"localhost:{placement.num_ranks}", *self._oversubscribe(placement)]
        hosts = ",".join(f"{node.host}:{node.ranks}" for node in placement.nodes)
        counts = {node.ranks for node in placement.nodes}
        by_node = ["--map-by", f"ppr:{counts.pop()}:node"] if len(counts) == 1 else ["--map-by", "slot"]
        return ["--host", hosts, *by_node, *self._oversubscribe(placement)]

    def _oversubscribe(self, placement: RankPlacement) -> list[str]:
        return ["--oversubscribe"] if placement.oversubscribed else []

    def _env(self, placement: RankPlacement) -> dict[str, str]:
        # Ranks that share a core must not spin on it while they wait.
        yields = {"OMPI_MCA_mpi_yield_when_idle": "1"} if placement.oversubscribed else {}
        return {**steps_beside_others(placement), **yields}
