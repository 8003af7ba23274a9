"""What the launcher may ask of an mpirun: the command line that starts the ranks of one Job where they belong.

Adapters only build command lines; the launcher runs them, and `detect` chooses the adapter. For whoever kills: hydra
gives each rank a session of its own and Open MPI each rank a process group of its own, so a Job is gone when no process
with its environment marker is left, not when the group of the mpiexec is.

A Job with one rank is started directly, without mpiexec: an MPI program then initialises as a singleton (size 1), and
the start costs nothing (hydra 4 ms, Open MPI 50 ms).
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from balsam.domain.packing import Node, Placement

# How a signal gets to the ranks: with the process group; by the mpirun, which passes on what it is sent; by a program
# beside it, to which RankCommand.step names them.
SignalReach = Literal["group", "mpirun", "step"]

_PARAM_VALUE = re.compile(r"[A-Za-z0-9_.,:=+][A-Za-z0-9_.,:=+-]{0,127}")
# What an mpirun or a batch system tells its ranks: a program that inherits it takes itself for a rank of that run.
_RANK_VARIABLE = re.compile(
    r"PMI_|PMI2_|PMIX_|HYDI_|HYDRA_|MPI_LOCAL|OMPI_|ORTE_|PRTE_|PRRTE_|OPAL_|I_MPI_HYDRA_|BALSAM_(LOCAL_)?(RANK|SIZE)$"
    r"|SLURM_(PROCID|LOCALID|NODEID|STEP|TASK_PID|GTIDS|SRUN_|PMIX)"
    # Said of the batch script's tasks, and taken by srun for those of a Job, some by one version, some by another.
    r"|(SLURM|SRUN)_CPUS_PER_TASK$|SLURM_TRES_PER_TASK$"
    r"|PALS_(RANKID|NODEID|LOCAL_|APID|APINFO|SPOOL_DIR)|FLUX_TASK_(RANK|LOCAL_ID)|JSM_NAMESPACE_"
)
# Settings that a user may have made on purpose for all runs.
_KEPT_VARIABLE = re.compile(
    r"OMPI_MCA_(?!orte_|ess_|pmix|initial_wdir)|PRTE_MCA_(?!ess_|prte_)|HYDRA_(IFACE|TOPO_DEBUG)$"
    r"|I_MPI_HYDRA_(BOOTSTRAP|IFACE)"
)


# What each rank of a node may use, in the order of the ranks.
CpuParts = tuple[tuple[int, ...], ...]
GpuParts = tuple[tuple[str, ...], ...]


class LaunchParamRefused(ValueError):
    """A Job's `launch_params` hold what this mpirun does not take; the text says what it takes."""


@dataclass(frozen=True, slots=True)
class NodeRanks:
    """Ranks of a Job on one node, and what they may use there; a GPU's id stands once for each rank that uses it."""

    host: str
    ranks: int
    cpu_ids: tuple[int, ...] = ()
    gpu_ids: tuple[str, ...] = ()

    def cpu_parts(self) -> CpuParts:
        """Equal parts of the node's share, one for each rank; none when there are fewer cores than ranks.

        >>> NodeRanks("n", 2, (0, 1, 4, 5)).cpu_parts()
        ((0, 1), (4, 5))
        """
        each = len(self.cpu_ids) // self.ranks
        return tuple(self.cpu_ids[rank * each : (rank + 1) * each] for rank in range(self.ranks)) if each else ()

    def gpu_parts(self) -> GpuParts:
        """The GPUs of each rank; none when the Job asked for none."""
        each = len(self.gpu_ids) // self.ranks
        return tuple(self.gpu_ids[rank * each : (rank + 1) * each] for rank in range(self.ranks)) if each else ()


@dataclass(frozen=True, slots=True)
class RankPlacement:
    """Where the ranks of one Job go.

    `is_local`: all nodes are the machine that mpiexec runs on (one node, or pretended nodes of a laptop).
    `oversubscribed`: more ranks than cores. `launch_params` are the Job's extra arguments for the mpirun. `is_shared`:
    other Jobs may run on its nodes at the same time.
    """

    nodes: tuple[NodeRanks, ...]
    is_local: bool = True
    threads_per_rank: int = 1
    oversubscribed: bool = False
    launch_params: Mapping[str, str] = field(default_factory=dict)
    is_shared: bool = False

    @classmethod
    def of(
        cls,
        placement: Placement,
        nodes: Sequence[Node],
        launch_params: Mapping[str, str],
        is_local: bool,
    ) -> "RankPlacement":
        """From the launcher's placement; `nodes` are those of its NodePool."""
        resources = placement.resources
        return cls(
            nodes=tuple(
                NodeRanks(nodes[share.node].name, resources.ranks_per_node, share.cpu_ids, share.gpu_ids)
                for share in placement.shares
            ),
            is_local=is_local,
            threads_per_rank=resources.threads_per_rank,
            oversubscribed=placement.oversubscribed,
            launch_params=launch_params,
            is_shared=resources.node_packing_count > 1,
        )

    @property
    def num_ranks(self) -> int:
        return sum(node.ranks for node in self.nodes)

    def ranks_of_each_node(self, mpirun: str) -> int:
        """For an mpirun that takes one number for all nodes. Raises LaunchParamRefused when they differ."""
        counts = [node.ranks for node in self.nodes]
        if len(set(counts)) > 1:
            raise LaunchParamRefused(f"{mpirun} starts as many ranks on each node, not {', '.join(map(str, counts))}")
        return counts[0]

    def common_cpu_parts(self) -> CpuParts:
        """The cores of each rank where one list holds for all nodes; none when nodes differ or ranks share cores."""
        parts = {node.cpu_parts() for node in self.nodes}
        return parts.pop() if len(parts) == 1 and not self.oversubscribed else ()

    def common_gpu_parts(self) -> GpuParts:
        """The GPUs of each rank where one list holds for all nodes; none when nodes differ."""
        parts = {node.gpu_parts() for node in self.nodes}
        return parts.pop() if len(parts) == 1 else ()


