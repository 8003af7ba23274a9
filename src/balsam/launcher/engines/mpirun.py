"""Jobs whose ranks the machine's mpirun starts: mpi mode."""

from collections.abc import Mapping, Sequence

from balsam.domain.packing import NodeShare, Placement
from balsam.domain.template import RenderedCommand
from balsam.launcher.engines.base import IgnoredParams, NotLaunchable, Words, argv_of
from balsam.launcher.machine_messages import LaunchJob
from balsam.launcher.partition import PartitionNode
from balsam.platform.mpirun.base import LaunchParamRefused, MpiRun, RankPlacement

# Of a Job of one rank: its share of a node, threads, whether it is oversubscribed.
_Place = tuple[NodeShare, int, bool]
_MOST_REMEMBERED = 1024


class MpirunEngine:
    """Asks the adapter for the command line. `nodes` are those of the partition.

    What a lone rank gets that is executed directly is asked for once for each place: a stream of short Jobs is made of
    such ones.
    """

    def __init__(self, mpirun: MpiRun, nodes: Sequence[PartitionNode]) -> None:
        self.mpirun = mpirun
        self._nodes = [node.as_node() for node in nodes]
        self._is_here = [node.is_here for node in nodes]
        self._ignored = IgnoredParams()
        self._alone: dict[_Place, Mapping[str, str]] = {}

    def words(
        self, command: RenderedCommand, job: LaunchJob, placement: Placement, env: Mapping[str, str], direct: bool
    ) -> Words:
        argv = argv_of(command, direct, env)
        place = None
        if job.resources.ranks == 1 and not job.launch_params:
            place = placement.shares[0], job.resources.threads_per_rank, placement.oversubscribed
            known = self._alone.get(place)
            if known is not None:
                return Words(argv, known)
        is_local = all(self._is_here[share.node] for share in placement.shares)
        ranks = RankPlacement.of(placement, self._nodes, job.launch_params, is_local)
        try:
            made = self.mpirun.command(ranks, argv, env)
        except LaunchParamRefused as error:
            raise NotLaunchable(str(error)) from error
        spreads = tuple(made.argv) != argv
        if not spreads:
            self._ignored.tell(job, f"{self.mpirun.name} starts Jobs of one rank on this machine directly")
            if place is not None:
                self._remember(place, made.env)
        return Words(tuple(made.argv), made.env, spreads, made.reach if spreads else "group", made.step)

    def _remember(self, place: _Place, env: Mapping[str, str]) -> None:
        if len(self._alone) >= _MOST_REMEMBERED:
            self._alone.clear()
        self._alone[place] = env
