"""The other nodes of an allocation in the simulation: how the launcher reaches them, and what it hears of their loss.

The shipping Fleet and NodeWatch decide. Played are the hub, the connections, the guardian and the process of each node,
and the question which nodes the batch system still counts to the allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balsam.launcher.machine_messages import Exited, Gone, Start, StartDelayed, Started, StartFailed
from balsam.launcher.node_messages import Told, decode, encode, of_input, signal_of, start_of
from balsam.launcher.node_process import RENEW_SEC
from balsam.launcher.node_watch import TIMEOUT_SEC, NodeWatch
from balsam.launcher.process import ExitStatus
from tests.simulation.kernel import Mailbox, Process, Task
from tests.simulation.machine_room import Rank

if TYPE_CHECKING:
    from tests.simulation.launcher import SimLauncher

HUB_FD, WATCH_FD = 9, 11
LATENCY_SEC = 0.002
LOOK_AGAIN_SEC = 0.25
CONNECT_SEC = 30.0
MAX_RESTARTS = 3
# How long either end of a connection may take to notice that nothing comes through any more; the node's now and then
# does not before its lease is over.
UNNOTICED_SEC = (1.0, 40.0)
LONG_UNNOTICED_SEC = (40.0, 400.0)


class NoEpoll:
    """The loop's epoll; the simulation calls whoever has something to hear."""

    def register(self, fd: int, events: int) -> None:
        pass

    modify = register

    def unregister(self, fd: int) -> None:
        pass


def luck_of_a_start(luck: float, job_id: int) -> Told | None:
    """How a start fails now and then."""
    if luck < 0.01:
        return StartFailed(job_id, 127, "no such command")
    return StartDelayed(job_id, "no processes left") if luck < 0.03 else None


class SimWatch(NodeWatch):
    """Asks the played batch system."""

    def __init__(self, launcher: SimLauncher) -> None:
        nodes, output = launcher.partition.nodes, _Output(launcher)
        super().__init__(NoEpoll(), [], {}, Path("/"), nodes, output, launcher.clock, launcher.inputs)  # type: ignore[arg-type]
        self._question = _Question(launcher)  # type: ignore[assignment]


class _Question:
    """In place of the side program that asks: it takes its time, and has an answer unless the batch system is away."""

    def __init__(self, launcher: SimLauncher) -> None:
        self._launcher = launcher
        self._number = 0
        self._status: ExitStatus | None = None
        self._tried: Sequence[str] = ()
        self.give_up_at: float | None = None

    def start(self, words: Sequence[str], now: float) -> None:
        self.give_up_at = now + TIMEOUT_SEC
        self._tried = words
        self._number += 1
        random = self._launcher.random
        delay = random.uniform(0.02, 2.0) if random.random() < 0.9 else random.uniform(2.0, 8.0)
        self._launcher.after(delay, self._ends, self._number)

    def kill(self) -> None:
        if self.give_up_at is not None:
            self._launcher.after(0.0, self._ends, self._number, True)

    def _ends(self, number: int, is_killed: bool = False) -> None:
        launcher = self._launcher
        if number != self._number or self.give_up_at is None:
            return
        has_failed = launcher.world.cluster.away or launcher.random.random() < launcher.world.rates.scheduler
        self._status = ExitStatus(137 if is_killed else int(has_failed))
        if self._status.code:
            launcher.room.unanswered_at = launcher.kernel.now
        launcher.hear_watch()

    def is_heard_on(self, fd: int) -> bool:
        return fd == WATCH_FD and self._status is not None

    def collect(self) -> ExitStatus | None:
        status, self._status, self.give_up_at = self._status, None, None
        return status

    def said(self) -> list[str]:
        room = self._launcher.room
        unreachable = {room.names[index] for index in room.dead | room.severed}
        left = room.nodes_left
        return [*left, *(f"-{name}" for name in self._tried if name in left and name in unreachable)]


class _Output:
    """What srun wrote: it complains about a lost node in nine cases of ten."""

    def __init__(self, launcher: SimLauncher) -> None:
        self._launcher = launcher

    def output_has_not(self, workdir: str, words: bytes) -> bool:
        return workdir not in self._launcher.room.complaints


