"""Jobs whose ranks the machine's mpirun starts: mpi mode."""

from collections.abc import Mapping, Sequence

from balsam.domain.packing import Placement
from balsam.domain.template import RenderedCommand
from balsam.launcher.engines.base import IgnoredParams, NotLaunchable, Words, argv_of
from balsam.launcher.machine_messages import LaunchJob
from balsam.launcher.partition import PartitionNode
from balsam.platform.mpirun.base import LaunchParamRefused, MpiRun, RankPlacement


class MpirunEngine:
    """Asks the adapter for the command line. `nodes` are those of the partition."""

    def __init__(self, mpirun: MpiRun, nodes: Sequence[PartitionNode]) -> None:
        self.mpirun = mpirun
        self._nodes = [node.as_node() for node in nodes]
        self._is_here = [node.is_here for node in nodes]
        self._ignored = IgnoredParams()

    def words(
        self, command: RenderedCommand, job: LaunchJob, placement: Placement, env: Mapping[str, str], direct: bool
    ) -> Words:
        argv = argv_of(command, direct, env)
        is_local = all(self._is_here[share.node] for share in placement.shares)
        ranks = RankPlacement.of(placement, self._nodes, job.launch_params, is_local)
        try:
            made = self.mpirun.command(ranks, argv, env)
        except LaunchParamRefused as error:
            raise NotLaunchable(str(error)) from error
        spreads = tuple(made.argv) != argv
        if not spreads:
            self._ignored.tell(job, f"{self.mpirun.name} starts Jobs of one rank on this machine directly")
        return Words(tuple(made.argv), made.env, spreads, made.reach if spreads else "group", made.step)
