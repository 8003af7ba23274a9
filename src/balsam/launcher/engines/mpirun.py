"""Jobs whose ranks the machine's mpirun starts: mpi mode."""

from collections.abc import Mapping, Sequence

from balsam.domain.packing import Node, Placement
from balsam.domain.template import RenderedCommand
from balsam.launcher.engines.base import IgnoredParams, NotLaunchable, Words, argv_of
from balsam.launcher.machine_messages import LaunchJob
from balsam.platform.mpirun.base import LaunchParamRefused, MpiRun, RankPlacement


class MpirunEngine:
    """Asks the adapter for the command line. `is_local`: all nodes are this machine."""

    def __init__(self, mpirun: MpiRun, nodes: Sequence[Node], is_local: bool) -> None:
        self._mpirun = mpirun
        self._nodes = nodes
        self._is_local = is_local
        self._ignored = IgnoredParams()

    def words(
        self, command: RenderedCommand, job: LaunchJob, placement: Placement, env: Mapping[str, str], direct: bool
    ) -> Words:
        argv = argv_of(command, direct)
        ranks = RankPlacement.of(placement, self._nodes, job.launch_params, self._is_local)
        try:
            made = self._mpirun.command(ranks, argv, env)
        except LaunchParamRefused as error:
            raise NotLaunchable(str(error)) from error
        spreads = tuple(made.argv) != argv
        if not spreads:
            self._ignored.tell(job, f"{self._mpirun.name} starts Jobs of one rank on this machine directly")
        return Words(tuple(made.argv), made.env, spreads)
