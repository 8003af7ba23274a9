"""The guardian: parent of the launcher inside an allocation, and the one who makes sure that nothing outlives it.

Started by the batch script (`python -S -E guardian.py CONFIG`, or `python -m balsam.launcher.guardian`; without CONFIG
the JSON is read from stdin). Standard library and four files of this package, so that it starts anywhere and stays
small. It promises: every descendant is dead, seen in a look over /proc that none can have escaped, before a launcher is
started again and before it exits (S6, S9); a lease that ended is never taken up again by the same launcher (S6); ranks
end before the wall time does (L3).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import NoReturn

if not __package__:
    # Run as a file under -S: the package is found beside us, and no neighbour of this file by a bare name.
    sys.path[0] = __file__.rsplit("/", 3)[0]

from balsam.launcher.guardian_config import Config, ConfigError, is_number, read_config
from balsam.launcher.guardian_link import LINK_ENV
from balsam.launcher.proctable import (
    ALLOCATION_ENV,
    find_descendants,
    find_marked,
    kill_until_gone,
)
from balsam.platform.process_table import Process, read_process_table

RESTART_ENV = "BALSAM_LAUNCHER_RESTART"
END_ENV = "BALSAM_ALLOCATION_END"

# USR2 is how Grid Engine (`qsub -notify`) and LSF announce the kill.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
# One `scancel` or Ctrl-C may reach us twice (process and group): only a later one counts as "now".
REPEATED_SIGNAL_SEC = 0.5
RESTART_DELAYS_SEC = (0.2, 1.0, 3.0)
# Bounds the delay with which a node that was suspended notices that its lease ended meanwhile.
LEASE_CHECK_SEC = 1.0
LONGEST_LINE = 65536
EXIT_CONFIG = 78  # of us or of the launcher: starting again would not help
EXIT_SURVIVORS = 70
_PR_SET_CHILD_SUBREAPER = 36


def say(text: str) -> None:
    """One line with the time on stderr; a full disk must not stop the guardian."""
    line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} guardian[{os.getpid()}]: {text}\n"
    with contextlib.suppress(OSError):
        os.write(2, line.encode())


def node_mark(allocation: str, environ: Mapping[str, str]) -> str:
    """What the marks of this node's guardians for an allocation begin with, before a dot."""
    return f"{allocation}@{node_name(environ)}"


def node_name(environ: Mapping[str, str]) -> str:
    """This node as its batch system calls it, or else as it calls itself."""
    return environ.get("SLURMD_NODENAME") or os.uname().nodename


