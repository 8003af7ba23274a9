"""The agent's log: log/agent.log, rotated by size, and the terminal when it runs in one."""

import logging
import sys
from logging.handlers import RotatingFileHandler

from balsam.site.directory import SiteDirectory
from balsam.site.settings import LoggingSettings

LOG_FILE = "agent.log"
# Chatty libraries; their own warnings still come through.
_QUIET = ("httpcore2", "httpx2", "asyncio")


def start_logging(site: SiteDirectory, settings: LoggingSettings, *, terminal: bool) -> None:
    """Set up the log of this process. A disk that is full costs log lines, never the agent."""
    logging.raiseExceptions = False
    site.log.mkdir(mode=0o700, exist_ok=True)
    handlers: list[logging.Handler] = [
        RotatingFileHandler(
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
