"""Puts the parts together that start Jobs in a partition. Called once, by the loop or by the process of a node."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from balsam.launcher.apps import AppShelf
from balsam.launcher.call_files import CallFiles
from balsam.launcher.engines.base import Engine
from balsam.launcher.engines.choice import engine_for
from balsam.launcher.engines.mpirun import MpirunEngine
from balsam.launcher.environment import JobEnvironment
from balsam.launcher.partition import Partition
from balsam.launcher.plans import Planner
from balsam.launcher.spreading import find_srun
from balsam.launcher.starter import Starter
from balsam.launcher.workdir import DataRoot
from balsam.platform.mpirun import openmpi_ranks, slurm_steps
from balsam.platform.node.base import NodeType
from balsam.platform.registry import NODES


class Parts(NamedTuple):
    """What the loop is given. `nodes_left`: the command that tells which nodes the allocation still has.

    `signaller`: the one that sends signals to ranks which mpirun does not pass on. `ranks_apart`: the pattern
    of what mpirun writes when the ranks of several nodes will never find each other, `out_of_memory` that of what it
    writes when the kernel killed some for want of memory.
    """

    starter: Starter
    apps: AppShelf
    data: DataRoot
    nodes_left: Sequence[str] | None = None
    signaller: tuple[str, ...] | None = None
    ranks_apart: str | None = None
    out_of_memory: bytes | None = None


def build_parts(
    partition: Partition,
    environ: Mapping[str, str],
    allocation: str,
    node: str | None = None,
    find_engine: Callable[[Partition, Mapping[str, str]], Engine] = engine_for,
) -> Parts:
    """For the launcher, or for its process on this node.

    Raises WorkdirError for the data directory, LookupError for an mpirun that is not there, ImportError for a package.
    """
    config = partition.config
    if partition.is_spread and node is None:
        _check_spread(environ)
    apps = AppShelf(config.pinned_apps, config.python_apps)
    data = DataRoot(Path(config.data_path))
    vendors = [node.gpu_vendor for node in partition.nodes]
    environment = JobEnvironment(
        environ, allocation, vendors, partition.serial, config.job_credentials_path, config.checkpoint_signal
    )
    owner = str(partition.index) if node is None else f"{partition.index}-{node}"
    calls = CallFiles(Path(config.directory) / f"calls-{owner}")
    told = {"site_id": config.site_id, "batch_job_id": config.batch_job_id}
    engine = find_engine(partition, environ)
    planner = Planner(apps, environment, engine, calls.path_of, told)
    node_type: NodeType = NODES.load(config.compute_node)()
    starter = Starter(planner, data, calls)
    return Parts(starter, apps, data, node_type.nodes_left(environ), *_about_ranks(engine, environ))


def _check_spread(environ: Mapping[str, str]) -> None:
    if importlib.util.find_spec("distributed") is None:
        raise ImportError(
            "serial mode over several nodes needs the extra `dask` in the environment of the Site's agent: "
            "pip install 'openbalsam[dask]'; or use one node for each BatchJob, or job_mode mpi"
        )
    find_srun(environ)


def _about_ranks(engine: Engine, environ: Mapping[str, str]) -> tuple[tuple[str, ...] | None, str | None, bytes | None]:
    """`signaller`, `ranks_apart` and `out_of_memory` of Parts, for an mpirun that does these as nobody wants it."""
    from balsam.platform.mpirun.openmpi import OpenMpi
    from balsam.platform.mpirun.srun import OUT_OF_MEMORY, RANKS_APART, Srun

    allocation = environ.get("SLURM_JOB_ID")
    mpirun = engine.mpirun if isinstance(engine, MpirunEngine) else None
    python = (sys.executable, "-I", "-S")
    if isinstance(mpirun, Srun) and allocation is not None:
        return (*python, str(slurm_steps.__file__), allocation), RANKS_APART, OUT_OF_MEMORY
    if isinstance(mpirun, OpenMpi):
        return (*python, str(openmpi_ranks.__file__), allocation or "-"), None, None
    return None, None, None