def memory_file(text: str) -> int:
    """A file in memory alone with this text, at its beginning; returns the descriptor."""
    fd = os.memfd_create("balsam-stdin", os.MFD_CLOEXEC)
    with os.fdopen(fd, "w", closefd=False) as file:
        file.write(text)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Guardian:
    """Starts the launcher, watches it, and cleans up behind it. `run()` returns the exit status."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._allocation = config.allocation
        if config.per_node:
            # An earlier guardian that is still about to end looks for its own processes only.
            self._allocation = f"{node_mark(config.allocation, os.environ)}.{os.getpid()}.{time.monotonic_ns()}"
        self._pid = -1
        self._pidfd = self._renew_fd = self._alive_fd = -1
        self._status: int | None = None
        self._line = b""
        self._lease_until: float | None = None  # on CLOCK_BOOTTIME: a suspended node's lease runs out too
        self._stop_at: float | None = None  # when draining: kill everything then
        self._stopping_since: float | None = None
        self._kill_now = False
        self._deaths_in_a_row = 0
        start = time.monotonic()
        wall_time = config.wall_time_sec
        self._end = None if wall_time is None else start + wall_time
        margin = config.kill_margin_sec if wall_time is None else min(config.kill_margin_sec, wall_time / 2)
        self._hard_margin = min(config.hard_margin_sec, margin / 2)
        self._drain_at = None if self._end is None else self._end - margin
        if wall_time is not None and margin < config.kill_margin_sec:
            say(f"wall time is only {wall_time:g} s: the launcher is told to stop {margin:g} s before its end")
        self._wake_fd, wake_write_fd = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(wake_write_fd, False)
        signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        self._become_subreaper()
        self._spared = [row for row in read_process_table().values() if row.parent == os.getpid()]

    def _become_subreaper(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            say(f"cannot become subreaper ({os.strerror(ctypes.get_errno())}): orphans are found by their mark only")

    def run(self) -> int:
        """Run launchers until one ends well, is told to stop, or too many in a row die soon."""
        restarts = 0
        if self._config.per_node and not self._kill_earlier():
            return EXIT_SURVIVORS
        while True:
            started = time.monotonic()
            self._start_launcher(restarts)
            reason = self._watch()
            lived_sec = time.monotonic() - started
            clean = self._kill_all(reason)
            status = self._status if self._status is not None else EXIT_SURVIVORS
            if not clean:
                return EXIT_SURVIVORS
            stopping = self._stopping_since is not None or self._is_late()
            ended = reason == "" and status in (0, EXIT_CONFIG)
            if ended or stopping or self._gives_up(lived_sec):
                say(f"nothing left of this allocation; exit {status}")
                return status
            restarts += 1
            delay, row = self._restart_delay(), f"{self._deaths_in_a_row} of {self._config.max_restarts}"
            say(f"starting the launcher again in {delay} s ({row} in a row)")
            if self._told_to_stop_within(delay):
                return status

    def _gives_up(self, lived_sec: float) -> bool:
        """Count a launcher that died after so long, and tell whether it was the last one.

        What never lives for long would burn the allocation; what fell once in some hours is no reason to give it away.
        """
        steady = lived_sec >= self._config.steady_sec
        self._deaths_in_a_row = 1 if steady else self._deaths_in_a_row + 1
        return self._deaths_in_a_row > self._config.max_restarts

    def _restart_delay(self) -> float:
        return RESTART_DELAYS_SEC[min(self._deaths_in_a_row, len(RESTART_DELAYS_SEC)) - 1]

    def _kill_earlier(self) -> bool:
        """S6: an earlier guardian of this node, whose launcher died, may still be about to end its processes."""
        mark = node_mark(self._config.allocation, os.environ)
        return kill_until_gone(lambda: find_marked(f"{mark}."), self._reap, self._end, say)

    def _start_launcher(self, restart: int) -> None:
        alive_read, self._alive_fd = os.pipe()
        self._renew_fd, renew_write = os.pipe()
        os.set_blocking(self._renew_fd, False)
        self._line, self._lease_until, self._status = b"", None, None
        env = dict(os.environ if self._config.env is None else self._config.env)
        env[ALLOCATION_ENV] = self._allocation
        env[RESTART_ENV] = str(restart)
        env[LINK_ENV] = f"{alive_read},{renew_write}"
        if self._end is not None:
            env[END_ENV] = repr(self._end)
        os.set_inheritable(alive_read, True)
        os.set_inheritable(renew_write, True)
        argv = self._config.argv
        given = memory_file(self._config.stdin)
        actions = [(os.POSIX_SPAWN_DUP2, given, 0)]
        defaults = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        try:
            self._pid = os.posix_spawnp(
                argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=defaults
            )
        except OSError as error:
            say(f"cannot start the launcher {argv[0]!r}: {error.strerror}")
            self._pid, self._status = -1, 127
        for fd in (given, alive_read, renew_write):
            os.close(fd)
        if self._status is None:
            self._pidfd = os.pidfd_open(self._pid)
            say(f"launcher is process {self._pid}")

    def _watch(self) -> str:
        """Wait for what ends this launcher; returns why it must be killed, or "" when it ended by itself."""
        poll = select.poll()
        for fd in (self._wake_fd, self._pidfd, self._renew_fd):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        while self._status is None:
            ready = {fd for fd, _ in poll.poll(self._timeout_ms())}
            # The deadline is looked at before the pipe: a renewal that comes too late changes nothing. S6
            if reason := self._reason_to_kill():
                return reason
            if self._wake_fd in ready:
                self._take_signals()
            if self._renew_fd in ready and not self._take_renewals():
                poll.unregister(self._renew_fd)
            self._reap()
        return ""

    def _timeout_ms(self) -> float | None:
        now = time.monotonic()
        waits = []
        if self._end is not None and self._drain_at is not None:
            waits.append((self._drain_at if self._stopping_since is None else self._hard_end(self._end)) - now)
        if self._stop_at is not None:
            waits.append(self._stop_at - now)
        if self._lease_until is not None:
            waits.append(min(self._lease_until - _boot_time(), LEASE_CHECK_SEC))
        return max(0.0, min(waits)) * 1000 if waits else None

    def _hard_end(self, end: float) -> float:
        return end - self._hard_margin

    def _is_late(self) -> bool:
        return self._drain_at is not None and time.monotonic() >= self._drain_at

    def _reason_to_kill(self) -> str:
        now = time.monotonic()
        if self._lease_until is not None and _boot_time() >= self._lease_until:
            return "its lease ended"
        if self._end is not None and now >= self._hard_end(self._end):
            return "the wall time is over"
        if self._kill_now:
            return "told to stop a second time"
        if self._stop_at is not None and now >= self._stop_at:
            return f"not done {self._config.kill_grace_sec:g} s after it was told to stop"
        if self._stopping_since is None and self._is_late():
            self._drain("the wall time is near")  # L3
        return ""

    def _drain(self, why: str) -> None:
        say(f"{why}: SIGTERM to the launcher")
        self._stopping_since = time.monotonic()
        if self._status is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def _take_signals(self) -> None:
        try:
            numbers = os.read(self._wake_fd, 512)
        except BlockingIOError:
            return
        for number in numbers:
            if number not in STOP_SIGNALS:
                continue
            now = time.monotonic()
            name = signal.Signals(number).name
            if self._stop_at is None:
                self._stop_at = now + self._config.kill_grace_sec
                self._drain(f"got {name}")
            elif self._stopping_since is not None and now - self._stopping_since > REPEATED_SIGNAL_SEC:
                self._kill_now = True

    def _take_renewals(self) -> bool:
        """Read what the launcher wrote; False at the end of file."""
        try:
            data = os.read(self._renew_fd, LONGEST_LINE)
        except BlockingIOError:
            return True
        if not data:
            return False
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > LONGEST_LINE:
            say("the launcher sends a line without end; dropped")
            self._line = b""
        for line in lines:
            self._take_line(line)
        return True

    def _take_line(self, line: bytes) -> None:
        try:
            until = json.loads(line)["lease_until"]
            if until is not None and not is_number(until):
                raise ValueError("not a number")
        except (ValueError, TypeError, KeyError) as error:
            say(f"cannot read what the launcher wrote ({error!r}): {line[:100]!r}")
            return
        self._lease_until = None if until is None else until - time.monotonic() + _boot_time()

    def _reap(self) -> None:
        """Collect every ended child, adopted orphans too; the launcher's status is kept."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code
                say(f"launcher ended with {code}" if code >= 0 else f"launcher was killed by signal {-code}")

    def _kill_all(self, reason: str) -> bool:
        """Kill every descendant until none is seen (S6, S9); True when that was reached before the wall time."""
        if reason:
            say(f"killing the launcher and all its processes: {reason}")
            if self._status is None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

        def find() -> Iterator[Process]:
            return find_descendants(os.getpid(), self._allocation, self._spared)

        clean = kill_until_gone(find, self._reap, self._end, say)
        self._reap()
        for fd in (self._pidfd, self._renew_fd, self._alive_fd):
            if fd >= 0:
                os.close(fd)
        self._pid = self._pidfd = self._renew_fd = self._alive_fd = -1
        if not clean:
            say("the allocation ends while processes of it are still alive")
        return clean

    def _told_to_stop_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            select.select([self._wake_fd], [], [], left)
            try:
                numbers = os.read(self._wake_fd, 512)
            except BlockingIOError:
                continue
            if any(number in STOP_SIGNALS for number in numbers):
                say("told to stop; not starting again")
                return True
        return self._is_late()


def main() -> NoReturn:
    """Entry point: read the configuration, guard, exit with the launcher's status."""
    try:
        config = read_config(sys.argv[1] if len(sys.argv) > 1 else None)
    except ConfigError as error:
        say(str(error))
        sys.exit(EXIT_CONFIG)
    # What the batch script left open must not leak into ranks.
    for entry in os.scandir("/proc/self/fd"):
        if int(entry.name) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(entry.name), False)
    sys.exit(Guardian(config).run())


if __name__ == "__main__":
    main()
