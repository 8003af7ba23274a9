"""Small files that come into place together: each whole and verified, then all made durable at once, then renamed.

Called by `receiving.py`. A disk takes many flushes in little more time than one, so they are asked for by several
threads; these end with their page. A file is not renamed before it is durable, and one in error hinders no other.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import Generic, Self, TypeVar

from balsam.transfer.destination import IncomingFile

T = TypeVar("T")
PAGE_FILES = 64  # open at once, each with its directory
_THREADS = 16


class Page(Generic[T]):
    """Files that wait for company. Use as a context manager: what is not settled at its end is gone."""

    def __init__(self) -> None:
        self._waiting: list[tuple[T, IncomingFile | None, Exception | None]] = []

    @property
    def is_empty(self) -> bool:
        """Whether no file is held."""
        return not self._waiting

    @property
    def is_full(self) -> bool:
        """Whether it is time to settle."""
        return len(self._waiting) >= PAGE_FILES

    def add(self, what: T, file: IncomingFile) -> None:
        """Take over a file that was checked."""
        self._waiting.append((what, file, None))

    def note(self, what: T, error: Exception | None) -> None:
        """Something that needs no place any more, told of in its turn."""
        self._waiting.append((what, None, error))

    def settle(self) -> Sequence[tuple[T, Exception | None]]:
        """Put all of them in place; what went wrong with each (None: it is there), in the order in which they came."""
        waiting, self._waiting = self._waiting, []
        files = [file for _, file, _ in waiting if file is not None]
        try:
            failed = _make_durable(files)
            return [(what, error if file is None else failed[file] or _put(file)) for what, file, error in waiting]
        finally:
            for file in files:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in [file for _, file, _ in self._waiting if file is not None]:
            file.remove()
            file.close()


def _put(file: IncomingFile) -> OSError | None:
    try:
        file.put()
    except OSError as error:
        return error
    return None


def _make_durable(files: Sequence[IncomingFile]) -> dict[IncomingFile, OSError | None]:
    """What went wrong with each."""
    left, outcomes = deque(files), dict[IncomingFile, OSError | None]()

    def work() -> None:
        while True:
            try:
                file = left.popleft()
            except IndexError:
                return
            try:
                file.make_durable()
            except OSError as error:
                outcomes[file] = error
            else:
                outcomes[file] = None

    threads: list[Thread] = []
    with suppress(RuntimeError):  # no more threads are to be had: this one does the rest
        for _ in range(min(_THREADS, len(files)) - 1):
            thread = Thread(target=work, name="balsam-flush", daemon=True)
            thread.start()
            threads.append(thread)
    work()
    for thread in threads:
        thread.join()
    return outcomes
