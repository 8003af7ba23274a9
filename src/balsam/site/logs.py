"""The agent's log: log/agent.log, rotated by size, and the terminal when it runs in one."""

import logging
import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler

from balsam.site.directory import SiteDirectory
from balsam.site.settings import LoggingSettings

LOG_FILE = "agent.log"
# Chatty libraries; their own warnings still come through.
_QUIET = ("httpcore2", "httpx2", "asyncio")


class _PrivateFile(RotatingFileHandler):
    """Its files are 0600 whatever the umask, which is left as it is for the Jobs."""

    def _open(self) -> TextIOWrapper:
        with suppress(FileExistsError):
            os.close(os.open(self.baseFilename, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return super()._open()


def start_logging(site: SiteDirectory, settings: LoggingSettings, *, terminal: bool) -> None:
    """Set up the log of this process. A disk that is full costs log lines, never the agent."""
    logging.raiseExceptions = False
    site.log.mkdir(mode=0o700, exist_ok=True)
    handlers: list[logging.Handler] = [
        _PrivateFile(
            site.log / LOG_FILE,
            maxBytes=settings.max_bytes,
            backupCount=settings.backup_count,
            encoding="utf-8",
            delay=True,
        )
    ]
    if terminal:
        handlers.append(logging.StreamHandler(sys.stderr))
    logging.basicConfig(
        level=settings.level, format=settings.format, datefmt=settings.datefmt, handlers=handlers, force=True
    )
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
