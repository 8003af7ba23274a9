"""The launcher's end of the two pipes between it and its guardian.

Used by the launcher's loop. One pipe tells the launcher that the guardian died (end of file: only the guardian holds
its write end); through the other the launcher says until when its lease holds, one JSON line each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import MutableMapping

LINK_ENV = "BALSAM_GUARDIAN_FDS"


class GuardianLink:
    """The launcher's end: knows when the guardian is gone, and tells it until when the lease holds.

    `fileno()` becomes readable (end of file) when the guardian dies; the launcher must then kill its ranks and exit.
    """

    def __init__(self, alive_fd: int, renew_fd: int) -> None:
        self._alive_fd, self._renew_fd = alive_fd, renew_fd
        for fd in (alive_fd, renew_fd):
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str] = os.environ) -> GuardianLink | None:
        """Take the pipes a guardian left in `environ` (and remove them from it); None without a guardian."""
        value = environ.pop(LINK_ENV, None)
        if value is None:
            return None
        alive_fd, renew_fd = value.split(",")
        return cls(int(alive_fd), int(renew_fd))

    def fileno(self) -> int:
        """The descriptor to watch for reading."""
        return self._alive_fd

    def guardian_is_gone(self) -> bool:
        """True once the guardian died."""
        try:
            return os.read(self._alive_fd, 1) == b""
        except BlockingIOError:
            return False

    def renew(self, lease_until: float | None) -> bool:
        """Tell the guardian that the lease holds until `lease_until` (CLOCK_MONOTONIC seconds; None: no deadline).

        False when it could not be told (it is gone, or was frozen until the pipe was full): the old deadline stands.
        """
        line = json.dumps({"lease_until": lease_until}).encode() + b"\n"
        try:
            return os.write(self._renew_fd, line) == len(line)
        except (BlockingIOError, BrokenPipeError):
            return False

    def close(self) -> None:
        """Close both pipes."""
        os.close(self._alive_fd)
        os.close(self._renew_fd)
