"""The output reader: the launcher's child process that reads what Jobs write, and says which monitors of Apps are met.

`python -m balsam.launcher.output_reader FD`; JSON lines over the socket FD, described in `monitors.py`. A process of
its own, since a file system may hang and a pattern may take for ever: neither may hold up the loop. Each round reads a
bounded piece of each file that changed, and takes at most a fifth of the time. The end of file on FD is its end.
"""

import contextlib
import json
import logging
import os
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balsam.domain.monitors import Monitor
from balsam.launcher.output_rules import Lines, Met, Rule, rules_by_file
from balsam.transfer.descent import Refused, open_inside, open_workdir

log = logging.getLogger("balsam.output_reader")

PERIOD_SEC = 0.5
REST_PER_ROUND = 4  # parts of rest to one of work
READ_BYTES = 1 << 18
PATTERN_SEC = 1.0  # of processor time, for one rule and one piece
# What is longer ago was a time in which nothing could be seen: a file system that hung, a machine that slept.
LONGEST_UNSEEN_SEC = 10.0
LAST_READING_SEC = 3.0
_RECEIVE_BYTES = 1 << 16

Identity = tuple[int, int]


class TooLong(Exception):
    """A pattern took too long."""


@dataclass(slots=True)
class WatchedFile:
    """A file with the rules on it that were not met yet. `seen`: size and time of change at the last look."""

    path: str
    rules: dict[str, Rule]
    identity: Identity | None = None
    offset: int = 0
    from_start: bool = True
    lines: Lines = field(default_factory=Lines)
    seen: tuple[int, int] | None = None

    def look(self, workdir: int) -> tuple[bytes, int]:
        """Read on: the next piece of it, and how many bytes there are after that."""
        try:
            with open_inside(workdir, self.path) as (fd, status):
                identity = (status.st_dev, status.st_ino)
                if identity != self.identity or status.st_size < self.offset:
                    self.identity, self.offset, self.from_start, self.lines = identity, 0, True, Lines()
                self.seen = (status.st_size, status.st_mtime_ns)
                data = os.pread(fd, READ_BYTES, self.offset)
        except (OSError, Refused):
            return b"", 0  # not there yet, or nothing that may be read: then nothing changes
        self.offset += len(data)
        return data, max(0, status.st_size - self.offset)


@dataclass(slots=True)
class WatchedJob:
    """A Job that runs, by the token of its grant."""

    id: int
    token: int
    workdir: str
    files: list[WatchedFile]
    looked_at: float


def watched_job(order: Mapping[str, Any], now: float) -> tuple[WatchedJob, list[Met]]:
    """Out of the order `watch`, with what can't be watched."""
    files, refused = [], []
    for path, monitors in rules_by_file(
        {name: Monitor.from_view(view) for name, view in order["rules"].items()}
    ).items():
        rules: dict[str, Rule] = {}
        for name, monitor in monitors.items():
            try:
                rules[name] = Rule.of(name, monitor)
            except (re.error, OverflowError, RecursionError) as error:
                refused.append(_off(name, f"this Python does not know its pattern ({error})"))
        watched = WatchedFile(path, rules)
        if (before := order["before"].get(path)) is not None:
            device, inode, size = before
            watched.identity, watched.offset, watched.from_start = (device, inode), size, size == 0
        files.append(watched)
    return WatchedJob(order["job_id"], order["token"], order["workdir"], files, now), refused


