"""Calls and answers of Python Jobs that run in processes of their own: files of this partition, for its eyes only.

Used by the starter and by `children.py`. The directory is in that of the BatchJob, which every node sees; what an
earlier launcher left in it is removed, since its Jobs are gone.
"""

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from balsam.launcher.machine_messages import LaunchJob
from balsam.worker.protocol import (
    ANSWER,
    ERROR,
    MOST_ANSWER_BYTES,
    PROTOCOL,
    SEEN,
    Answer,
    Call,
    checked_answer,
    encode,
)


@dataclass(frozen=True, slots=True)
class Left:
    """What the ranks of a Job left: an answer or an error, and whether any of them got as far as reading its call."""

    answer: Answer | None
    error: Answer | None
    was_seen: bool


class CallFiles:
    """The directory. It is made when it is needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = f"{directory}/"
        self._is_made = False

    def path_of(self, job: LaunchJob) -> str:
        """Where the call of this Job's next attempt goes."""
        return f"{self._prefix}{job.id}.{job.attempt}"

    def write(self, path: str, call: Call) -> None:
        """Write a call. Raises OSError."""
        if not self._is_made:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._is_made = True
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(encode({**call, "protocol": PROTOCOL}))

    def take(self, path: str) -> Left:
        """Read what is there and remove it all."""
        found = Left(_read(path + ANSWER), _read(path + ERROR), os.path.exists(path + SEEN))  # noqa: PTH110
        self.remove(path)
        return found

    def remove(self, path: str) -> None:
        """Remove a call with all that belongs to it, drafts too, as far as that is possible now."""
        name = os.path.basename(path)  # noqa: PTH119
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(self._directory)):
                if entry.name == name or entry.name.startswith(f"{name}."):
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)  # noqa: PTH108


def _read(path: str) -> Answer | None:
    """Code of the Job could write there: what is no answer is none."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            text = file.read(MOST_ANSWER_BYTES + 1)
        return checked_answer(text) if len(text) <= MOST_ANSWER_BYTES else None
    except (OSError, ValueError):
        return None
