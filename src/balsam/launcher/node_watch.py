"""Which nodes the batch system still counts to our allocation, asked now and then; and Jobs whose end is in doubt.

Used by the loop. srun ends with 0 although one of its nodes died, when the ranks on the others ended well; and ranks
may end with an error for want of a node long before the batch system has noticed. So the end of a Job that had ranks
elsewhere is told only when a question that was asked *after* it was answered, in which its nodes were tried as well:
on one that does not answer nothing is started until it does. No answer (the batch system is away) settles nothing; a
Job does not wait for one longer than `LONGEST_DOUBT_SEC`.
"""

import logging
import select
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from balsam.domain.clock import Clock
from balsam.launcher.machine_messages import Input, NodesLost, NodesSilent, NodeUp, Start
from balsam.launcher.partition import PartitionNode
from balsam.launcher.process import CommandError, SpawnError
from balsam.launcher.side_program import SideProgram
from balsam.launcher.workdir import DataRoot

log = logging.getLogger("balsam.launcher")

PERIOD_SEC = 15.0
SHORTEST_PERIOD_SEC = 1.0
TIMEOUT_SEC = 60.0
LONGEST_DOUBT_SEC = 45.0
_COMPLAINT = b"srun: error:"


@dataclass(slots=True)
class _Doubt:
    """What is to be said once it is known whether these nodes live. `since`: when the Job ended."""

    said: Input
    nodes: frozenset[int]
    since: float
    is_asked: bool = False


class NodeWatch:
    """`command` prints the names of the nodes that are left, a line each; of those that are appended to it, also with a
    `-` before it each that does not answer. `nodes` are those of the partition.

    What is known is appended to `inputs`: NodesLost and NodesSilent before the ends of Jobs on them.
    """

    def __init__(
        self,
        epoll: select.epoll,
        command: Sequence[str],
        environ: Mapping[str, str],
        directory: Path,
        nodes: Sequence[PartitionNode],
        data: DataRoot,
        clock: Clock,
        inputs: list[Input],
    ) -> None:
        self._command = command
        self._question = SideProgram(epoll, environ, directory / "nodes-left", TIMEOUT_SEC)
        self._names = [node.name for node in nodes]
        self._here = {index for index, node in enumerate(nodes) if node.is_here}
        self._data = data
        self._clock = clock
        self._inputs = inputs
        self._lost: set[int] = set()
        self._tried: set[int] = set()
        self._silent: set[int] = set()
        self._doubts: list[_Doubt] = []
        self._asked_at = clock.monotonic()

    def is_doubtful(self, order: Start, return_code: int) -> bool:
        """Whether this end of a Job may be that of a node: it failed, or its mpirun may have complained."""
        if all(share.node in self._here for share in order.placement.shares):
            return False
        return return_code != 0 or not self._data.output_has_not(order.job.workdir, _COMPLAINT)

    def doubt(self, said: Input, order: Start) -> None:
        """Say this of a Job when an answer has come to a question that is not asked yet."""
        nodes = frozenset(share.node for share in order.placement.shares)
        self._doubts.append(_Doubt(said, nodes - self._here, self._clock.monotonic()))

    def due(self) -> float:
        """When to call `tick`."""
        give_up_at = self._question.give_up_at
        if give_up_at is not None:
            return give_up_at
        return self._asked_at + (SHORTEST_PERIOD_SEC if self._doubts else PERIOD_SEC)

    def tick(self, now: float) -> None:
        """Ask when it is time; give up a question that is not answered."""
        if now < self.due():
            return
        if self._question.give_up_at is not None:
            self._question.kill()
            return
        self._asked_at = now
        self._tried = self._silent.union(*[doubt.nodes for doubt in self._doubts]) - self._lost
        names = [self._names[node] for node in sorted(self._tried)]
        for doubt in self._doubts:
            doubt.is_asked = True
        try:
            self._question.start([*self._command, *names], now)
        except (CommandError, SpawnError, OSError) as error:
            log.warning("the batch system can't be asked for our nodes: %s", error)
            self._settle(now, answered=False)

    def heard(self, fd: int) -> bool:
        """Whether `fd` is that of the question, which ended."""
        if not self._question.is_heard_on(fd):
            return False
        status = self._question.collect()
        if status is None:
            return True
        left = set(self._question.said()) if status.code == 0 else set()
        # An allocation without any node of ours would have ended, and we with it.
        known = bool(left.intersection(self._names))
        if known:
            self._compare(left)
        else:
            log.warning("the batch system does not say which of our nodes are left (%s)", status.describe())
        self._settle(self._clock.monotonic(), known)
        return True

    def close(self) -> None:
        """Nothing is asked any more."""
        self._question.kill()

    def _compare(self, said: set[str]) -> None:
        lost = {index for index, name in enumerate(self._names) if name not in said} - self._lost
        if lost:
            self._lost |= lost
            self._inputs.append(NodesLost(tuple(sorted(lost))))
        silent = {index for index in self._tried if f"-{self._names[index]}" in said} - self._lost
        for index in sorted(silent - self._silent):
            log.warning("node %s does not answer, but the batch system counts it to us still", self._names[index])
        if silent:
            self._inputs.append(NodesSilent(tuple(sorted(silent))))
        for index in sorted(self._silent - silent - self._lost):
            log.info("node %s answers again", self._names[index])
            self._inputs.append(NodeUp(index))
        self._silent = silent

    def _settle(self, now: float, answered: bool) -> None:
        """Say what the answer was good for, and what waited too long."""
        waiting = []
        for doubt in self._doubts:
            if (answered and doubt.is_asked) or now - doubt.since >= LONGEST_DOUBT_SEC:
                self._inputs.append(doubt.said)
            else:
                waiting.append(doubt)
        self._doubts = waiting
