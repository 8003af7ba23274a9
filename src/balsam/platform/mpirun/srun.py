"""Slurm's srun, inside an allocation: one job step for each Job.

The launcher packs by itself and gives the same core to no two Jobs, so steps are told to overlap: Slurm would otherwise
let a step wait (or, with its memory limit for each core, refuse it) for what an earlier one formally still holds. A
step that overlaps and is given part of a node (`--cpus-per-task` means that, too) is given the first part, whoever else
has it. So steps on nodes that Jobs share are given all of the node; cores are held apart by explicit masks, which hold
in steps with all of a node only (`binds`). Without them nothing is said of binding: where Slurm can't bind, it would
complain of it in the output of each Job.
"""

import os
from collections.abc import Mapping, Sequence

from balsam.platform.mpirun.base import RankCommand, RankPlacement, is_direct, param_words, step_name
from balsam.platform.mpirun.linked_mpi import linked_mpi
from balsam.platform.node import gpus

# What a step's daemon writes when the nodes' PMIx servers can't reach each other: the ranks then wait without end.
RANKS_APART = r"^slurmstepd\S*: error: .*mpi/pmix.*exceeded the retry limit"

# What srun writes when the kernel killed ranks for want of memory; it then ends with 1, as if they had.
OUT_OF_MEMORY = rb"^srun: error: \S+: tasks? [\d,-]+: Out Of Memory$"

# A rank that fails ends the others; a user's SLURM_EXPORT_ENV would keep the Job's variables from the ranks.
_ALWAYS = ("--overlap", "--mem=0", "--kill-on-bad-exit=1", "--input=none", "--export=ALL")


class Srun:
    """`srun --nodes=N --ntasks=N --nodelist=a,b --overlap ... ARGV`.

    `pmi`: what `--mpi` says, None for Slurm's own default. `binds`: pin each rank to its part of the cores.
    `cpus_per_core`: how many of Slurm's CPUs make up one core of the Job's (2 where Slurm counts hyperthreads).
    `pmi_of_others`: what `--mpi` says for programs that are linked with another MPI, by its family.
    """

    name = "srun"
    programs: tuple[str, ...] = ("srun",)
    params: Mapping[str, str] = {
        name: f"--{name}"
        for name in (
            *("cpu-bind", "mem-bind", "distribution", "hint", "threads-per-core", "cpus-per-task", "mpi", "network"),
            *("gpus-per-task", "gpu-bind", "ntasks-per-socket", "ntasks-per-core"),
        )
    }

    def __init__(
        self,
        srun: str = "srun",
        pmi: str | None = None,
        binds: bool = False,
        cpus_per_core: int = 1,
        pmi_of_others: Mapping[str, str] | None = None,
    ) -> None:
        self.srun = srun
        self.pmi = pmi
        self.binds = binds
        self.cpus_per_core = cpus_per_core
        self.pmi_of_others = pmi_of_others or {}

    def command(self, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str]) -> RankCommand:
        extra = param_words(placement.launch_params, self.params, self.name)
        if is_direct(placement):
            return RankCommand(list(argv))
        step = step_name(env)
        words = [self.srun, *self._where(placement), *_ALWAYS, f"--job-name={step}"]
        pmi = None if "--mpi" in extra else self._pmi(argv[0], env)
        if pmi is not None:
            words.append(f"--mpi={pmi}")
        # Slurm takes no hint beside a binding.
        own = "--cpu-bind" in extra or "--hint" in extra
        masks = [] if own else self._masks(placement)
        if not own:
            words += masks or (["--cpu-bind=none"] if self.binds else [])
        if "--cpus-per-task" not in extra and not masks:
            words += self._cores(placement)
        if "--distribution" not in extra:
            words.append("--distribution=block")
        return RankCommand([*words, *extra, "--", *_with_gpus(env), *argv], reach="step", step=step)

    def _pmi(self, program: str, env: Mapping[str, str]) -> str | None:
        if not self.pmi_of_others:
            return self.pmi
        search = env.get("PATH") or os.environ.get("PATH", os.defpath)
        return self.pmi_of_others.get(linked_mpi(program, search) or "", self.pmi)

    def _where(self, placement: RankPlacement) -> list[str]:
        nodes = placement.nodes
        words = [
            f"--nodes={len(nodes)}",
            f"--ntasks={placement.num_ranks}",
            f"--nodelist={','.join(node.host for node in nodes)}",
        ]
        counts = {node.ranks for node in nodes}
        if len(counts) == 1:
            words.append(f"--ntasks-per-node={counts.pop()}")
        if placement.oversubscribed:
            words.append("--overcommit")
        return words

    def _cores(self, placement: RankPlacement) -> list[str]:
        """Where Slurm binds ranks, it binds each to one CPU unless it knows that a rank needs more."""
        each = min(len(node.cpu_ids) // node.ranks for node in placement.nodes) * self.cpus_per_core
        return [f"--cpus-per-task={each}"] if each > 1 and not (placement.oversubscribed or placement.is_shared) else []

    def _masks(self, placement: RankPlacement) -> list[str]:
        """They are one list for all nodes: ranks of nodes on which other cores are free are not bound."""
        masks = (sum(1 << cpu for cpu in part) for part in placement.common_cpu_parts()) if self.binds else ()
        listed = ",".join(f"{mask:#x}" for mask in masks)
        return [f"--cpu-bind=mask_cpu:{listed}"] if listed else []


def _with_gpus(env: Mapping[str, str]) -> list[str]:
    """Slurm shows every step all GPUs of the allocation, whatever srun's own environment says: so it is said behind it.

    >>> _with_gpus({"CUDA_VISIBLE_DEVICES": "1", "OTHER": "2"})
    ['/usr/bin/env', 'CUDA_VISIBLE_DEVICES=1']
    """
    own = [f"{name}={env[name]}" for name in sorted(gpus.VARIABLES) if name in env]
    return ["/usr/bin/env", *own] if own else []