class SimHub(Process):
    """The hub's process and the loop's end of its socket (a LineLink)."""

    wants_to_send = False

    def __init__(self, launcher: SimLauncher) -> None:
        super().__init__(launcher.kernel, f"hub of {launcher.room.name}")
        self.launcher, self.room = launcher, launcher.room
        self._has_errand = False
        self._lines: list[bytes] = []
        self._wires: dict[int, Wire] = {}
        self.room.add(self)

    def fileno(self) -> int:
        return HUB_FD

    def flush(self) -> None:
        pass

    def send_line(self, line: bytes) -> None:
        if not self._has_errand:
            self._has_errand = True
            self.after(0.5, self._spread)
            return
        node, _, data = line.partition(b"\t")
        self.after(0.0005, self._pass_on, int(node), data)

    @property
    def is_readable(self) -> bool:
        return bool(self._lines) or not self.alive

    def receive_lines(self) -> list[bytes] | None:
        lines, self._lines = self._lines, []
        return lines or (None if not self.alive else [])

    def die(self) -> None:
        if self.alive:
            super().die()
            for wire in self._wires.values():
                wire.closed_by_hub()

    def _spread(self) -> None:
        for index in range(len(self.room.names)):
            if index not in self.room.dead:
                SimNode(self, index)

    def _pass_on(self, node: int, data: bytes) -> None:
        wire = self._wires.get(node)
        if wire is not None:
            wire.to_node(data)

    def joined(self, wire: Wire) -> None:
        self._wires[wire.node.index] = wire
        self.say(wire, encode([{"is": "up"}]))

    def lost(self, wire: Wire) -> None:
        self.say(wire, encode([{"is": "down"}]))

    def say(self, wire: Wire, data: bytes) -> None:
        if self._wires.get(wire.node.index) is wire:
            self._lines.append(b"%d\t%s" % (wire.node.index, data))
            self.launcher.after(0.0005, self.launcher.hear_hub)


class Wire:
    """A connection. What is sent during a cut arrives after it, if both ends still wait for that."""

    def __init__(self, hub: SimHub, node: SimNode) -> None:
        self.hub, self.node, self.room = hub, node, hub.room
        self.open_at_hub = self.open_at_node = True
        self._parked: list[tuple[Callable[[bytes], None], bytes]] = []
        self._cuts = 0
        self.room.wires.append(self)

    def to_node(self, data: bytes) -> None:
        self._carry(self._reach_node, data)

    def to_hub(self, data: bytes) -> None:
        self._carry(self._reach_hub, data)

    def _carry(self, reach: Callable[[bytes], None], data: bytes) -> None:
        if self.room.is_cut(self.node.index):
            self._parked.append((reach, data))
        else:
            self.room.world.kernel.after(LATENCY_SEC, reach, data)

    def _reach_node(self, data: bytes) -> None:
        if self.open_at_node:
            self.node.run(self.node.receive, (self, data))

    def _reach_hub(self, data: bytes) -> None:
        if self.open_at_hub:
            self.hub.run(self.hub.say, (self, data))

    def cut(self) -> None:
        """Nothing comes through from now on; each end finds that out by itself."""
        self._cuts += 1
        kernel, random = self.room.world.kernel, self.room.random
        kernel.after(random.uniform(*UNNOTICED_SEC), self._times_out, self._cuts, self._hub_notices)
        unnoticed = UNNOTICED_SEC if random.random() < 0.6 else LONG_UNNOTICED_SEC
        kernel.after(random.uniform(*unnoticed), self._times_out, self._cuts, self._node_notices)

    def _times_out(self, cut: int, notice: Callable[[], None]) -> None:
        if cut == self._cuts and self.room.is_cut(self.node.index):
            notice()

    def heal(self) -> None:
        parked, self._parked = self._parked, []
        if self.open_at_hub and self.open_at_node:
            for reach, data in parked:
                self._carry(reach, data)
        else:
            self._hub_notices()
            self._node_notices()

    def closed_by_hub(self) -> None:
        self.open_at_hub = False
        self._tell(self._node_notices)

    def closed_by_node(self) -> None:
        self.open_at_node = False
        self._tell(self._hub_notices)

    def _tell(self, notice: Callable[[], None]) -> None:
        if not self.room.is_cut(self.node.index):
            self.room.world.kernel.after(LATENCY_SEC, notice)

    def _hub_notices(self) -> None:
        if self.open_at_hub:
            self.open_at_hub = False
            self.hub.run(self.hub.lost, (self,))

    def _node_notices(self) -> None:
        if self.open_at_node:
            self.open_at_node = False
            self.node.run(self.node.disconnected, (self,))


