"""The end of a log, for the message about a process that did not start. Used by `balsam up` and `balsam server up`."""

from pathlib import Path

MAX_BYTES = 64 * 1024  # a log of months is not read as a whole
LINES = 15


def log_tail(path: Path) -> str:
    """The last lines, of a log of whatever size; empty when there is none."""
    from balsam.launcher.workdir import end_of_file

    text = (end_of_file(path, MAX_BYTES) or b"").decode(errors="replace")
    return "\n".join(text.splitlines()[-LINES:])
