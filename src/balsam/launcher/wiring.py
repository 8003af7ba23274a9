"""Puts the parts together that start Jobs in a partition. Called once by the loop's `main`."""

import logging
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
from balsam.launcher.starter import Starter
from balsam.launcher.workdir import DataRoot
from balsam.platform.node.base import NodeType
from balsam.platform.registry import NODES

log = logging.getLogger("balsam.launcher")


class Parts(NamedTuple):
    """What the loop is given. `nodes_left`: the command that tells which nodes the allocation still has."""

    starter: Starter
    apps: AppShelf
    data: DataRoot
    nodes_left: Sequence[str] | None = None


def build_parts(partition: Partition, environ: Mapping[str, str], allocation: str) -> Parts:
    """Raises WorkdirError for the data directory, LookupError for an mpirun that is not there."""
    config = partition.config
    apps = AppShelf(config.pinned_apps, config.python_apps)
    data = DataRoot(Path(config.data_path))
    vendors = [node.gpu_vendor for node in partition.nodes]
    environment = JobEnvironment(environ, allocation, vendors, partition.serial, config.job_credentials_path)
    calls = CallFiles(Path(config.directory) / f"calls-{partition.index}")
    told = {"site_id": config.site_id, "batch_job_id": config.batch_job_id}
    planner = Planner(apps, environment, _engine(partition, environ), calls.path_of, told)
    node_type: NodeType = NODES.load(config.compute_node)()
    return Parts(Starter(planner, data, calls), apps, data, node_type.nodes_left(environ))


def _engine(partition: Partition, environ: Mapping[str, str]) -> Engine:
    if partition.serial and partition.is_local:
        return LocalEngine()
    from balsam.platform.mpirun.detect import detect

    found = detect(partition.config.mpirun, environ)
    log.info("mpirun: %s", found.reason)
    return MpirunEngine(found.mpirun, partition.nodes)
