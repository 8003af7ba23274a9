"""Process groups: start a command, learn of its end, kill it. The only place of the launcher that starts processes.

Called by the launcher's loop, which has one thread. Every command gets a session and group of its own, one output file
for stdout and stderr, default signals and no inherited descriptors. `spawn` takes the quick way (posix_spawn) while the
process has one thread and falls back on `subprocess` otherwise; both behave alike, but that the second cannot undo
signals the launcher itself was started with ignored. What a command leaves behind is the business of `sweep.py`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

# The shell's own answers, so that a command run without a shell ends as it would have in one.
EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126
EXIT_SIGNAL_BASE = 128

# A link in the place of the output file would lead out of the work directory.
_OUTPUT_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY | os.O_NOFOLLOW
_DEFAULT_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
# The machine is short of something; the command itself is not to blame.
_SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


class Command(NamedTuple):
    """What to run. `cwd` is absolute; `stdout` (stdout and stderr, appended to) may be relative to it. `cwd_fd` is the
    opened `cwd`, when that was checked and must not be looked up again. `stdin_fd` becomes its standard input; None:
    nothing to read.

    `argv[0]` without a slash is searched on the PATH of `env`, which is the whole environment (PWD is added).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    stdout: str
    cwd_fd: int | None = None
    stdin_fd: int | None = None


class Child(NamedTuple):
    """A started command. `pidfd` becomes readable at its end; take it out of epoll before `close_child`."""

    pid: int
    pidfd: int

    @property
    def group(self) -> int:
        """Number of its process group, which is also that of its session."""
        return self.pid


class ExitStatus(NamedTuple):
    """How a command ended: `code` as a shell would give it (128 + n after signal n), `signal` n or None."""

    code: int
    signal: int | None = None
    dumped_core: bool = False

    def describe(self) -> str:
        """For people: "exit code 3", "killed by SIGSEGV (core dumped)"."""
        if self.signal is None:
            return f"exit code {self.code}"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            name = f"signal {self.signal}"
        return f"killed by {name}{' (core dumped)' if self.dumped_core else ''}"


