"""`flux run`, in the instance of Flux that the batch script runs in.

From the public manual pages of flux-core (flux-framework.readthedocs.io: flux-run(1), flux-shell(1)); never run in a
real Flux. The launcher packs by itself, and gives Flux's own scheduler nothing to decide: each run books one core of
each of its nodes, which is always there, and what its ranks are bound to are the cores and GPUs that the Job was given.
Flux numbers GPUs by CUDA_VISIBLE_DEVICES only: those of other vendors stay as the Job's own variable says.
"""

from collections.abc import Iterable, Mapping, Sequence

from balsam.platform.mpirun.base import RankCommand, RankPlacement, is_direct, param_words

_OTHER_VENDORS = frozenset({"ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"})


class FluxRun:
    """`flux run --nodes=2 --cores=2 --tasks-per-node=2 --requires=host:a,b -o cpu-affinity=map:0,1;2,3 ... ARGV`."""

    name = "flux"
    programs: tuple[str, ...] = ("flux",)
    params: Mapping[str, str] = {name: f"-o{name}=" for name in ("cpu-affinity", "gpu-affinity", "mpi", "pmi")}

    def __init__(self, flux: str = "flux") -> None:
        self.flux = flux

    def command(self, placement: RankPlacement, argv: Sequence[str], env: Mapping[str, str]) -> RankCommand:
        pairs = iter(param_words(placement.launch_params, self.params, self.name))
        extra = dict(zip(pairs, pairs, strict=True))
        if is_direct(placement):
            return RankCommand(list(argv))
        count = len(placement.nodes)
        words = [self.flux, "run", f"--nodes={count}", f"--cores={count}"]
        words.append(f"--tasks-per-node={placement.ranks_of_each_node(self.name)}")
        words.append(f"--requires=host:{','.join(node.host for node in placement.nodes)}")
        options = {
            "-ocpu-affinity=": _mapped(placement.common_cpu_parts()),
            "-ogpu-affinity=": "off" if _OTHER_VENDORS & env.keys() else _gpu_map(placement),
        }
        # A rank that fails ends the others.
        return RankCommand([*words, "-oexit-on-error", *map("".join, {**options, **extra}.items()), *argv])


def _gpu_map(placement: RankPlacement) -> str:
    parts = placement.common_gpu_parts()
    return _mapped(parts) if all(gpu.isdigit() for part in parts for gpu in part) else "off"


def _mapped(parts: Sequence[Iterable[object]]) -> str:
    return "map:" + ";".join(",".join(map(str, part)) for part in parts) if parts else "off"
