"""Running a program that moves files: its input, its lines as they come, its end when nobody wants it any more.

Called by the back ends of rsync and rclone, in the thread of a batch.
"""

import os
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from balsam.transfer.base import PeerRefused

_LOOK_SEC = 0.5
_END_SEC = 5.0
_READ_BYTES = 64 * 1024
MAX_SAID_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended; `said` is what it wrote to stderr, the beginning of it when that is long."""

    code: int
    said: Sequence[str]


def run_program(
    words: Sequence[str],
    environment: Mapping[str, str],
    given: bytes,
    heard: Callable[[bytes], object],
    is_wanted: Callable[[], bool],
    *,
    hears_stderr: bool = False,
) -> Ended:
    """Run it to its end. `heard` gets each line of stdout, ended by a newline or a carriage return; of stderr too when
    it `hears_stderr`, and then nothing is `said`.

    It is ended, with all that it started, as soon as `is_wanted` says no. Raises PeerRefused when it is not installed,
    OSError.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(given)
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                words,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if hears_stderr else stderr,
                env={**os.environ, **environment, "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        except FileNotFoundError:
            raise missing(words[0]) from None
        try:
            with process.stdout or stdin as stdout:
                _listen(stdout, heard, is_wanted)
            if is_wanted():
                process.wait()
        finally:
            _end(process)
        stderr.seek(0)
        said = stderr.read(MAX_SAID_BYTES).decode(errors="replace").splitlines()
    return Ended(process.returncode, [line for line in said if line.strip()])


def missing(program: str) -> PeerRefused:
    """What to say of a program that is not there."""
    return PeerRefused(f"{program} is not installed at the Site, or not on its agent's PATH", is_final=False)


def _listen(stdout: IO[bytes], heard: Callable[[bytes], object], is_wanted: Callable[[], bool]) -> None:
    """Until stdout ends, or nobody wants it any more."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while is_wanted():
            if not selector.select(_LOOK_SEC):
                continue
            piece = os.read(stdout.fileno(), _READ_BYTES)
            if not piece:
                return
            *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                heard(line)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """No process of it is left."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SEC)
            return
