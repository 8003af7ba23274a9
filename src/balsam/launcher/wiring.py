"""Puts the parts together that start Jobs in a partition. Called once by the loop's `main`."""

import importlib.util
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from balsam.launcher.apps import AppShelf
from balsam.launcher.call_files import CallFiles
from balsam.launcher.engines.base import Engine
from balsam.launcher.engines.local import LocalEngine
from balsam.launcher.engines.mpirun import MpirunEngine
from balsam.launcher.environment import JobEnvironment
from balsam.launcher.partition import Partition
from balsam.launcher.plans import Planner
from balsam.launcher.spreading import find_srun
from balsam.launcher.starter import Starter
from balsam.launcher.workdir import DataRoot
from balsam.platform.mpirun import slurm_steps
from balsam.platform.mpirun.base import MpiRun
from balsam.platform.node.base import NodeType
from balsam.platform.registry import NODES

log = logging.getLogger("balsam.launcher")


class Parts(NamedTuple):
    """What the loop is given. `nodes_left`: the command that tells which nodes the allocation still has.

    `signaller`: the one that sends signals to ranks which only the batch system can reach. `ranks_apart`: the pattern
    of what mpirun writes when the ranks of several nodes will never find each other.
    """

    starter: Starter
    apps: AppShelf
    data: DataRoot
    nodes_left: Sequence[str] | None = None
    signaller: tuple[str, ...] | None = None
    ranks_apart: str | None = None


def build_parts(partition: Partition, environ: Mapping[str, str], allocation: str, node: str | None = None) -> Parts:
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
    engine = engine_for(partition, environ)
    planner = Planner(apps, environment, engine, calls.path_of, told)
    node_type: NodeType = NODES.load(config.compute_node)()
    starter = Starter(planner, data, calls)
    return Parts(starter, apps, data, node_type.nodes_left(environ), *_about_steps(engine, environ))


def _check_spread(environ: Mapping[str, str]) -> None:
    if importlib.util.find_spec("distributed") is None:
        raise ImportError(
            "serial mode over several nodes needs the extra `dask` in the environment of the Site's agent: "
            "pip install 'openbalsam[dask]'; or use one node for each BatchJob, or job_mode mpi"
        )
    find_srun(environ)


def engine_for(partition: Partition, environ: Mapping[str, str]) -> Engine:
    """What starts the partition's Jobs. Raises LookupError for an mpirun that is not there."""
    if partition.is_spread or (partition.serial and partition.is_local):
        return LocalEngine()
    from balsam.platform.mpirun.detect import detect
    from balsam.platform.mpirun.pmi import choose_pmi
    from balsam.platform.mpirun.srun import Srun

    found = detect(partition.config.mpirun, environ)
    log.info("mpirun: %s", found.reason)
    mpirun = _binding(found.mpirun) if partition.config.mpirun_binds_cpus else found.mpirun
    if isinstance(mpirun, Srun) and not partition.serial:
        pmi = choose_pmi(mpirun.srun, [node.name for node in partition.nodes], environ)
        log.info("mpirun: %s", pmi.reason)
        mpirun = Srun(mpirun.srun, mpirun.single_rank, pmi.name, mpirun.binds)
    return MpirunEngine(mpirun, partition.nodes)


def _about_steps(engine: Engine, environ: Mapping[str, str]) -> tuple[tuple[str, ...] | None, str | None]:
    """`signaller` and `ranks_apart` of Parts, where Jobs are steps of Slurm."""
    from balsam.platform.mpirun.srun import RANKS_APART, Srun

    if not isinstance(engine, MpirunEngine) or not isinstance(engine.mpirun, Srun) or "SLURM_JOB_ID" not in environ:
        return None, None
    return (sys.executable, "-I", "-S", str(slurm_steps.__file__), environ["SLURM_JOB_ID"]), RANKS_APART


def _binding(mpirun: MpiRun) -> MpiRun:
    """The same mpirun, told to bind ranks to the cores of their Job, where that is a choice; else as it is."""
    from balsam.platform.mpirun.mpich import Mpich
    from balsam.platform.mpirun.srun import Srun

    if isinstance(mpirun, Srun):
        return Srun(mpirun.srun, mpirun.single_rank, mpirun.pmi, binds=True)
    # Intel's kind of Mpich has rules of its own.
    if type(mpirun) is Mpich:
        return Mpich(mpirun.mpiexec, mpirun.single_rank, bind="cpus")
    log.info("mpirun: whether %s binds is not for mpirun_binds_cpus to say, only srun and mpich ask it", mpirun.name)
    return mpirun