class Reader:
    """The Jobs that are watched. `say` sends a message to the loop."""

    def __init__(self, sock: socket.socket, data: Path) -> None:
        self._sock = sock
        self._data = data
        self._jobs: dict[int, WatchedJob] = {}
        self._in = b""

    def run(self) -> None:
        """Until the loop is gone."""
        wait_sec = PERIOD_SEC
        while self._receive(wait_sec if self._jobs else None):
            begun = time.monotonic()
            has_more = [self._look(job) for job in list(self._jobs.values())]
            took = time.monotonic() - begun
            wait_sec = REST_PER_ROUND * took if any(has_more) else max(PERIOD_SEC, REST_PER_ROUND * took)

    def _receive(self, longest_sec: float | None) -> bool:
        """Take orders for so long; False when there will be no more."""
        until = None if longest_sec is None else time.monotonic() + longest_sec
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                return True
            data = self._sock.recv(_RECEIVE_BYTES)
            if not data:
                return False
            *lines, self._in = (self._in + data).split(b"\n")
            for line in lines:
                self._obey(json.loads(line))
            if until is None and self._jobs:
                until = time.monotonic()  # the first look at a new Job is at once

    def _obey(self, order: Mapping[str, Any]) -> None:
        match order["do"]:
            case "watch":
                job, refused = watched_job(order, time.monotonic())
                self._jobs[job.id] = job
                for met in refused:
                    self._say_met("off", job, met)
            case "finish":
                self._finish(order["job_id"])
            case "forget":
                self._jobs.pop(order["job_id"], None)

    def _look(self, job: WatchedJob) -> bool:
        """Whether there is more to read."""
        now = time.monotonic()
        passed_sec, job.looked_at = min(now - job.looked_at, LONGEST_UNSEEN_SEC), now
        left = 0
        with self._entered(job) as workdir:
            for watched in job.files:
                left += self._read_on(job, watched, workdir, passed_sec)
        return left > 0

    def _read_on(self, job: WatchedJob, watched: WatchedFile, workdir: int | None, passed_sec: float) -> int:
        before = (watched.identity, watched.seen)
        data, left = (b"", 0) if workdir is None else watched.look(workdir)
        has_changed = (watched.identity, watched.seen) != before
        self._judge(job, watched, watched.lines.feed(data))
        # As long as there is more, the line that a rule waits for may be there.
        for rule in list(watched.rules.values()) if not left else ():
            if (met := rule.wait(passed_sec, has_changed)) is not None:
                self._met(job, watched, met)
        return left if watched.rules else 0

    def _finish(self, job_id: int) -> None:
        """The Job has ended: read to the end of its files, within reason."""
        job = self._jobs.pop(job_id, None)
        if job is None:
            return
        until, left = time.monotonic() + LAST_READING_SEC, 0
        with self._entered(job) as workdir:
            for watched in job.files:
                left += self._read_out(job, watched, workdir, until)
        self._say(**{"is": "read", "job_id": job.id, "token": job.token, "left": left})

    def _read_out(self, job: WatchedJob, watched: WatchedFile, workdir: int | None, until: float) -> int:
        left = 1
        while left and watched.rules and workdir is not None:
            data, left = watched.look(workdir)
            self._judge(job, watched, watched.lines.feed(data))
            if time.monotonic() >= until and left:
                return left
        self._judge(job, watched, watched.lines.rest())
        return 0

    @contextlib.contextmanager
    def _entered(self, job: WatchedJob) -> Iterator[int | None]:
        """A descriptor of the workdir; None while there is no such directory that may be entered."""
        with contextlib.ExitStack() as stack:
            workdir = None
            with contextlib.suppress(OSError, Refused):
                workdir = stack.enter_context(open_workdir(self._data, job.workdir))
            yield workdir

    def _judge(self, job: WatchedJob, watched: WatchedFile, lines: Sequence[tuple[int, str]]) -> None:
        for rule in list(watched.rules.values()) if lines else ():
            try:
                with at_most(PATTERN_SEC):
                    met = rule.read(lines, watched.from_start)
            except TooLong:
                del watched.rules[rule.name]
                why = f"its pattern took longer than {PATTERN_SEC:g} s for a piece of {watched.path}"
                self._say_met("off", job, _off(rule.name, why))
                continue
            if met is not None:
                self._met(job, watched, met)

    def _met(self, job: WatchedJob, watched: WatchedFile, met: Met) -> None:
        del watched.rules[met.monitor]
        self._say_met("met", job, met)

    def _say_met(self, word: str, job: WatchedJob, met: Met) -> None:
        self._say(**{"is": word, "job_id": job.id, "token": job.token, **met._asdict()})

    def _say(self, **message: Any) -> None:
        try:
            self._sock.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except OSError:
            os._exit(0)


def _off(name: str, why: str) -> Met:
    return Met(name, f"monitor {name} is off for this attempt: {why}", {})


@contextlib.contextmanager
def at_most(cpu_sec: float) -> Iterator[None]:
    """Raises TooLong in the middle of what takes longer; `re` looks for signals while it searches."""
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_sec)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def take_too_long_as_error() -> None:
    """To be called once, before `at_most`, in the main thread."""

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGVTALRM, stop)


def main() -> None:
    """Entry point: the socket's descriptor is the only argument; the first line is where the data directory is."""
    logging.basicConfig(format="%(asctime)s %(name)s[%(process)d]: %(message)s", level=logging.INFO)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(True)
    take_too_long_as_error()
    first = sock.makefile("rb", buffering=0).readline()
    if first:
        Reader(sock, Path(json.loads(first)["data"])).run()


if __name__ == "__main__":
    main()
