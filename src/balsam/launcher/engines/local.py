"""Jobs of one rank on this machine, each executed directly: serial mode."""

from collections.abc import Mapping

from balsam.domain.packing import Placement
from balsam.domain.template import RenderedCommand
from balsam.launcher.engines.base import IgnoredParams, NotLaunchable, Words, argv_of
from balsam.launcher.machine_messages import LaunchJob

_ALONE = {"BALSAM_RANK": "0", "BALSAM_SIZE": "1", "BALSAM_LOCAL_RANK": "0", "BALSAM_LOCAL_SIZE": "1"}


class LocalEngine:
    """One process, no mpirun: launch_params have nobody to go to, and the same Job runs in mpi mode with them."""

    def __init__(self) -> None:
        self._ignored = IgnoredParams()

    def words(
        self, command: RenderedCommand, job: LaunchJob, placement: Placement, env: Mapping[str, str], direct: bool
    ) -> Words:
        if job.resources.ranks > 1:
            raise NotLaunchable(f"{job.resources.ranks} ranks in serial mode, which runs Jobs of one rank")
        self._ignored.tell(job, "serial mode starts Jobs without an mpirun")
        return Words(argv_of(command, direct, env), _ALONE)
