"""What one try to reach the server found out holds for everybody who waited for it.

Shared by the readers, the writer and the teller of a process. Without it each of the requests that queued while the
server is away would try again for seconds, one after another, long after their callers have gone.
"""

import time
from collections.abc import Callable

from balsam.server.store.postgres.connection import Connection, Unreachable


class Outage:
    """When this process last failed to reach the server, and why."""

    def __init__(self) -> None:
        self._noted_at = float("-inf")
        self._text = ""

    def note(self, error: Unreachable) -> None:
        """A try failed."""
        self._text, self._noted_at = error.message, time.monotonic()

    def connected(self, asked_at: float, connect: Callable[[], Connection]) -> Connection:
        """What `connect` makes. Raises Unreachable, without a try for who has waited since before the last one."""
        self.check(asked_at)
        try:
            return connect()
        except Unreachable as error:
            self.note(error)
            raise

    def check(self, asked_at: float) -> None:
        """Raises Unreachable for who has been waiting since before the last try failed (time.monotonic)."""
        if asked_at <= self._noted_at:
            raise Unreachable(self._text)