class CommandError(Exception):
    """The command cannot be executed, as a shell would find too; its output file says so. `exit_code` is 126 or 127."""

    def __init__(self, exit_code: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class SpawnError(Exception):
    """Nothing was started, and the command is not to blame: no such directory, disk full, too many processes.

    `shortage`: of processes, memory or descriptors; it may work later.
    """

    def __init__(self, message: str, shortage: bool = False) -> None:
        super().__init__(message)
        self.shortage = shortage


def is_shortage(error: BaseException | None) -> bool:
    """Whether the machine has not enough processes, memory or descriptors for it now."""
    return isinstance(error, OSError) and error.errno in _SHORTAGES


def spawn(command: Command) -> Child:
    """Start `command`. Raises CommandError or SpawnError; then no process is left."""
    # The quick way changes what belongs to the whole process for a moment: not safe beside a second thread.
    start = _start_quickly if threading.active_count() == 1 else _start_with_subprocess
    try:
        program = _find_program(command.argv[0], command)
        try:
            pid = start(command, program, command.argv)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without a first line that names its interpreter: a shell runs it itself.
            pid = start(command, _find_program("bash", command), ("bash", program, *command.argv[1:]))
    except OSError as error:
        _blame(command, error)
    except ValueError as error:
        _refuse(command, EXIT_NOT_EXECUTABLE, f"cannot pass an argument or variable on: {error}")
    try:
        return Child(pid, os.pidfd_open(pid))
    except OSError as error:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise SpawnError(f"cannot watch a new process: {error.strerror}", is_shortage(error)) from error


def _start_quickly(command: Command, program: str, argv: tuple[str, ...]) -> int:
    stdin: tuple[Any, ...] = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    if command.stdin_fd is not None:
        stdin = (os.POSIX_SPAWN_DUP2, command.stdin_fd, 0)
    actions = (
        stdin,
        (os.POSIX_SPAWN_OPEN, 1, command.stdout, _OUTPUT_FLAGS, 0o666),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    )
    env = {**command.env, "PWD": command.cwd}
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir(command.cwd if command.cwd_fd is None else command.cwd_fd)
        return os.posix_spawn(
            program, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_DEFAULT_SIGNALS
        )
    finally:
        os.fchdir(here)
        os.close(here)


def _start_with_subprocess(command: Command, program: str, argv: tuple[str, ...]) -> int:
    output = _open_output(command)
    try:
        process = subprocess.Popen(
            argv,
            executable=program,
            env={**command.env, "PWD": command.cwd},
            cwd=command.cwd if command.cwd_fd is None else f"/proc/self/fd/{command.cwd_fd}",
            stdin=subprocess.DEVNULL if command.stdin_fd is None else command.stdin_fd,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    finally:
        os.close(output)
    # We wait for it ourselves: without this, subprocess would take its status when the object is collected.
    process.returncode = 0
    return process.pid


def _find_program(name: str, command: Command) -> str:
    """Search PATH as a shell does: the first executable file, else the first file, else it is not found."""
    if "/" in name:
        return name
    second_best = None
    for directory in command.env.get("PATH", os.defpath).split(":"):
        path = f"{directory or '.'}/{name}"
        if path[0] != "/":
            path = f"{command.cwd}/{path}"
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116 - once for every started command; a Path costs ten times that
        except OSError:
            continue
        if stat.S_ISREG(mode):
            if os.access(path, os.X_OK):
                return path
            second_best = second_best or path
    if second_best is None:
        raise FileNotFoundError(errno.ENOENT, "command not found")
    return second_best


def _open_output(command: Command) -> int:
    if command.cwd_fd is not None:
        return open_output(command.stdout, command.cwd_fd)
    return open_output(_output_path(command), None)


def open_output(name: str, directory: int | None) -> int:
    """Open an output file as a command gets it; `directory` is an opened one that it is in. Raises OSError."""
    return os.open(name, _OUTPUT_FLAGS | os.O_CLOEXEC, 0o666, dir_fd=directory)


def _output_path(command: Command) -> str:
    return command.stdout if command.stdout.startswith("/") else f"{command.cwd}/{command.stdout}"


def _blame(command: Command, error: OSError) -> NoReturn:
    """Tell apart what posix_spawn reports alike: a bad command, a bad directory or output file, a shortage."""
    reason = error.strerror or str(error)
    if is_shortage(error):
        raise SpawnError(f"cannot start a process: {reason}", shortage=True) from error
    try:
        os.close(os.open(command.cwd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as failure:
        text = f"cannot enter the work directory {command.cwd}: {failure.strerror}"
        raise SpawnError(text, is_shortage(failure)) from failure
    _refuse(command, EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_EXECUTABLE, reason)


def _refuse(command: Command, exit_code: int, reason: str) -> NoReturn:
    text = f"{command.argv[0]}: {reason}"
    path = _output_path(command)
    try:
        fd = _open_output(command)
    except OSError as failure:
        raise SpawnError(f"cannot write the output file {path}: {failure.strerror}", is_shortage(failure)) from failure
    try:
        os.write(fd, f"balsam: {text}\n".encode(errors="backslashreplace"))
    except OSError as failure:
        raise SpawnError(f"cannot write the output file {path}: {failure.strerror}") from failure
    finally:
        os.close(fd)
    raise CommandError(exit_code, text)


def spawn_worker(argv: list[str], inherited_fd: int) -> Child:
    """Start a process of the launcher's own, in a session of its own, which inherits stderr and `inherited_fd`.

    Raises SpawnError.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(inherited_fd,),
            start_new_session=True,
        )
        process.returncode = 0
        return Child(process.pid, os.pidfd_open(process.pid))
    except OSError as error:
        raise SpawnError(f"cannot start {argv[0]}: {error.strerror}", is_shortage(error)) from error


def reap(child: Child) -> ExitStatus | None:
    """Collect the end of `child`; None while it runs. To be called once with a result."""
    info = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
    if info is None:
        return None
    if info.si_code == os.CLD_EXITED:
        return ExitStatus(info.si_status)
    return ExitStatus(EXIT_SIGNAL_BASE + info.si_status, info.si_status, info.si_code == os.CLD_DUMPED)


def close_child(child: Child) -> None:
    """Close the pidfd of a reaped child, after epoll has forgotten it."""
    os.close(child.pidfd)


def terminate(group: int) -> None:
    """Ask a process group to end: SIGTERM, and SIGCONT so that stopped members hear it."""
    signal_group(group, signal.SIGTERM)
    signal_group(group, signal.SIGCONT)


def kill(group: int) -> None:
    """SIGKILL a process group. As `terminate`: only while its leader is not reaped or `group_exists` just said so."""
    signal_group(group, signal.SIGKILL)


def send(child: Child, number: signal.Signals) -> None:
    """Signal the command itself, and nothing that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(child.pidfd, number)


def signal_group(group: int, number: signal.Signals) -> None:
    """Signal a process group; under the same condition as `kill`."""
    # A group whose members all changed user can't be signalled; the sweep reports them as alive.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def group_exists(group: int) -> bool:
    """True while a process, living or not yet collected, belongs to the group. Costs one system call."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
