"""Keeps one process that runs hooks: `python -P -m balsam.worker.hook_keeper`, started by the Site's agent.

The keeper runs no code of Apps, so it is always there to kill what does: when a hook takes longer than it may, when the
agent wants it stopped or is gone itself, when the agent's lease ends (S6). It is the subreaper of everything that hooks
start, so none of it gets away. After such an end it says so and ends; the agent starts another one when it needs it.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import time
from typing import NoReturn

from balsam.worker.isolation import kill_children
from balsam.worker.protocol import EXIT_NO_CHANNEL, Closed, receive_call, send_call

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# Above the numbers that programs are used to close.
_AGENT_FD, _LEASE_FD, _RUNNER_FD = 200, 201, 202
_READ_BYTES = 1 << 16
_MOST_LINE_BYTES = 4 * 1024 * 1024
_DOUBLE = struct.Struct("d")


class RunnerLost(Exception):
    """The runner is of no use any more; the text says why, for people."""


class Stopped(Exception):
    """The hook is to end for no fault of its own."""


class Keeper:
    """One runner. `lease` is a file in memory whose first bytes say until when its hooks may run: monotonic seconds."""

    def __init__(self, agent: socket.socket, lease: int) -> None:
        self._agent = agent
        self._lease = lease
        self._runner, self._runner_pid = self._start_runner()
        self._inbox = bytearray()
        self._busy = False
        self._limit_sec = 0.0
        self._deadline: float | None = None

    def serve(self) -> None:
        """Until the agent closes the channel, or the runner can't be used again."""
        last: dict[str, object] | None = None
        try:
            while last is None:
                ready = self._wait()
                if self._runner.fileno() in ready:
                    last = self._hear_runner()
                self._check_time()
                if last is None and self._agent.fileno() in ready:
                    self._take_call()
        except (Closed, Stopped):
            last = {"is": "stopped"}
        except RunnerLost as lost:
            last = {"is": "lost", "reason": str(lost)}
        self._end_runner()
        self._say(last)

    def _start_runner(self) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        own = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become_runner(theirs, own)
        theirs.close()
        with contextlib.suppress(OSError):  # it did so itself, or is gone already
            os.setpgid(pid, pid)
        return ours, pid

    def _wait(self) -> set[int]:
        """Descriptors with something to read, or none once it is time to look at the clock."""
        poll = select.poll()
        poll.register(self._agent, select.POLLIN)
        poll.register(self._runner, select.POLLIN)
        times = [time for time in (self._deadline, self._lease_until()) if time is not None and self._busy]
        left_sec = min(times, default=None)
        timeout_ms = None if left_sec is None else max(0.0, (left_sec - time.monotonic()) * 1000) + 1
        return {fd for fd, _ in poll.poll(timeout_ms)}

    def _lease_until(self) -> float:
        until: float = _DOUBLE.unpack(os.pread(self._lease, _DOUBLE.size, 0))[0]
        return until

    def _check_time(self) -> None:
        now = time.monotonic()
        if self._busy and now >= self._lease_until():  # S6
            raise Stopped("the agent's lease ended")
        if self._busy and self._deadline is not None and now >= self._deadline:
            raise RunnerLost(f"it ran longer than the {self._limit_sec:g} s that this Site gives a hook")

    def _take_call(self) -> None:
        """Pass a call on to the idle runner. Raises Closed."""
        call, workdir, output = receive_call(self._agent)
        try:
            send_call(self._runner, call, workdir, output)
        except OSError as error:
            raise RunnerLost(f"its process does not listen: {error}") from error
        finally:
            os.close(workdir)
            os.close(output)
        self._busy, self._limit_sec = True, call["limit_sec"]
        self._deadline = time.monotonic() + self._limit_sec

    def _hear_runner(self) -> dict[str, object] | None:
        """What the runner says; its last words, when it is not to be used again. Raises RunnerLost."""
        try:
            data = self._runner.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            raise RunnerLost(self._how_it_ended())
        self._inbox += data
        if len(self._inbox) > _MOST_LINE_BYTES:
            raise RunnerLost("it said more than it can have to say")
        while b"\n" in self._inbox:
            line, _, self._inbox = self._inbox.partition(b"\n")
            last = self._hear(bytes(line))
            if last is not None:
                return last
        return None

    def _hear(self, line: bytes) -> dict[str, object] | None:
        try:
            message: dict[str, object] = json.loads(line)
            what = message["is"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunnerLost("it wrote into the channel of its process") from error
        if what == "loaded":  # it reads its Job now; a service that is away is not the hook's fault
            self._deadline = None
        elif what == "begun":
            self._deadline = time.monotonic() + self._limit_sec
        elif what == "done":
            self._busy, self._deadline = False, None
            if not message.get("stays"):
                return message
            self._say(message)
        return None

    def _how_it_ended(self) -> str:
        """It closed its end of the channel: as a rule because it died."""
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            pid, status = os.waitpid(self._runner_pid, os.WNOHANG)
            if pid:
                if os.WIFSIGNALED(status):
                    return f"its process was ended by {signal.Signals(os.WTERMSIG(status)).name}"
                code = os.waitstatus_to_exitcode(status)
                if code == EXIT_NO_CHANNEL:
                    return "it closed descriptors that are not its own"
                return f"it ended its process with exit code {code}"
            time.sleep(0.01)
        return "it closed the channel of its process"

    def _end_runner(self) -> None:
        """Kill the runner and everything below; returns when all of it is gone (S6)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._runner_pid, signal.SIGKILL)
        while not kill_children()[1]:
            pass

    def _say(self, message: dict[str, object]) -> None:
        # An agent that is gone needs no words.
        with contextlib.suppress(OSError):
            self._agent.sendall(json.dumps(message).encode() + b"\n")


def _become_runner(sock: socket.socket, keeper: int) -> NoReturn:
    """In the forked process: a group of its own, and it dies with its keeper."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:  # it died before we could say so
        os._exit(0)
    channel = fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, _RUNNER_FD)
    sock.detach()
    os.closerange(3, channel)
    from balsam.worker import hook_runner  # only now: the keeper needs none of what this brings

    hook_runner.run(socket.socket(fileno=channel))
    os._exit(0)


def main() -> None:
    """Entry point: the channel to the agent is the standard input, the lease the standard output."""
    agent = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _AGENT_FD)
    lease = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _LEASE_FD)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Keeper(socket.socket(fileno=agent), lease).serve()


if __name__ == "__main__":
    main()
