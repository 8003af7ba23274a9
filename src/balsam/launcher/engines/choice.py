"""Which engine starts the Jobs of a partition. Asked once, at the start: by `entry`, or by the process of a node.

Finding the mpirun means running it, and trying srun out takes some of its steps: `entry` asks while the rest of the
launcher is being loaded, so little of it is imported here.
"""

import logging
from collections.abc import Mapping

from balsam.launcher.engines.base import Engine
from balsam.launcher.engines.local import LocalEngine
from balsam.launcher.engines.mpirun import MpirunEngine
from balsam.launcher.partition import Partition
from balsam.platform.mpirun.base import MpiRun

log = logging.getLogger("balsam.launcher")


def engine_for(partition: Partition, environ: Mapping[str, str]) -> Engine:
    """What starts the partition's Jobs. Raises LookupError for an mpirun that is not there or starts singletons."""
    if partition.is_spread or (partition.serial and partition.is_local):
        return LocalEngine()
    from balsam.platform.mpirun.detect import detect
    from balsam.platform.mpirun.pmi import choose_pmi
    from balsam.platform.mpirun.srun import Srun
    from balsam.platform.node.slurm import cpus_per_core

    found = detect(partition.config.mpirun, environ)
    log.info("mpirun: %s", found.reason)
    mpirun = _binding(found.mpirun) if partition.config.mpirun_binds_cpus else found.mpirun
    if isinstance(mpirun, Srun) and not partition.serial:
        pmi = choose_pmi(mpirun.srun, [node.name for node in partition.nodes], environ)
        log.info("mpirun: %s", pmi.reason)
        cpus = cpus_per_core(max(len(node.cpu_ids) for node in partition.nodes), environ)
        for family, name in pmi.of_others.items():
            log.info("mpirun: --mpi=%s for programs that are linked with %s, not tried out", name, family)
        mpirun = Srun(mpirun.srun, pmi.name, mpirun.binds, cpus, pmi.of_others)
    return MpirunEngine(mpirun, partition.nodes)


def _binding(mpirun: MpiRun) -> MpiRun:
    """The same mpirun, told to bind ranks to the cores of their Job, where that is a choice; else as it is."""
    from balsam.platform.mpirun.mpich import Mpich
    from balsam.platform.mpirun.srun import Srun

    if isinstance(mpirun, Srun):
        return Srun(mpirun.srun, mpirun.pmi, binds=True)
    # Intel's kind of Mpich has rules of its own.
    if type(mpirun) is Mpich:
        return Mpich(mpirun.mpiexec, bind="cpus")
    log.info("mpirun: whether %s binds is not for mpirun_binds_cpus to say, only srun and mpich ask it", mpirun.name)
    return mpirun
