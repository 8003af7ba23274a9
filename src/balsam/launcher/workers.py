"""Worker processes that stay warm between Jobs of one App: started, called, listened to, ended.

Used by `children.py`, in the launcher's one thread; nothing here waits. A worker is kept for the next Job with the same
App, GPUs and other environment, until it was idle for too long, its place is wanted for something else, or it says that
a Job left something behind. An idle worker is no Job's: it holds no slot, and what the last Job started is gone (S9).
"""

import contextlib
import select
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from balsam.domain.clock import Clock
from balsam.launcher.process import Child, Command, ExitStatus, SpawnError, close_child, kill, reap, spawn
from balsam.launcher.sweep import ATTEMPT_ENV, JOB_ENV, WORKER_ATTEMPT
from balsam.worker.protocol import Answer, Call, send_call, take_answer

IDLE_SEC = 30.0
ARGV = (sys.executable, "-P", "-m", "balsam.worker.serve")
_READ_BYTES = 1 << 16

GpuSet = frozenset[tuple[int, str]]  # (node, id)


@dataclass(frozen=True, slots=True)
class WorkerKey:
    """What Jobs of one worker have in common: the App's definition, and what libraries read when they are loaded."""

    content_hash: str
    environ: tuple[tuple[str, str], ...]


@dataclass(eq=False, slots=True)
class Worker:
    """One process. `job_id`: whose call it carries out; `doomed`: it takes no further call."""

    name: str
    key: WorkerKey
    gpus: GpuSet
    child: Child
    sock: socket.socket
    job_id: int | None = None
    doomed: bool = False
    idle_until: float = 0.0
    inbox: bytearray = field(default_factory=bytearray)


class Workers:
    """All workers of a partition. What happens is told by `on_answer` and, once it was reaped, by `on_end`."""

    def __init__(
        self,
        epoll: select.epoll,
        clock: Clock,
        on_answer: Callable[[Worker, Answer], None],
        on_end: Callable[[Worker, ExitStatus], None],
    ) -> None:
        self._epoll = epoll
        self._clock = clock
        self._on_answer = on_answer
        self._on_end = on_end
        self._of_fd: dict[int, Worker] = {}
        self._idle: dict[Worker, None] = {}  # the longest idle first
        self._last = 0

    def holders_of(self, gpus: GpuSet, key: WorkerKey | None) -> list[Worker]:
        """Workers without a Job that may still have memory on these GPUs: those of others, and those about to end."""
        free = [worker for worker in set(self._of_fd.values()) if worker.job_id is None]
        return [worker for worker in free if worker.gpus & gpus and (worker.doomed or worker.key != key)]

    def call(
        self,
        key: WorkerKey,
        gpus: GpuSet,
        job_id: int,
        command: Command,
        call: Call,
        app: Mapping[str, Any],
        output: int,
    ) -> Worker:
        """Have a call carried out by an idle worker, or by a new one that `command` describes but for its words.

        Raises CommandError, SpawnError as `spawn` does.
        """
        directory = command.cwd_fd
        if directory is None:
            raise ValueError("a worker is started in an opened directory")
        for worker in [worker for worker in reversed(self._idle) if worker.key == key]:
            del self._idle[worker]
            with contextlib.suppress(OSError):  # it died while it was idle, and nobody heard of it yet
                send_call(worker.sock, call, directory, output)
                worker.job_id = job_id
                return worker
            self.end(worker)
        worker = self._start(key, gpus, command)
        try:
            send_call(worker.sock, {**call, "app": app}, directory, output)
        except OSError as error:
            self.end(worker)
            raise SpawnError(f"cannot talk to a new worker: {error.strerror or error}", shortage=True) from error
        worker.job_id = job_id
        return worker

    def _start(self, key: WorkerKey, gpus: GpuSet, command: Command) -> Worker:
        self._last += 1
        name = f"worker{self._last}"
        ours, theirs = socket.socketpair()
        try:
            env = {**command.env, JOB_ENV: name, ATTEMPT_ENV: WORKER_ATTEMPT}
            child = spawn(Command(ARGV, env, command.cwd, command.stdout, command.cwd_fd, theirs.fileno()))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        worker = Worker(name, key, gpus, child, ours)
        for fd in (ours.fileno(), child.pidfd):
            self._of_fd[fd] = worker
            self._epoll.register(fd, select.EPOLLIN)
        return worker

    def keep(self, worker: Worker) -> None:
        """Its Job is gone: it may take another one."""
        worker.job_id = None
        worker.idle_until = self._clock.monotonic() + IDLE_SEC
        self._idle[worker] = None

    def end(self, worker: Worker) -> None:
        """Kill it with its group; `on_end` tells when it was reaped."""
        self._idle.pop(worker, None)
        worker.doomed = True
        kill(worker.child.group)

    def leave_idle(self, most: int) -> None:
        """End the longest idle workers, until at most so many are left."""
        excess = len(self._idle) - most
        if excess > 0:
            for worker in list(self._idle)[:excess]:
                self.end(worker)

    def heard(self, fd: int) -> bool:
        """Whether `fd` is a worker's; what it says is told."""
        worker = self._of_fd.get(fd)
        if worker is None:
            return False
        if fd == worker.child.pidfd:
            self._read(worker)  # what it said before it ended counts
            self._reap(worker)
        else:
            self._read(worker)
        return True

    def _read(self, worker: Worker) -> None:
        """Take what arrived. One that talks nonsense is ended; one that closed its end may still be at work."""
        if worker.sock.fileno() not in self._of_fd:
            return
        try:
            while data := worker.sock.recv(_READ_BYTES):
                worker.inbox += data
                answer = take_answer(worker.inbox)
                if answer is None:
                    continue
                if worker.job_id is None or worker.inbox:
                    raise ValueError("more than an answer to its call")
                self._on_answer(worker, answer)
                return  # there is no more before the next call; the end of its stream is told again
        except BlockingIOError:
            return
        except ConnectionResetError:
            pass
        except ValueError:
            self.end(worker)
        self._hang_up(worker)
        if worker.job_id is None:
            self.end(worker)

    def _hang_up(self, worker: Worker) -> None:
        fd = worker.sock.fileno()
        if fd in self._of_fd:
            self._epoll.unregister(fd)
            del self._of_fd[fd]
            worker.sock.close()

    def _reap(self, worker: Worker) -> None:
        status = reap(worker.child)
        if status is None:
            return
        self._idle.pop(worker, None)
        worker.doomed = True
        self._hang_up(worker)
        self._epoll.unregister(worker.child.pidfd)
        del self._of_fd[worker.child.pidfd]
        close_child(worker.child)
        self._on_end(worker, status)

    def due(self) -> float | None:
        """When to call `end_overdue`."""
        return next((worker.idle_until for worker in self._idle), None)

    def end_overdue(self, now: float) -> None:
        """End those that were idle for too long."""
        for worker in [worker for worker in self._idle if now >= worker.idle_until]:
            self.end(worker)

    def close(self) -> None:
        """End them all; who started this launcher sees them gone."""
        for worker in set(self._of_fd.values()):
            self.end(worker)
