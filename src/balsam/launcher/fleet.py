"""The Jobs' processes on several nodes as the loop sees them, in serial mode: what `children.py` is for one machine.

Used by the loop alone. Orders of the machine go to the process on the Job's node, what happens there comes back in the
machine's words, through the hub. A node that can't be reached is not a dead node: its Jobs are given up only when a new
process of that node has registered, which a guardian starts after it saw everything gone, or when the node's own lease
has run out, so that no Job ever runs twice (S6). They are lost then, and said to be: never started again by us.
"""

import json
import logging
import select
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from balsam.domain.clock import Clock
from balsam.launcher.apps import AppShelf
from balsam.launcher.line_link import LineLink
from balsam.launcher.machine_messages import (
    Checkpoint,
    Drain,
    Gone,
    Input,
    Lost,
    NodeDown,
    NodeUp,
    Signal,
    Start,
    StartDelayed,
    StartFailed,
)
from balsam.launcher.node_messages import BadMessage, Message, Told, decode, encode, input_of, of_signal, of_start
from balsam.launcher.partition import Partition

log = logging.getLogger("balsam.launcher")

# A node may go on for so long without hearing of the launcher. It asks every few seconds.
NODE_LEASE_SEC = 60.0
# From the end of a node's lease until its guardian has killed everything.
NODE_MARGIN_SEC = 10.0
# Each node asks for its lease every few seconds, and none has one any more after this.
SILENT_SEC = NODE_LEASE_SEC + NODE_MARGIN_SEC
# Not longer than this is waited for a first node after the program that starts them all has ended.
LATE_SEC = 10.0
_OVER = (Gone, StartFailed, StartDelayed)


@dataclass(slots=True)
class _Remote:
    """A node. `jobs` may have processes there; `safe_at`: from then on nothing of ours can live on it. `was_up`: it has
    registered with this launcher, and so has seen gone what an earlier one had started."""

    name: str
    is_up: bool = False
    was_up: bool = False
    safe_at: float = 0.0
    jobs: set[int] = field(default_factory=set)
    apps: dict[int, str] = field(default_factory=dict)
    outgoing: list[Message] = field(default_factory=list)


