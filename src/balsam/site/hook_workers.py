"""The processes that run hooks, as the agent sees them: started, called, listened to, stopped.

Used by `services/processing.py`, in one thread. Each is a keeper with a runner (`worker/hook_keeper.py`). They are
started when they are first needed, ended when they were idle for a while. It promises: the end of a hook is told only
when everything that it started is gone (S6), also when its keeper died.
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from balsam.domain.clock import Clock
from balsam.launcher.sweep import ATTEMPT_ENV, JOB_ENV
from balsam.launcher.workdir import DataRoot, WorkdirError
from balsam.platform.processes import marked, send
from balsam.site.directory import SITE_PATH_VARIABLE, SiteDirectory
from balsam.site.services.hook_apps import HookApp
from balsam.worker.protocol import send_call

log = logging.getLogger(__name__)

LOG_NAME = "balsam.log"
# In the environment of whatever hooks run in: the Site that they belong to, and the worker.
MARK, WORKER_MARK = "BALSAM_HOOKS_OF", "BALSAM_HOOK_WORKER"
IDLE_SEC = 60.0
_ARGV = (sys.executable, "-P", "-m", "balsam.worker.hook_keeper")
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_READ_BYTES = 1 << 16
_SEND_SEC = 10.0
_LOOK_AGAIN_SEC = 0.01
_DEFAULT_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_DOUBLE = struct.Struct("d")


@dataclass(frozen=True, slots=True)
class HookOrder:
    """One hook to run. `attempt`: of the Job's run that it is about."""

    job_id: int
    token: int
    hook: str
    attempt: int
    workdir: str
    app: HookApp


@dataclass(frozen=True, slots=True)
class HookEnd:
    """A hook came to its end: `answer` as `worker/hook_runner.py` and `hook_keeper.py` give it."""

    order: HookOrder
    answer: dict[str, Any]


class NotBegun(Exception):
    """A hook can't be run in its workdir; the text says why."""


class Workers(Protocol):
    """What processing needs of workers."""

    @property
    def free(self) -> int:
        """How many more hooks can run now."""
        ...

    @property
    def running(self) -> Mapping[int, HookOrder]:
        """The hooks that run, by Job."""
        ...

    def start(self, order: HookOrder) -> None:
        """Run a hook. Raises NotBegun; OSError when there is no process to be had now."""
        ...

    def stop(self, job_id: int) -> None:
        """Kill the hook of a Job; its end is told as any other."""
        ...

    def ends(self) -> list[HookEnd]:
        """Those that came to an end since the last call."""
        ...

    def lease_until(self, until: float) -> None:
        """Until when hooks may run: monotonic seconds (S6)."""
        ...

    def kill_leftovers(self) -> bool:
        """Kill what an agent that died left running; whether all of it is gone."""
        ...


@dataclass(eq=False, slots=True)
class _Worker:
    name: str
    pid: int
    sock: socket.socket
    order: HookOrder | None = None
    idle_since: float = 0.0
    inbox: bytearray = field(default_factory=bytearray)
    stopped: bool = False
    last_words: dict[str, Any] | None = None


