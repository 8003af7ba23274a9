"""The listening socket goes from hand to hand: from a service manager to a service, from a service to its successor.

Used by run.py and workers.py. A service that is told SIGUSR2 drains and then becomes the program that is installed
now: the same process, with the same socket. Promises: the socket is never closed in between, so that a connection
waits and is not refused; workers of the predecessor answer until those of the successor do.
"""

import os
import socket
import sys
from dataclasses import dataclass, replace
from typing import NoReturn

from balsam.server.settings import ServerSettings, SettingsError

FIRST_FD = 3  # sd_listen_fds(3)
_MANAGER = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_PREDECESSOR = "BALSAM_PREDECESSOR"


@dataclass(frozen=True, slots=True)
class Predecessor:
    """What a service leaves to its successor: its workers, and the pipes whose end would tell them to stop."""

    alive_writers: tuple[int, ...] = ()
    workers: tuple[int, ...] = ()


def inherited_socket() -> socket.socket | None:
    """The socket that a service manager or a predecessor gave to this process. Raises SettingsError for a wrong one."""
    given = {name: os.environ.pop(name, "") for name in _MANAGER}
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdecimal():
        return None
    if given["LISTEN_FDS"] != "1":
        raise SettingsError(f"{given['LISTEN_FDS']} sockets were handed over; the service listens on one")
    os.set_inheritable(FIRST_FD, False)
    sock = socket.socket(fileno=FIRST_FD)
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or not sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        raise SettingsError("the socket that was handed over does not listen for TCP; use ListenStream=ADDRESS:PORT")
    sock.setblocking(False)
    return sock


def settings_on(sock: socket.socket, settings: ServerSettings) -> ServerSettings:
    """The settings, with the address that the socket really has: what they must not allow depends on it."""
    host, port = sock.getsockname()[:2]
    return replace(settings, host=host, port=port)


def take_predecessor() -> Predecessor | None:
    """What the service left that was this process before; None for a start out of nothing."""
    left = os.environ.pop(_PREDECESSOR, None)
    if left is None:
        return None
    pipes, _, pids = left.partition(":")
    found = Predecessor(_numbers(pipes), _numbers(pids))
    for pipe in found.alive_writers:
        os.set_inheritable(pipe, False)
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",") if word)


def become_successor(sock: socket.socket, left: Predecessor) -> NoReturn:
    """Start the program of this process anew, with the socket."""
    pipes = [os.dup(pipe) if pipe == FIRST_FD else pipe for pipe in left.alive_writers]
    for pipe in pipes:
        os.set_inheritable(pipe, True)
    os.environ[_PREDECESSOR] = f"{','.join(map(str, pipes))}:{','.join(map(str, left.workers))}"
    if sock.fileno() == FIRST_FD:
        os.set_inheritable(FIRST_FD, True)
    else:
        os.dup2(sock.fileno(), FIRST_FD)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the words this process began with