class Fleet:
    """The nodes of a partition. `end` of the allocation and all times are monotonic seconds."""

    def __init__(
        self,
        epoll: select.epoll,
        partition: Partition,
        apps: AppShelf,
        allocation: str,
        end: float,
        clock: Clock,
        inputs: list[Input],
        make_hub: Callable[[list[str]], LineLink] = LineLink,
    ) -> None:
        """Raises SpawnError."""
        self._epoll = epoll
        self._apps = apps
        self._settled_at = clock.monotonic() + NODE_LEASE_SEC + NODE_MARGIN_SEC
        self._clock = clock
        self._inputs = inputs
        self._remotes = [_Remote(node.name) for node in partition.nodes]
        self._node_of: dict[int, int] = {}
        self._lease_until: float | None = None
        self._give_up_at: float | None = None
        self._heard_at = clock.monotonic()
        self._is_closing = False
        self.failed = ""
        self._inputs += [NodeDown(node) for node in range(len(self._remotes))]
        self._hub = make_hub([sys.executable, "-P", "-m", "balsam.launcher.hub"])
        self._is_writing = False
        epoll.register(self._hub.fileno(), select.EPOLLIN)
        self._hub.send_line(json.dumps(_errand(partition, allocation, end)).encode())

    @property
    def is_settled(self) -> bool:
        """Whether nothing that an earlier launcher started can live on any node; once true, always."""
        return all(remote.was_up for remote in self._remotes) or self._clock.monotonic() >= self._settled_at

    # Down

    def start(self, order: Start) -> None:
        """Have a Job started on its node."""
        (share,) = order.placement.shares
        remote, job = self._remotes[share.node], order.job
        app = None
        if remote.apps.get(job.app_id) != self._apps.known.get(job.app_id):
            app = self._apps.view(job.app_id)
            remote.apps[job.app_id] = self._apps.known[job.app_id]
        self._node_of[job.id] = share.node
        remote.jobs.add(job.id)
        remote.outgoing.append(of_start(order, app))

    def signal(self, order: Signal) -> None:
        """Have a Job end. On a node that can't be reached, its lease will end it."""
        node = self._node_of.get(order.job_id)
        if node is not None:
            self._remotes[node].outgoing.append(of_signal(order, self._clock.monotonic()))

    def checkpoint(self, order: Checkpoint) -> None:
        """Have a Job told that the end is near."""
        node = self._node_of.get(order.job_id)
        if node is not None:
            self._remotes[node].outgoing.append({"do": "checkpoint", "job_id": order.job_id})

    def flush(self) -> None:
        """Send what this turn of the loop brought."""
        for node, remote in enumerate(self._remotes):
            if remote.outgoing:
                if remote.is_up:
                    self._hub.send_line(b"%d\t%s" % (node, encode(remote.outgoing)))
                remote.outgoing.clear()
        if self._hub.wants_to_send is not self._is_writing:
            self._is_writing = self._hub.wants_to_send
            wanted = select.EPOLLIN | (select.EPOLLOUT if self._is_writing else 0)
            self._epoll.modify(self._hub.fileno(), wanted)

    def lease(self, until: float | None) -> None:
        """The launcher's own lease, which those of nodes don't outlive (S6)."""
        self._lease_until = until

    def close(self) -> None:
        """No Job is left: end the processes on the nodes."""
        self._is_closing = True
        for remote in self._remotes:
            remote.outgoing.append({"do": "end"})
        self.flush()

    # Up

    def heard(self, fd: int) -> bool:
        """Whether `fd` is the hub's; what it says is taken."""
        if fd != self._hub.fileno():
            return False
        self._hub.flush()
        lines = self._hub.receive_lines()
        if lines is None:
            self.failed = "the hub is gone"
            self._epoll.unregister(fd)
            return True
        self._heard_at = self._clock.monotonic()
        for line in lines:
            node, _, data = line.partition(b"\t")
            if node == b"-":
                self._hub_says(decode(data)[0])
            else:
                self._node_says(int(node), data)
        return True

    def _hub_says(self, message: Mapping[str, Any]) -> None:
        if message["is"] == "failed":
            self.failed = message["reason"]
            return
        log.info("the program that starts processes on the nodes has ended: %s", message["how"])
        if not any(remote.is_up for remote in self._remotes):
            self._give_up_at = self._clock.monotonic() + LATE_SEC

    def _node_says(self, node: int, data: bytes) -> None:
        try:
            for message in decode(data):
                self._hear(node, message)
        except (BadMessage, TypeError) as error:
            log.error("node %s is left out: %s", self._remotes[node].name, error)
            self._went(node)

    def _hear(self, node: int, message: Message) -> None:
        match message["is"]:
            case "up":
                self._came(node)
            case "down":
                self._went(node)
            case "renew":
                self._renew(node, message["at"])
            case _:
                self._happened(node, input_of(message))

    def _happened(self, node: int, said: Told) -> None:
        remote = self._remotes[node]
        if not isinstance(said, Drain):
            if said.job_id not in remote.jobs:
                return
            if isinstance(said, _OVER):
                remote.jobs.discard(said.job_id)
                del self._node_of[said.job_id]
        self._inputs.append(said)

    def _renew(self, node: int, at: float) -> None:
        now = self._clock.monotonic()
        for_sec = NODE_LEASE_SEC if self._lease_until is None else min(NODE_LEASE_SEC, self._lease_until - now)
        remote = self._remotes[node]
        remote.safe_at = max(remote.safe_at, now + for_sec + NODE_MARGIN_SEC)
        remote.outgoing.append({"do": "lease", "at": at, "for_sec": for_sec})

    def _came(self, node: int) -> None:
        remote = self._remotes[node]
        self._give_up(remote, "a new process of its node has registered")
        log.info("node %s is there", remote.name)
        remote.is_up = remote.was_up = True
        remote.apps.clear()
        self._give_up_at = None
        self._inputs.append(NodeUp(node))

    def _went(self, node: int) -> None:
        remote = self._remotes[node]
        if not remote.is_up or self._is_closing:
            return
        log.warning("node %s can't be reached; %d Jobs ran there", remote.name, len(remote.jobs))
        remote.is_up = False
        self._inputs.append(NodeDown(node))
        if not any(other.is_up for other in self._remotes):
            self._give_up_at = self._clock.monotonic() + NODE_LEASE_SEC + NODE_MARGIN_SEC

    def _give_up(self, remote: _Remote, why: str) -> None:
        for job_id in sorted(remote.jobs):
            del self._node_of[job_id]
            self._inputs.append(Lost(job_id, f"node {remote.name} was lost: {why}"))
        remote.jobs.clear()

    # Time

    def due(self) -> float | None:
        """When to call `sweep`."""
        times = [remote.safe_at for remote in self._remotes if remote.jobs and not remote.is_up]
        if self._settled_at > self._clock.monotonic() and not self.is_settled:
            times.append(self._settled_at)
        times += [] if self._give_up_at is None else [self._give_up_at]
        times += [self._heard_at + SILENT_SEC] if any(remote.is_up for remote in self._remotes) else []
        return min(times, default=None)

    def sweep(self, now: float) -> None:
        """Give up the Jobs of nodes whose lease has run out, and everything when no node is left."""
        for remote in self._remotes:
            if remote.jobs and not remote.is_up and now >= remote.safe_at:
                self._give_up(remote, "its lease has run out")
        if self._give_up_at is not None and now >= self._give_up_at:
            self._give_up_at = None
            self.failed = "no node of the partition can be reached"
        if any(remote.is_up for remote in self._remotes) and now >= self._heard_at + SILENT_SEC:
            # Every lease has run out. A hub that wakes up later must not pass on what it has: it ends with us (S6).
            self.failed = f"the hub has said nothing for {SILENT_SEC:g} s"


def _errand(partition: Partition, allocation: str, end: float) -> dict[str, Any]:
    """What `hub.Errand` is made of."""
    return {
        "partition": partition.to_json(),
        "names": [node.name for node in partition.nodes],
        "index": partition.index,
        "directory": partition.config.directory,
        "allocation": allocation,
        "end": end,
        "kill_margin_sec": partition.margin_sec * 0.8,
        "hard_margin_sec": partition.margin_sec * 0.1,
        "kill_grace_sec": partition.config.kill_grace_sec + 25.0,
    }
