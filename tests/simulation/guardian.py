"""The guardian in the simulation: the shipping class with its system calls replaced: its rules are the real ones.

`Guardian._reason_to_kill`, `_timeout_ms`, `_take_line`, `_is_late`, `_gives_up` run as they are on a simulated clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from balsam.launcher import guardian as shipping
from balsam.launcher.guardian import EXIT_CONFIG, EXIT_SURVIVORS, Guardian
from balsam.launcher.guardian_config import Config
from balsam.launcher.partition import Partition
from tests.simulation.kernel import Mailbox, NodeClock, Process, Task
from tests.simulation.launcher import SimLauncher
from tests.simulation.machine_room import MachineRoom

if TYPE_CHECKING:
    from tests.simulation.world import World

LOOK_AGAIN_SEC = 0.25


class SimTime:
    """The `time` module of the guardian: the clock of whichever machine runs now."""

    clock: NodeClock

    def monotonic(self) -> float:
        return self.clock.monotonic()


TIME = SimTime()


class _Rules(Guardian):
    """The shipping rules, without the process around them."""

    def __init__(self, config: Config, owner: SimGuardian) -> None:
        self._config = config
        self._owner = owner
        self._status = self._lease_until = self._stop_at = self._stopping_since = None
        self._kill_now = False
        self._deaths_in_a_row = 0
        assert config.wall_time_sec is not None
        self._end = TIME.monotonic() + config.wall_time_sec
        margin = min(config.kill_margin_sec, config.wall_time_sec / 2)
        self._hard_margin = min(config.hard_margin_sec, margin / 2)
        self._drain_at = self._end - margin

    def _drain(self, why: str) -> None:
        self._stopping_since = TIME.monotonic()
        self._owner.drain_launcher(why)


class SimGuardian(Process):
    """The guardian's process, and the batch script around it."""

    def __init__(self, world: World, room: MachineRoom, partition: Partition, script_ends: Callable[[], None]) -> None:
        super().__init__(world.kernel, f"guardian of {room.name}")
        self.world, self.room, self.partition = world, room, partition
        self.launcher: SimLauncher | None = None
        self._script_ends = script_ends
        self.status: int | None = None
        self.restarts = 0
        self._news = Mailbox(world.kernel)
        margin = partition.margin_sec
        TIME.clock = room.clock
        self.rules = _Rules(
            Config(
                argv=["launcher"],
                allocation=room.name,
                wall_time_sec=partition.wall_time_sec,
                kill_margin_sec=margin * 0.8,
                hard_margin_sec=margin * 0.1,
                kill_grace_sec=partition.config.kill_grace_sec + 25.0,
            ),
            self,
        )
        room.add(self)
        self.spawn(self._run())

    @property
    def end(self) -> float:
        end = self.rules._end
        assert end is not None
        return end

    def die(self) -> None:
        if self.alive:
            super().die()
            if not self.room.lost_power and 0 not in self.room.dead:
                self._script_ends()
            if self.launcher is not None and self.launcher.alive:
                self.launcher.after(0.001, self.launcher.orphaned)

    # What it is told

    def take_line(self, line: bytes) -> None:
        self._news.put(("line", line))

    def launcher_died(self) -> None:
        self._news.put(("died", None))

    def drain_launcher(self, why: str) -> None:
        if self.launcher is not None and self.launcher.alive:
            self.launcher.drain(why)

    def told_to_stop(self) -> None:
        """SIGTERM from the scheduler."""
        self.after(0.001, self._told_to_stop)

    def _told_to_stop(self) -> None:
        TIME.clock = self.room.clock
        if self.rules._stop_at is None:
            self.rules._stop_at = TIME.monotonic() + self.rules._config.kill_grace_sec
            self.rules._drain("got SIGTERM")
        self._news.put(("signal", None))

    # What it does: as Guardian.run

    def _run(self) -> Task:
        rules = self.rules
        while True:
            self.status, rules._lease_until = None, None
            TIME.clock = self.room.clock
            started = TIME.monotonic()
            self.launcher = SimLauncher(self.world, self.room, self.partition, self, self.end)
            self.room.add(self.launcher)
            reason = yield from self._watch()
            yield from self._kill_all(reason)
            status = EXIT_SURVIVORS if self.status is None else self.status
            TIME.clock = self.room.clock
            stopping = rules._stopping_since is not None or rules._is_late()
            ended = reason == "" and status in (0, EXIT_CONFIG)
            if ended or stopping or rules._gives_up(TIME.monotonic() - started):
                break
            self.restarts += 1
            yield self.sleep(rules._restart_delay())
            if rules._stop_at is not None or rules._is_late():
                break
        self.die()

    def _watch(self) -> Task:
        rules = self.rules
        while self.launcher is not None and self.launcher.alive:
            TIME.clock = self.room.clock
            if reason := rules._reason_to_kill():
                return reason
            for what, line in self._news.take():
                if what == "line":
                    rules._take_line(line)
            TIME.clock = self.room.clock
            timeout = rules._timeout_ms()
            yield self._news.wait(None if timeout is None else timeout / 1000 / self.room.clock.rate + 1e-6)
        self._news.take()
        return ""

    def _kill_all(self, reason: str) -> Task:
        if reason:
            self.world.say(f"{self.name} kills the launcher: {reason}")
        if self.launcher is not None and self.launcher.alive:
            self.launcher.die()
        while self.room.ranks_here:
            self.room.kill_all_ranks()
            yield self.sleep(LOOK_AGAIN_SEC)


def patches() -> list[tuple[object, str, object]]:
    """What the guardian's module gets instead of the system's."""
    return [
        (shipping, "time", TIME),
        (shipping, "_boot_time", TIME.monotonic),
        (shipping, "say", lambda text: None),
    ]
