"""The mpiexec of HPE's PALS (Parallel Application Launch Service), on Cray EX machines under PBS: Aurora, Polaris.

From public documentation (docs.alcf.anl.gov/aurora/running-jobs-aurora, .../polaris/running-jobs); never run on such a
machine. Left to itself PALS binds every run to the first cores of a node, so that Jobs side by side would share them:
each rank is bound to cores of its Job by name. GPUs are bound by PALS only where its manual shows that it can, one
tile of an Intel GPU for each rank; else the ranks see the GPUs of their Job by the vendor's variable.
"""

import re
from collections.abc import Mapping, Sequence

from balsam.platform.mpirun.base import RankCommand, RankPlacement, is_direct, one_program, param_words

_TILE = re.compile(r"\d+\.\d+")


class Pals:
    """`mpiexec --envall --hosts a,b -n 4 --ppn 2 --cpu-bind list:0,1:2,3 ARGV`."""

    name = "pals"
    programs: tuple[str, ...] = ("mpiexec",)
    params: Mapping[str, str] = {name: f"--{name}" for name in ("cpu-bind", "gpu-bind", "mem-bind", "depth")}

    def __init__(self, mpiexec: str = "mpiexec") -> None:
        self.mpiexec = mpiexec

    def command(self, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str]) -> RankCommand:
        extra = param_words(placement.launch_params, self.params, self.name)
        if is_direct(placement):
            return RankCommand(list(argv))
        words = [self.mpiexec, "--envall", "--hosts", ",".join(node.host for node in placement.nodes)]
        words += ["-n", str(placement.num_ranks), "--ppn", str(placement.ranks_of_each_node(self.name))]
        if "--cpu-bind" not in extra:
            words += ["--cpu-bind", _cpu_list(placement)]
        if "--gpu-bind" not in extra:
            words += _gpu_binding(placement)
        return RankCommand([*words, *extra, *one_program(argv)])


def _cpu_list(placement: RankPlacement) -> str:
    parts = placement.common_cpu_parts()
    return "list:" + ":".join(",".join(map(str, part)) for part in parts) if parts else "none"


def _gpu_binding(placement: RankPlacement) -> list[str]:
    parts = placement.common_gpu_parts()
    if not parts or not all(len(part) == 1 and _TILE.fullmatch(part[0]) for part in parts):
        return []
    return ["--gpu-bind", "list:" + ":".join(part[0] for part in parts)]