@dataclass(frozen=True, slots=True)
class RankCommand:
    """What to run: words, and what to set in the environment besides the Job's own variables.

    `step`: the name of the ranks for the program that reaches them, often by the batch system, as a step.
    """

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    reach: SignalReach = "mpirun"
    step: str = ""


class MpiRun(Protocol):
    """One way to start ranks.

    Made as `cls(mpiexec_path)`. `programs` are the names to look for on PATH, the most telling first;
    none: it needs no program and is made as `cls()`.
    """

    name: str
    programs: tuple[str, ...]

    def command(self, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str]) -> RankCommand:
        """The command that runs `argv` once for each rank.

        `env` are the variables that the launcher sets for this Job (their names must reach the other nodes too); start
        from `without_rank_variables(os.environ)`. Raises LaunchParamRefused.

        When it gives a lone rank without launch_params back as it is, to be executed directly, that is not asked again
        for the same placement: it and its `env` then depend on nothing else.
        """
        ...


def without_rank_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a Job: without what says "you are rank n" to a program that is not (agent under mpiexec).

    >>> without_rank_variables({"PMI_RANK": "0", "OMPI_MCA_btl": "tcp", "HOME": "/h"})
    {'OMPI_MCA_btl': 'tcp', 'HOME': '/h'}
    """
    return {
        name: value for name, value in environ.items() if not _RANK_VARIABLE.match(name) or _KEPT_VARIABLE.match(name)
    }


def param_words(params: Mapping[str, str], allowed: Mapping[str, str], mpirun: str) -> list[str]:
    """A Job's `launch_params` as words of the command line; only what is allowed by name.

    The list is closed, since some options of each mpiexec run programs of the caller's choice, which the App was
    checked for and its parameters were not (S15). Raises LaunchParamRefused.
    """
    words: list[str] = []
    for key, value in params.items():
        flag = allowed.get(key.lstrip("-").replace("_", "-"))
        if flag is None:
            known = ", ".join(sorted(allowed)) or "none"
            raise LaunchParamRefused(f"launch parameter {key!r} is not one that {mpirun} takes here; it takes: {known}")
        if not _PARAM_VALUE.fullmatch(value):
            raise LaunchParamRefused(
                f"launch parameter {key!r} has the value {value!r}; letters, digits and _.,:=+- are allowed"
            )
        words += [flag, value]
    return words


def one_program(argv: Sequence[str], hide_options: bool = False) -> list[str]:
    """The Job's command as words that every mpiexec passes on unchanged and unread.

    A word that is just `:` starts a second program for mpiexec; a parameter with that value must not (S15).
    `hide_options`: this mpiexec also looks for options of its own among the program's.

    >>> one_program(["echo", ":", "rm"])
    ['/bin/sh', '-c', 'exec echo : rm']
    """
    is_read = ":" in argv or (hide_options and any(word.startswith("-") for word in argv[1:]))
    return ["/bin/sh", "-c", f"exec {shlex.join(argv)}"] if is_read else list(argv)


def steps_beside_others(placement: RankPlacement) -> dict[str, str]:
    """For an mpiexec that reaches other nodes by srun: its step must not wait until that of another Job there ends."""
    return {} if placement.is_local else {"SLURM_OVERLAP": "1"}


def step_name(env: Mapping[str, str]) -> str:
    """The name of the ranks of one attempt of a Job, from the Job's marks.

    >>> step_name({"BALSAM_JOB_ID": "7", "BALSAM_ATTEMPT": "1"})
    'balsam-7.1'
    """
    return f"balsam-{env['BALSAM_JOB_ID']}.{env['BALSAM_ATTEMPT']}"


def is_direct(placement: RankPlacement) -> bool:
    """Whether the Job is started without mpiexec."""
    return placement.num_ranks == 1 and placement.is_local
