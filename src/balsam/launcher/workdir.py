"""Work directories of Jobs: made and entered below the Site's data directory and nowhere else, with their output files.

Called by the launcher when it starts a Job. The path was checked by the service; it is checked again here, and opened
component by component without following links (S15), so that nothing in the data directory leads out of it.
"""

import errno
import os
import re
import stat
from pathlib import Path

from balsam.domain.paths import BadPath, contained

OUTPUT_NAME = "job.out"
TAIL_BYTES = 4096
PROOF_BYTES = 65536
_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class WorkdirError(Exception):
    """The work directory can't be used; the text says which and why."""


class DataRoot:
    """The Site's data directory, opened. It may itself be a link (to a scratch file system)."""

    def __init__(self, path: Path) -> None:
        """Raises WorkdirError."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise WorkdirError(f"the data directory {path} can't be used: {error.strerror}") from error

    def enter(self, workdir: str) -> tuple[int, bool]:
        """Open a work directory, made if need be; returns a descriptor that the caller closes, and whether it was made.

        Raises WorkdirError.
        """
        return self._enter(workdir, make=True)

    def _enter(self, workdir: str, make: bool) -> tuple[int, bool]:
        try:
            parts = contained(workdir).split("/")
        except BadPath as error:
            raise WorkdirError(str(error)) from error
        fd, is_new = self._fd, False
        try:
            for number, part in enumerate(parts, 1):
                inner, is_new = _descend(fd, part, make, is_last=number == len(parts))
                if fd != self._fd:
                    os.close(fd)
                fd = inner
        except OSError as error:
            if fd != self._fd:
                os.close(fd)
            what = "/".join(parts[:number])
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise WorkdirError(
                    f"work directory {workdir}: {what} in {self.path} is a link or a file; "
                    "every part of it must be a real directory"
                ) from error
            raise WorkdirError(f"work directory {what} in {self.path} can't be made: {error.strerror}") from error
        return fd, is_new

    def output_has_not(self, workdir: str, text: bytes) -> bool:
        """Whether a Job's whole output is known not to have this text: it is small, and can be read."""
        data = self._end_of_output(workdir, PROOF_BYTES + 1)
        return data is not None and len(data) <= PROOF_BYTES and text not in data

    def output_says(self, workdir: str, pattern: bytes) -> bool:
        """Whether a line near the end of a Job's output is like this."""
        data = self._end_of_output(workdir, PROOF_BYTES)
        return data is not None and re.search(pattern, data, re.MULTILINE) is not None

    def tail(self, workdir: str, lines: int) -> str:
        """The last lines of a Job's output, at most 4 KiB; empty when there is none."""
        data = self._end_of_output(workdir, TAIL_BYTES) if lines >= 1 else None
        text = (data or b"").decode(errors="replace").replace("\0", "\ufffd").rstrip("\n")
        return "\n".join(text.split("\n")[-lines:])

    def _end_of_output(self, workdir: str, size_bytes: int) -> bytes | None:
        """At most so much of the end; None when there is no output that can be read."""
        try:
            directory, _ = self._enter(workdir, make=False)
        except WorkdirError:
            return None
        try:
            return end_of_file(OUTPUT_NAME, size_bytes, directory)
        finally:
            os.close(directory)


def end_of_file(path: str | Path, size_bytes: int, directory: int | None = None) -> bytes | None:
    """At most so much of a file's end; None when it is no plain file, or can't be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        return os.pread(fd, size_bytes, max(0, status.st_size - size_bytes))
    except OSError:
        return None
    finally:
        os.close(fd)


def keep_earlier_output(directory: int, attempt: int) -> None:
    """Rename the output of an earlier attempt to `job.out.N`, the first N that is free. Raises WorkdirError."""
    if not _exists(OUTPUT_NAME, directory):
        return
    number = max(1, attempt - 1)
    while _exists(f"{OUTPUT_NAME}.{number}", directory):
        number += 1
    try:
        os.rename(OUTPUT_NAME, f"{OUTPUT_NAME}.{number}", src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        raise WorkdirError(f"{OUTPUT_NAME} of the earlier attempt can't be kept: {error.strerror}") from error


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _descend(directory: int, part: str, make: bool, is_last: bool) -> tuple[int, bool]:
    # The last one is new as a rule, the others are there as a rule: the likelier call goes first.
    is_new = make and is_last and _make(part, directory)
    try:
        return os.open(part, _OPEN, dir_fd=directory), is_new
    except FileNotFoundError:
        if not make:
            raise
    is_new = _make(part, directory)
    return os.open(part, _OPEN, dir_fd=directory), is_new


def _make(part: str, directory: int) -> bool:
    try:
        os.mkdir(part, dir_fd=directory)
    except FileExistsError:
        return False
    return True