class HookWorkers:
    """`Workers` with real processes, at most `most` of them."""

    def __init__(self, site: SiteDirectory, most: int, limit_sec: float, clock: Clock) -> None:
        self._data = DataRoot(site.data)
        self._most = most
        self._limit_sec = limit_sec
        self._clock = clock
        own = site.root.stat()  # a Site directory may be moved while hooks run
        self._mark = f"{own.st_dev}:{own.st_ino}"
        self._environ = {
            **os.environ,
            MARK: self._mark,
            SITE_PATH_VARIABLE: str(site.root),
            "BALSAM_CLIENT_PATH": str(site.credentials),
        }
        self._lease = os.memfd_create("balsam-hook-lease", os.MFD_CLOEXEC)
        self.lease_until(0.0)
        self._workers: dict[int, _Worker] = {}  # by descriptor
        self._started = 0
        self._ends: list[HookEnd] = []
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._wake_read, select.POLLIN)

    @property
    def free(self) -> int:
        return self._most - len(self.running)

    @property
    def running(self) -> dict[int, HookOrder]:
        return {worker.order.job_id: worker.order for worker in self._workers.values() if worker.order is not None}

    def start(self, order: HookOrder) -> None:
        workdir = self._enter(order)
        try:
            output = _open_log(workdir)
            try:
                self._call(order, workdir, output)
            finally:
                os.close(output)
        finally:
            os.close(workdir)

    def stop(self, job_id: int) -> None:
        for worker in self._workers.values():
            if worker.order is not None and worker.order.job_id == job_id:
                _hang_up(worker)

    def ends(self) -> list[HookEnd]:
        ended, self._ends = self._ends, []
        return ended

    def lease_until(self, until: float) -> None:
        os.pwrite(self._lease, _DOUBLE.pack(until), 0)

    def wake(self) -> None:
        """End a `wait` that goes on in another thread, or the next one."""
        with contextlib.suppress(OSError):  # it is woken already, or closed
            self._wake_write.send(b"x")

    def wait(self, timeout_sec: float) -> None:
        """Until a worker says something, `wake` is called, or time is up; ends workers that are idle for too long."""
        due = [worker.idle_since + IDLE_SEC for worker in self._workers.values() if worker.order is None]
        now = self._clock.monotonic()
        timeout_sec = min([timeout_sec, *(max(0.0, time - now) for time in due)])
        for fd, _ in self._poll.poll(timeout_sec * 1000 + 1):
            if fd == self._wake_read.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
            else:
                self._hear(self._workers[fd])
        now = self._clock.monotonic()
        for worker in list(self._workers.values()):
            if worker.order is None and now >= worker.idle_since + IDLE_SEC:
                _hang_up(worker)

    def kill_leftovers(self) -> bool:
        return _kill_marked(MARK, self._mark)

    def close(self, longest_sec: float) -> bool:
        """Stop everything, for good; whether all of it is gone."""
        for worker in self._workers.values():
            _hang_up(worker)
        end = self._clock.monotonic() + longest_sec
        while self._workers and self._clock.monotonic() < end:
            self.wait(end - self._clock.monotonic())
        self._wake_read.close()
        self._wake_write.close()
        os.close(self._lease)
        return not self._workers

    def _enter(self, order: HookOrder) -> int:
        try:
            return self._data.enter(order.workdir)[0]
        except WorkdirError as error:
            raise NotBegun(str(error)) from error

    def _call(self, order: HookOrder, workdir: int, output: int) -> None:
        """Hand the hook to an idle worker, or to a new one. Raises OSError."""
        environ = {**order.app.environment, JOB_ENV: str(order.job_id), ATTEMPT_ENV: str(order.attempt)}
        app, limit_sec = order.app.as_call(), self._limit_sec
        call = {"job_id": order.job_id, "hook": order.hook, "env": environ, "limit_sec": limit_sec, "app": app}
        for worker in [one for one in self._workers.values() if one.order is None and not one.stopped]:
            with contextlib.suppress(OSError):  # it died while it was idle
                send_call(worker.sock, call, workdir, output)
                worker.order = order
                return
            _hang_up(worker)
        worker = self._spawn()
        try:
            send_call(worker.sock, call, workdir, output)
        except OSError:
            _hang_up(worker)
            raise
        worker.order = order

    def _spawn(self) -> _Worker:
        self._started += 1
        name = f"{os.getpid()}.{self._started}"
        ours, theirs = socket.socketpair()
        try:
            actions = ((os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_DUP2, self._lease, 1))
            pid = os.posix_spawn(
                _ARGV[0],
                _ARGV,
                {**self._environ, WORKER_MARK: name},
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(_SEND_SEC)
        worker = self._workers[ours.fileno()] = _Worker(name, pid, ours)
        self._poll.register(ours, select.POLLIN)
        return worker

    def _hear(self, worker: _Worker) -> None:
        try:
            data = worker.sock.recv(_READ_BYTES)
        except OSError:
            data = b""
        worker.inbox += data
        while b"\n" in worker.inbox:
            line, _, worker.inbox = worker.inbox.partition(b"\n")
            self._heard(worker, json.loads(line))
        if not data:
            self._gone(worker)

    def _heard(self, worker: _Worker, message: dict[str, Any]) -> None:
        if message["is"] == "done" and message.get("stays"):
            self._ended(worker, message)
            worker.idle_since = self._clock.monotonic()
        else:
            worker.last_words = message  # it ends itself now

    def _ended(self, worker: _Worker, answer: dict[str, Any]) -> None:
        if worker.order is not None:
            self._ends.append(HookEnd(worker.order, answer))
            worker.order = None

    def _gone(self, worker: _Worker) -> None:
        """The keeper closed the channel: it ended in order, or something killed it."""
        os.kill(worker.pid, signal.SIGKILL)  # it has nothing more to do, and is to be waited for
        os.waitpid(worker.pid, 0)
        if worker.last_words is None:
            while not _kill_marked(WORKER_MARK, worker.name):  # S6: nobody else sees to what it kept
                time.sleep(_LOOK_AGAIN_SEC)
        self._poll.unregister(worker.sock)
        del self._workers[worker.sock.fileno()]
        worker.sock.close()
        self._ended(worker, worker.last_words or {"is": "lost", "reason": "something killed the process that keeps it"})


def _hang_up(worker: _Worker) -> None:
    """Have it end what it does, and itself; it says so first."""
    worker.stopped = True
    with contextlib.suppress(OSError):
        worker.sock.shutdown(socket.SHUT_WR)


def _kill_marked(variable: str, value: str) -> bool:
    """Kill the processes with this mark; whether there were none."""
    found = [process for process in marked(variable, value) if process.id.pid != os.getpid()]
    for process in found:
        send(process.id, signal.SIGKILL)
    return not found


def _open_log(workdir: int) -> int:
    """The file that takes a hook's output. Raises NotBegun."""
    try:
        output = os.open(LOG_NAME, _LOG_FLAGS, 0o666, dir_fd=workdir)
    except OSError as error:
        raise NotBegun(f"{LOG_NAME} in its workdir can't be written: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(output).st_mode):
        os.close(output)
        raise NotBegun(f"{LOG_NAME} in its workdir is no plain file")
    return output
