"""SHA-256 of what is moved, computed beside the moving.

Used where files of any size are sent and received: a thread hashes one batch of pieces while the next one is read from
or written to disk and network. Threads end with their batch, so that nothing is left when a transfer is given up, and
nothing is missing in a process that was forked.
"""

import hashlib
from collections.abc import Callable, Iterable
from threading import Thread
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from hashlib import _Hash

BATCH_BYTES = 2 * 1024 * 1024


class Hash(Protocol):
    """What a transfer needs of a hash."""

    def update(self, piece: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...

    def copy(self) -> Self: ...


class HashBeside:
    """As `hashlib.sha256()`; what is less than a batch is hashed at the end, without a thread.

    >>> digest = HashBeside()
    >>> digest.update(b"energies")
    >>> digest.hexdigest() == hashlib.sha256(b"energies").hexdigest()
    True
    """

    def __init__(self) -> None:
        self._hashed: _Hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._thread: Thread | None = None

    def update(self, piece: bytes, /) -> None:
        """Take the next piece, which must not change any more; waits for the batch before the last one."""
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        if self._waiting_bytes >= BATCH_BYTES:
            self._settle()
            self._thread = Thread(target=_hash, args=(self._hashed, self._take()), name="balsam-hash", daemon=True)
            self._thread.start()

    def hexdigest(self) -> str:
        """Of all pieces up to now."""
        self._finish()
        return self._hashed.hexdigest()

    def copy(self) -> "HashBeside":
        """One that goes on by itself."""
        self._finish()
        other = HashBeside()
        other._hashed = self._hashed.copy()
        return other

    def _finish(self) -> None:
        self._settle()
        _hash(self._hashed, self._take())

    def _take(self) -> list[bytes]:
        pieces, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return pieces

    def _settle(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


class KnownHash:
    """In place of a hash where the digest is known already, or found out elsewhere."""

    def __init__(self, digest: Callable[[], str]) -> None:
        """`digest` may wait, and raise."""
        self._digest = digest

    def update(self, piece: bytes, /) -> None:
        """Nothing to do."""

    def hexdigest(self) -> str:
        """The digest that was given."""
        return self._digest()

    def copy(self) -> "KnownHash":
        """The same."""
        return self


def _hash(hashed: "_Hash", pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        hashed.update(piece)
