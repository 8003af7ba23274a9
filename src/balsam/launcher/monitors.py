"""The loop's side of monitors: which Jobs have some, the output reader that watches them, and what it says of them.

Used by the loop alone. A Job whose App has no monitor costs nothing here, and without one there is no reader. The end
of a Job that has some is told when its files were read to the end, so that it does not matter how soon it came; but
not later than after `LONGEST_LAST_SEC`. A reader that dies is replaced, and told again what to watch.

One rule is the launcher's own: a Job of several nodes whose mpirun says that the ranks will never find each other does
not wait for that until its allocation ends. Only Jobs that have run for `APART_AFTER_SEC` are watched for it.

JSON lines. The first is `{"data"}`. Orders: `{"do": "watch", "job_id", "token", "workdir", "rules", "before"}` |
`{"do": "finish", "job_id"}` | `{"do": "forget", "job_id"}`. Messages: `{"is": "met" | "off", "job_id", "token",
"monitor", "message", "data"}` | `{"is": "read", "job_id", "token", "left"}`.
"""

import json
import logging
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from balsam.domain.clock import Clock
from balsam.domain.monitors import OUTPUT_NAME, Monitor, MonitorAction, tags_of
from balsam.launcher.apps import AppShelf
from balsam.launcher.line_link import LineLink
from balsam.launcher.machine_messages import (
    Gone,
    Input,
    LaunchJob,
    Lost,
    RanksApart,
    RuleMet,
    StartDelayed,
    Started,
    StartFailed,
)
from balsam.launcher.process import SpawnError
from balsam.transfer.descent import Refused, open_inside, open_workdir

log = logging.getLogger("balsam.launcher")

LONGEST_LAST_SEC = 5.0
AGAIN_SEC = 5.0
APART_AFTER_SEC = 20.0  # a mpirun tries for about half a minute before it gives up
RANKS_APART = "ranks-apart"  # no name that a monitor of an App can have


@dataclass(slots=True)
class _Followed:
    """A Job with rules. `left` are those not met yet; `held` is its end, which is told when it was read out.

    `after_sec`: how long it runs before the reader is to watch it; `watch_at`: when that is, until it is watched.
    """

    job: LaunchJob
    left: dict[str, Monitor]
    before: Mapping[str, Sequence[int]]
    after_sec: float = 0.0
    runs: bool = False
    watch_at: float | None = None
    held: Gone | None = None
    held_until: float = 0.0

    @property
    def is_watched(self) -> bool:
        return self.runs and self.watch_at is None

    @property
    def awaits_last_line(self) -> bool:
        """Whether its last line may meet a monitor of its App."""
        return self.is_watched and bool(self.left.keys() - {RANKS_APART})


