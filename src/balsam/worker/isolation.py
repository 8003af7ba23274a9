"""What a worker puts right between two Jobs, and what it looks for that a Job left behind.

Each Job gets its work directory, output file and environment; afterwards these, umask, signal handlers, timers and
stdio are as they were. Processes that a Job left are killed and seen gone: the worker is their subreaper, so none of
them can get away from it (S9). What can't be undone (threads, memory) is told, and the worker is not used again.
"""

import contextlib
import ctypes
import importlib
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
# A Job may grow the process by so much (caches, modules it imports) before the next one gets a fresh one.
MOST_GROWTH_BYTES = 1024 * 1024 * 1024
_LONGEST_CLEAN_SEC = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# What signal.getsignal() asks, without its search for a name of the answer: that takes 80 us for all signals.
_handler_of: Callable[[int], Any] = importlib.import_module("_signal").getsignal


class Surroundings:
    """The process as it was before the first Job; made once, before any code of an App is loaded."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._is_subreaper = self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._environ = os.environ
        # os.environ itself takes 2 us for each variable that is looked at, and there may be hundreds.
        self._variables: dict[bytes, bytes] = vars(os.environ)["_data"]
        self._own_variables = dict(self._variables)
        self._umask = os.umask(0)
        os.umask(self._umask)
        settable = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        self._handlers = {int(number): _handler_of(number) for number in settable}
        self._streams = _streams()
        self._base_bytes = resident_bytes()

    def loaded(self) -> None:
        """The App's code is loaded: what that took is not counted as left behind."""
        self._base_bytes = resident_bytes()

    def enter(self, workdir: int, output: int, env: Mapping[str, str]) -> None:
        """Make this the process of a Job; takes over both descriptors."""
        os.dup2(self._null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.fchdir(workdir)
        os.close(workdir)
        self._set_environ({os.fsencode(name): os.fsencode(value) for name, value in env.items()})
        if any(stream.closed for stream in self._streams):
            self._streams = _streams()
        sys.stdin, sys.stdout, sys.stderr = self._streams

    def leave(self) -> str:
        """Put everything back; why this process must not run another Job, empty when it may."""
        is_written = self._flush()
        reason = self._left_behind()
        for number in range(3):
            os.dup2(self._null, number)
        if not is_written:
            self._flush()  # what a full disk did not take is nothing for the next Job's output
        os.fchdir(self._root)
        os.umask(self._umask)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number, handler in self._handlers.items():
            if _handler_of(number) is not handler:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        return reason

    def _set_environ(self, more: Mapping[bytes, bytes]) -> None:
        """The environment as it was, and `more`."""
        os.environ = self._environ  # noqa: B003 - the App may have put another object in its place
        wanted = {**self._own_variables, **more}
        for name in self._variables.keys() - wanted.keys():
            del self._environ[os.fsdecode(name)]
        for name, value in wanted.items() - self._variables.items():
            self._environ[os.fsdecode(name)] = os.fsdecode(value)

    def _flush(self) -> bool:
        """Whether all that was printed is in the file."""
        is_written = True
        for stream in (sys.stdout, sys.stderr, *self._streams[1:]):
            try:
                stream.flush()
            except Exception:  # the App may have put anything in their place
                is_written = False
        return self._libc.fflush(None) == 0 and is_written

    def _left_behind(self) -> str:
        had_children, are_gone = kill_children()
        if not self._is_subreaper:
            return "this kernel does not let it adopt the orphans of a Job"
        if not are_gone:
            return "processes that do not end"
        if had_children:
            return "processes"
        if len(sys._current_frames()) > 1:
            return "threads"
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < self._base_bytes + MOST_GROWTH_BYTES:
            return ""  # it never had so much in use; that is asked in a tenth of the time
        growth = resident_bytes() - self._base_bytes
        return f"{growth >> 20} MiB more memory in use" if growth > MOST_GROWTH_BYTES else ""


def _streams() -> tuple[io.TextIOWrapper, io.TextIOWrapper, io.TextIOWrapper]:
    """sys.stdin, stdout and stderr over descriptors that stay open; what is printed is in the file with each line."""

    def text(number: int, mode: str) -> io.TextIOWrapper:
        raw = io.FileIO(number, mode, closefd=False)
        buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        errors = "strict" if number == 0 else "backslashreplace"
        return io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, line_buffering=True)

    return text(0, "r"), text(1, "w"), text(2, "w")


def kill_children() -> tuple[bool, bool]:
    """Kill every process below this one; whether any was alive, and whether all were seen gone."""
    had_any, deadline, pause = False, time.monotonic() + _LONGEST_CLEAN_SEC, 0.0005
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return had_any, True
        if pid:
            continue
        had_any = True
        if time.monotonic() >= deadline:
            return True, False
        for child in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _children() -> list[int]:
    """Processes whose parent is this one; what they leave becomes ours and is found in the next round."""
    own, found = str(os.getpid()).encode(), []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            with open(f"/proc/{entry.name}/stat", "rb") as file:  # noqa: PTH123 - one for each process there is
                stat = file.read()
        except OSError:
            continue
        if stat[stat.rindex(b")") + 2 :].split()[1] == own:
            found.append(int(entry.name))
    return found


def resident_bytes() -> int:
    """Memory that this process has in use."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - after every Job
        return int(file.read().split()[1]) * _PAGE_BYTES
