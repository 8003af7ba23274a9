"""The SHA-256 of a file while it is sent already, and whether the service has that content.

Used by `blobs.py` for large inputs: a thread reads and hashes the file, faster than most networks take it. As soon as
it turns out that the content is there, nothing more of it needs to be sent.
"""

from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Self

from balsam.client.errors import BalsamError
from balsam.transfer.base import PeerAway, PeerRefused
from balsam.transfer.hashing import HashBeside


class HashAhead:
    """Begins with its context; at the end of that nothing is read any more."""

    def __init__(self, pieces: Iterator[bytes], look_up: Callable[[str], bool]) -> None:
        """`pieces` are read to their end; `look_up` says whether a content of this SHA-256 is there."""
        self.is_there = False
        self._pieces = pieces
        self._look_up = look_up
        self._digest = ""
        self._error: BaseException | None = None
        self._was_read = Event()
        self._unwanted = False
        self._thread = Thread(target=self._work, name="balsam-hash-ahead", daemon=True)

    def digest(self) -> str:
        """Waits for it. Raises what reading raised."""
        self._was_read.wait()
        if self._error is not None:
            raise self._error
        return self._digest

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._unwanted = True
        self._was_read.wait()  # what is read belongs to the caller

    def _work(self) -> None:
        try:
            self._read()
        except BaseException as error:
            self._error = error
        finally:
            self._was_read.set()
        if self._error is None and not self._unwanted:
            try:
                self.is_there = self._look_up(self._digest)
            except (BalsamError, PeerAway, PeerRefused):
                return  # then it is sent

    def _read(self) -> None:
        hashed = HashBeside()
        for piece in self._pieces:
            if self._unwanted:
                return
            hashed.update(piece)
        self._digest = hashed.hexdigest()