class Monitors:
    """The monitored Jobs of a partition. What is met is appended to `inputs`, the ends of Jobs are held back in it."""

    def __init__(
        self,
        epoll: select.epoll,
        apps: AppShelf,
        data: Path,
        clock: Clock,
        inputs: list[Input],
        make_reader: Callable[[list[str]], LineLink] = LineLink,
        ranks_apart: str | None = None,
    ) -> None:
        """`ranks_apart`: the pattern of mpirun's words for ranks that will never find each other."""
        self._epoll = epoll
        self._apps = apps
        self._data = data
        self._clock = clock
        self._inputs = inputs
        self._make_reader = make_reader
        self._own = {} if ranks_apart is None else {RANKS_APART: Monitor(MonitorAction.KILL, pattern=ranks_apart)}
        self._jobs: dict[int, _Followed] = {}
        self._reader: LineLink | None = None
        self._reader_fd = -1
        self._is_writing = False
        self._reader_at: float | None = None

    def begin(self, job: LaunchJob, num_nodes: int) -> None:
        """The Job is about to be started."""
        monitors = self._apps.monitors(job.app_id)
        own = self._own if num_nodes > 1 else {}
        if monitors or own:
            after_sec = 0.0 if monitors else APART_AFTER_SEC
            self._jobs[job.id] = _Followed(job, {**monitors, **own}, self._before(job, monitors), after_sec)

    def follow(self, now: float, is_ending: Callable[[int], bool]) -> None:
        """Look through the inputs before the machine does. `is_ending`: the Job was told to end, for any reason."""
        if not self._jobs:
            return
        heard = self._inputs.copy()
        self._inputs.clear()
        for said in heard:
            job_id = getattr(said, "job_id", None)
            followed = None if job_id is None else self._jobs.get(job_id)
            if followed is None or not self._holds_back(now, followed, said, is_ending):
                self._inputs.append(said)
        for followed in [it for it in self._jobs.values() if it.held is not None]:
            if is_ending(followed.job.id):
                self._release(followed)
            elif now >= followed.held_until:
                self._note(followed, f"what it wrote last could not be read within {LONGEST_LAST_SEC:g} s")
                self._release(followed)

    def due(self) -> float | None:
        """When to call `follow` and `tick`, if nothing is heard."""
        times = [followed.held_until for followed in self._jobs.values() if followed.held is not None]
        times += [followed.watch_at for followed in self._jobs.values() if followed.watch_at is not None]
        times += [] if self._reader_at is None or not self._jobs else [self._reader_at]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Watch what has run for long enough; start a reader where one is needed; send what could not be sent."""
        for followed in self._jobs.values():
            if followed.watch_at is not None and now >= followed.watch_at:
                followed.watch_at = None
                self._watch(followed)
        if self._reader is None and self._reader_at is not None and now >= self._reader_at and self._jobs:
            self._start()
        if self._reader is not None and self._reader.wants_to_send is not self._is_writing:
            self._is_writing = self._reader.wants_to_send
            wanted = select.EPOLLIN | (select.EPOLLOUT if self._is_writing else 0)
            self._epoll.modify(self._reader_fd, wanted)

    def heard(self, fd: int) -> bool:
        """Whether `fd` is the reader's; its messages are taken."""
        if self._reader is None or fd != self._reader_fd:
            return False
        self._reader.flush()
        lines = self._reader.receive_lines()
        if lines is None:
            log.error("the reader of what Jobs write is gone; another one in %g s", AGAIN_SEC)
            self.close()
            self._reader_at = self._clock.monotonic() + AGAIN_SEC
            return True
        for line in lines:
            self._hear(json.loads(line))
        return True

    def close(self) -> None:
        """End the reader."""
        if self._reader is not None:
            self._epoll.unregister(self._reader_fd)
            self._reader.close()
        self._reader, self._reader_fd, self._is_writing = None, -1, False

    def _holds_back(self, now: float, followed: _Followed, said: Input, is_ending: Callable[[int], bool]) -> bool:
        job_id = followed.job.id
        match said:
            case Started():
                followed.runs = True
                if followed.after_sec:
                    followed.watch_at = now + followed.after_sec
                else:
                    self._watch(followed)
            case Gone() if followed.awaits_last_line and not is_ending(job_id):
                followed.held, followed.held_until = said, now + LONGEST_LAST_SEC
                self._send({"do": "finish", "job_id": job_id})
                return True
            case Gone() | Lost() | StartFailed() | StartDelayed():
                self._forget(followed)
        return False

    def _note(self, followed: _Followed, why: str) -> None:
        said = f"monitors: {why}"
        self._inputs.append(RuleMet(followed.job.id, followed.job.token, "", MonitorAction.NOTIFY, said))

    def _release(self, followed: _Followed) -> None:
        if followed.held is not None:
            self._inputs.append(followed.held)
        self._forget(followed)

    def _forget(self, followed: _Followed) -> None:
        del self._jobs[followed.job.id]
        if followed.is_watched:
            self._send({"do": "forget", "job_id": followed.job.id})

    def _hear(self, message: Mapping[str, Any]) -> None:
        followed = self._jobs.get(message["job_id"])
        if followed is None or followed.job.token != message["token"]:
            return
        if message["is"] == "read":
            if message["left"]:
                self._note(followed, f"{message['left']} bytes of what it wrote were not read: it writes too fast")
            self._release(followed)
            return
        monitor = followed.left.pop(message["monitor"], None)
        if monitor is not None:
            self._inputs.append(_rule_met(followed.job, monitor, message))

    def _watch(self, followed: _Followed) -> None:
        if self._reader is None:
            if self._reader_at is None:
                self._start()
            return  # a new reader is told of all that run
        rules = {name: asdict(monitor) for name, monitor in followed.left.items()}
        job, before = followed.job, followed.before
        order = {"job_id": job.id, "token": job.token, "workdir": job.workdir, "rules": rules, "before": before}
        self._send({"do": "watch", **order})

    def _start(self) -> None:
        self._reader_at = None
        try:
            self._reader = self._make_reader([sys.executable, "-P", "-m", "balsam.launcher.output_reader"])
        except SpawnError as error:
            log.warning("what Jobs write can't be read: %s", error)
            self._reader_at = self._clock.monotonic() + AGAIN_SEC
            return
        self._reader_fd = self._reader.fileno()
        self._epoll.register(self._reader_fd, select.EPOLLIN)
        self._send({"data": str(self._data)})
        for followed in self._jobs.values():
            if followed.is_watched:
                self._watch(followed)
                if followed.held is not None:
                    self._send({"do": "finish", "job_id": followed.job.id})

    def _send(self, order: Mapping[str, Any]) -> None:
        if self._reader is not None:
            self._reader.send_line(json.dumps(order, separators=(",", ":")).encode())

    def _before(self, job: LaunchJob, monitors: Mapping[str, Monitor]) -> dict[str, Sequence[int]]:
        """Which files are there before this attempt, and how long: what is in them is not its own."""
        found: dict[str, Sequence[int]] = {}
        for path in {monitor.file for monitor in monitors.values()} - {OUTPUT_NAME}:
            try:
                with open_workdir(self._data, job.workdir) as workdir, open_inside(workdir, path) as (_, status):
                    found[path] = (status.st_dev, status.st_ino, status.st_size)
            except (OSError, Refused):
                continue
        return found


def _rule_met(job: LaunchJob, monitor: Monitor, message: Mapping[str, Any]) -> RuleMet | RanksApart:
    name, said, data = message["monitor"], message["message"], message["data"]
    if name == RANKS_APART and message["is"] == "met":
        return RanksApart(job.id, job.token, f"its ranks can't find each other: {data['text']}")
    if message["is"] == "off":
        return RuleMet(job.id, job.token, name, MonitorAction.NOTIFY, said, data)
    tags = tags_of(name, monitor) if monitor.action is MonitorAction.TAG else {}
    return RuleMet(job.id, job.token, name, monitor.action, said, data, tags, monitor.restarts)
