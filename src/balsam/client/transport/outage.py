"""Tells the user of an outage: once when it begins, once when it is over, however many calls and threads meet it."""

import logging
import os
import threading

from balsam.client.transport.retry import Failure

logger = logging.getLogger("balsam.client")


class Outage:
    """Tells the user once that the service is away, and once that it is back."""

    def __init__(self) -> None:
        self._away = False
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def began(self, url: str, failure: Failure) -> None:
        if self._turn(True):
            what = "can't be reached" if failure.retry_after_sec is None else "can't answer now"
            logger.warning("service at %s %s: %s; retrying", url, what, failure.reason)

    def ended(self, url: str) -> None:
        if self._away and self._turn(False):
            logger.warning("service at %s is back", url)

    def _turn(self, away: bool) -> bool:
        if self._pid != os.getpid():  # forked while a thread held it
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            changed = self._away is not away
            self._away = away
        return changed
