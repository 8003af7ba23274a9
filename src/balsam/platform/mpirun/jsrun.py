"""jsrun of IBM's Job Step Manager, in allocations of LSF: Summit and its like (POWER9).

From public documentation (IBM: "jsrun command", "Explicit Resource File (ERF) format"; OLCF: "ERF CPU Indexing");
never run on such a machine. jsrun's own options choose the hosts themselves, so each run gets an explicit resource
file: a line for each rank with its host, hardware threads and GPUs, which `erf` writes for the time of the run. Threads
are numbered as for SMT level 4, the default there. jsrun itself tells the ranks their GPUs and passes the environment.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from balsam.platform.mpirun.base import NodeRanks, RankCommand, RankPlacement, is_direct, param_words

_STARTER = str(Path(__file__).with_name("erf.py"))
_THREADS_PER_CORE = 4
# The launcher packs by itself: what it gives to several ranks is meant to be shared.
_HEAD = (
    "cpu_index_using: logical",
    "overlapping_rs: allow",
    "oversubscribe_cpu: allow",
    "oversubscribe_gpu: allow",
    "oversubscribe_mem: allow",
)


class Jsrun:
    """`jsrun --erf_input=FILE --exit_on_error=1 ARGV`, started by `erf.py` with the text of the file."""

    name = "jsrun"
    programs: tuple[str, ...] = ("jsrun",)
    params: Mapping[str, str] = {"smpiargs": "--smpiargs", "launch-distribution": "--launch_distribution"}

    def __init__(self, jsrun: str = "jsrun") -> None:
        self.jsrun = jsrun
        self.python = sys.executable

    def command(self, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str]) -> RankCommand:
        extra = param_words(placement.launch_params, self.params, self.name)
        if is_direct(placement):
            return RankCommand(list(argv))
        # A rank that fails ends the others.
        words = [self.jsrun, "--exit_on_error=1", *extra, *argv]
        return RankCommand([self.python, "-I", "-S", _STARTER, resource_file(placement), "--", *words])


def resource_file(placement: RankPlacement) -> str:
    """The text of the ERF."""
    lines = (line for node in placement.nodes for line in _sets(node))
    return "\n".join([*_HEAD, *(f"rank: {rank}: {line}" for rank, line in enumerate(lines)), ""])


def _sets(node: NodeRanks) -> Iterator[str]:
    """What each rank of the node may use; all of the node's share where there are fewer cores than ranks."""
    cpu_parts = node.cpu_parts() or (node.cpu_ids,) * node.ranks
    gpu_parts = node.gpu_parts() or ((),) * node.ranks
    for cores, gpus in zip(cpu_parts, gpu_parts, strict=True):
        first = (core * _THREADS_PER_CORE for core in cores)
        threads = ",".join(f"{thread}-{thread + _THREADS_PER_CORE - 1}" for thread in first)
        own = f" ; gpu: {{{','.join(gpus)}}}" if gpus else ""
        yield f"{{ hostname: {node.host}; cpu: {{{threads}}}{own} ; mem: * }}"
