"""MPICH and what shares its hydra mpiexec: MVAPICH, Intel MPI.

Inside an allocation hydra starts its proxies through the batch system; on one machine `-launcher fork` keeps it from
looking for one. `fork` puts all ranks on this machine whatever `-hosts` says, so it is given for local placements only.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from balsam.platform.mpirun.base import (
    RankCommand,
    RankPlacement,
    is_direct,
    one_program,
    param_words,
    steps_beside_others,
)


class Mpich:
    """`mpiexec -launcher fork -hosts localhost -n N ARGV`, or `-hosts a,b -ppn P -n N ARGV` over nodes.

    `bind="cpus"` pins each rank to its part of the cores that the Job was given, on a single node.
    """

    name = "mpich"
    programs: tuple[str, ...] = ("mpiexec.mpich", "mpiexec.hydra", "mpiexec")
    params: Mapping[str, str] = {"bind-to": "-bind-to", "cpu-bind": "-bind-to", "map-by": "-map-by"}

    def __init__(self, mpiexec: str = "mpiexec", bind: Literal["none", "cpus"] = "none") -> None:
        self.mpiexec = mpiexec
        self.bind = bind

    def command(self, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str]) -> RankCommand:
        extra = param_words(placement.launch_params, self.params, self.name)
        if is_direct(placement):
            return RankCommand(list(argv))
        words = [self.mpiexec, *self._where(placement), "-n", str(placement.num_ranks)]
        if not extra:
            words += self._binding(placement)
        return RankCommand([*words, *extra, *one_program(argv)], self._env(placement))

    def _where(self, placement: RankPlacement) -> list[str]:
        if placement.is_local:
            return ["-launcher", "fork", "-hosts", "localhost"]
        counts = {node.ranks for node in placement.nodes}
        if len(counts) == 1:
            return ["-hosts", ",".join(node.host for node in placement.nodes), "-ppn", str(counts.pop())]
        return ["-hosts", ",".join(f"{node.host}:{node.ranks}" for node in placement.nodes)]

    def _binding(self, placement: RankPlacement) -> list[str]:
        parts = placement.nodes[0].cpu_parts()
        if self.bind == "none" or len(placement.nodes) > 1 or not parts:
            return []
        return ["-bind-to", "user:" + ",".join("+".join(str(cpu) for cpu in part) for part in parts)]

    def _env(self, placement: RankPlacement) -> dict[str, str]:
        return steps_beside_others(placement)


class IntelMpi(Mpich):
    """Intel MPI: hydra with a few defaults of its own (written from its documentation, not run here)."""

    name = "intelmpi"
    programs: tuple[str, ...] = ("mpiexec.hydra", "mpiexec")
    params: Mapping[str, str] = {}

    def _where(self, placement: RankPlacement) -> list[str]:
        if placement.is_local:
            return ["-bootstrap", "fork", "-hosts", "localhost"]
        return super()._where(placement)

    def _binding(self, placement: RankPlacement) -> list[str]:
        return []

    def _env(self, placement: RankPlacement) -> dict[str, str]:
        # Under a batch system Intel MPI ignores -ppn unless told otherwise.
        env = {**super()._env(placement), "I_MPI_JOB_RESPECT_PROCESS_PLACEMENT": "0"}
        if self.bind == "none":
            env["I_MPI_PIN"] = "0"
        return env
