"""Jobs of one rank on this machine, each executed directly: serial mode."""

from collections.abc import Mapping

from balsam.domain.packing import Placement
from balsam.domain.template import RenderedCommand
from balsam.launcher.engines.base import NotLaunchable, Words, argv_of
from balsam.launcher.machine_messages import LaunchJob

_ALONE = {"BALSAM_RANK": "0", "BALSAM_SIZE": "1", "BALSAM_LOCAL_RANK": "0", "BALSAM_LOCAL_SIZE": "1"}


class LocalEngine:
    """One process, no mpirun."""

    def words(
        self, command: RenderedCommand, job: LaunchJob, placement: Placement, env: Mapping[str, str], direct: bool
    ) -> Words:
        if job.resources.ranks > 1:
            raise NotLaunchable(f"{job.resources.ranks} ranks in serial mode, which runs Jobs of one rank")
        if job.launch_params:
            raise NotLaunchable("launch_params are for an mpirun, and serial mode uses none")
        return Words(argv_of(command, direct), _ALONE)
