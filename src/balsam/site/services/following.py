"""Followed files: requests that are answered when there is something new to read.

Part of `files.py`, in a thread of its own. Each request is looked at every 0.2 s, which bounds both how late a line is
told and how often a file is read; the service asks once for all who follow the same file.
"""

import logging
import threading
from collections.abc import Callable

from balsam.domain.clock import Clock
from balsam.site.service import ServiceAway
from balsam.wire.sites import FileReply, FileRequest

log = logging.getLogger(__name__)

TICK_SEC = 0.2
HOLD_SEC = 15.0  # then an empty answer, before the service gives the question up
MAX_FOLLOWED = 100


class Following:
    """Answers `follow` requests. `look` tells what is new, None while nothing is; `reply` may raise ServiceAway."""

    def __init__(
        self,
        look: Callable[[FileRequest], FileReply | None],
        reply: Callable[[str, FileReply], None],
        clock: Clock,
    ) -> None:
        self._look = look
        self._reply = reply
        self._clock = clock
        self._open: dict[str, tuple[FileRequest, float]] = {}  # with the time to give it up
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="balsam-following", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """No more answers; the service asks the next agent."""
        self._stopping.set()
        self._wake.set()

    def ask(self, request: FileRequest) -> None:
        """Take a request; returns at once. One above the limit is dropped, and said in the log (S16)."""
        with self._lock:
            if request.id in self._open:  # asked again after the stream broke
                return
            if len(self._open) >= MAX_FOLLOWED:
                log.warning("more than %d files are followed; request %s is dropped", MAX_FOLLOWED, request.id)
                return
            self._open[request.id] = (request, self._clock.monotonic() + HOLD_SEC)
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._open and not self._stopping.is_set():
                self.look_at_all()
                self._stopping.wait(TICK_SEC)
            if self._stopping.is_set():
                return

    def look_at_all(self) -> None:
        """Answer what can be answered now."""
        with self._lock:
            waiting = list(self._open.values())
        for request, give_up_at in waiting:
            try:
                found = self._look(request)
                if found is None and self._clock.monotonic() >= give_up_at:
                    found = FileReply(offset=request.offset, size_bytes=request.offset, file_id=request.file_id)
                if found is None:
                    continue
                self._reply(request.id, found)
            except ServiceAway:
                log.debug("the answer to file request %s did not get through", request.id)
            except Exception:
                log.exception("file request %s failed", request.id)
            with self._lock:
                self._open.pop(request.id, None)