class SimNode(Process):
    """The guardian of a node, and the process that it starts there: as NodeProcess, which has Jobs started."""

    minds_its_lease = True

    def __init__(self, hub: SimHub, index: int) -> None:
        super().__init__(hub.kernel, f"node {index} of {hub.room.name}")
        self.hub, self.room, self.index = hub, hub.room, index
        self.random = hub.room.random
        self._news = Mailbox(hub.kernel)
        self._wire: Wire | None = None
        self._lease_until: float | None = None
        self._ranks: dict[int, Rank] = {}
        self._is_told_to_end = False
        self.room.add(self)
        self.room.node_processes.append(self)
        self.spawn(self._run())

    def _run(self) -> Task:
        yield self.sleep(self.random.uniform(0.3, 2.0))
        if not (yield from self._reach_the_head()):
            self.die()  # srun could not start it
            return
        yield from self._clear()
        for _ in range(1 + MAX_RESTARTS):
            if (yield from self._reach_the_head()) and self.hub.alive:
                self._connect()
                yield from self._watch()
                self._disconnect()
            yield from self._clear()
            if self._is_told_to_end or not self.hub.alive:
                break
            yield self.sleep(0.5)
        self.die()

    def _reach_the_head(self) -> Task:
        give_up_at = self.kernel.now + CONNECT_SEC
        while self.room.is_cut(self.index):
            if self.kernel.now > give_up_at:
                return False
            yield self.sleep(1.0)
        return True

    def _connect(self) -> None:
        self._news.take()
        self._lease_until = None
        self._wire = Wire(self.hub, self)
        self.hub.run(self.hub.joined, (self._wire,))
        self._renew(self._wire)

    def _disconnect(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None and wire.open_at_node:
            wire.closed_by_node()

    def _watch(self) -> Task:
        """Until the connection is gone, the lease is over, or it is told to end."""
        while not self._lease_is_over():
            if "over" in self._news.take():
                return
            patience = None if self._lease_until is None else self.room.clock.delay_until(self._lease_until)
            yield self._news.wait(patience)

    def _lease_is_over(self) -> bool:
        return self._lease_until is not None and self.room.clock.monotonic() >= self._lease_until

    def _clear(self) -> Task:
        """S6: nothing runs here before the next process of this node says that it is there."""
        while ranks := self.room.ranks_on(self.index):
            for rank in ranks:
                rank.kill()
            yield self.sleep(LOOK_AGAIN_SEC)
        self._ranks.clear()

    def _renew(self, wire: Wire) -> None:
        if wire is self._wire and wire.open_at_node:
            wire.to_hub(encode([{"is": "renew", "at": self.room.clock.monotonic()}]))
            self.after(RENEW_SEC, self._renew, wire)

    def disconnected(self, wire: Wire) -> None:
        if wire is self._wire:
            self._news.put("over")

    def receive(self, wire: Wire, data: bytes) -> None:
        if wire is self._wire:
            for message in decode(data):
                self._do(message)

    def _do(self, message: dict[str, Any]) -> None:
        match message["do"]:
            case "start":
                self._start(start_of(message))
            case "signal":
                order = signal_of(message, self.room.clock.monotonic())
                rank = self._ranks.get(order.job_id)
                if rank is not None and order.kill:
                    rank.kill()
                elif rank is not None:
                    rank.terminate(self.room.clock.delay_until(order.kill_at))
            case "lease" if self.minds_its_lease:
                self._lease_until = message["at"] + message["for_sec"]
                self._news.put("lease")
            case "end":
                self._is_told_to_end = True
                self._news.put("over")

    def _start(self, order: Start) -> None:
        failed = luck_of_a_start(self.random.random(), order.job.id)
        if failed is not None:
            self._say(failed)
            return
        self._ranks[order.job.id] = self.room.start_rank(self, order.job, order.placement)
        self._say(Started(order.job.id))

    def _say(self, said: Told) -> None:
        if self._wire is not None and self._wire.open_at_node:
            self._wire.to_hub(encode([of_input(said)]))

    def child_exited(self, rank: Rank, code: int) -> None:
        self.after(0.001, self._say_of, rank, Exited(rank.job.id, code))

    def child_gone(self, rank: Rank) -> None:
        self.after(0.002, self._say_of, rank, Gone(rank.job.id))

    def _say_of(self, rank: Rank, said: Told) -> None:
        if self._ranks.get(rank.job.id) is rank:
            if isinstance(said, Gone):
                del self._ranks[rank.job.id]
            self._say(said)
