"""The service's blobs over HTTP, both ways: sending and receiving that goes on where a connection broke.

The Site's agent and the SDK give it to `transfer`, which knows no HTTP. An upload is hashed on the way; with
`hash_first` content is hashed before, and what the service has already is not sent (inputs that many Jobs share); a
large file is hashed while it is sent.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from random import Random, SystemRandom
from typing import TypeVar

from balsam.client.errors import (
    BalsamError,
    Conflict,
    Forbidden,
    NotFound,
    ServiceFault,
    ServiceUnavailable,
    StorageFull,
    Unauthorized,
    WireVersionMismatch,
)
from balsam.client.hash_ahead import HashAhead
from balsam.client.transport.bulk import receive_pieces, send_pieces
from balsam.client.transport.retry import Attempts, Failure
from balsam.client.transport.transport import Transport
from balsam.transfer.base import PeerAway, PeerRefused
from balsam.transfer.hashing import Hash, HashBeside, KnownHash
from balsam.transfer.sending import Reader
from balsam.wire.blobs import MAX_LOOK_UP, BlobPart, BlobsLookUp, BlobsPresent, UploadPiece, UploadState

T = TypeVar("T")
PIECE_BYTES = 64 * 1024 * 1024  # of one call; small enough for a proxy that keeps a body before it passes it on
HASH_FIRST_BYTES = 64 * 1024 * 1024  # larger ones are sent meanwhile
PATIENCE_SEC = 10.0
OFFSET = "upload_offset"


class ServiceBlobs:
    """BlobSink and BlobSource of one client. `patience_sec`: how long breaks are borne in which nothing gets on."""

    def __init__(
        self,
        transport: Transport,
        *,
        hash_first: bool = False,
        patience_sec: float = PATIENCE_SEC,
        random: Random | None = None,
    ) -> None:
        self._transport = transport
        self._hash_first = hash_first
        self._patience_sec = patience_sec
        self._random = random or SystemRandom()

    def present(self, hashes: Iterable[str]) -> set[str]:
        """Those that need not be sent. They stay for an hour at least."""
        wanted, found = list(dict.fromkeys(hashes)), set[str]()
        for start in range(0, len(wanted), MAX_LOOK_UP):
            body = BlobsLookUp(sha256=wanted[start : start + MAX_LOOK_UP])
            found.update(self._persist(partial(_look_up, self._transport, body, self._patience_sec)))
        return found

    def send_bytes(self, sha256: str, content: bytes) -> None:
        """See BlobSink."""
        if self._hash_first and self.present([sha256]):
            return
        path, query = f"/blobs/uploads/{sha256}", UploadPiece(offset=0, size_bytes=len(content), sha256=sha256)

        def send() -> None:
            try:
                send_pieces(self._transport, path, query, [content], len(content), UploadState)
            except Conflict:  # an upload of this name was broken off: it is small, so it begins anew
                _drop(self._transport, sha256, self._patience_sec)
                raise

        self._persist(send)

    def send_stream(self, name: str, size_bytes: int, read: Reader) -> str:
        """See BlobSink."""
        if not self._hash_first:
            return self._send_stream(name, size_bytes, read, HashBeside)
        if size_bytes > HASH_FIRST_BYTES:
            return self._send_beside(name, size_bytes, read)
        digest = _digest(read(0))
        if self.present([digest]):
            return digest
        return self._send_stream(name, size_bytes, read, partial(KnownHash, lambda: digest))

    def _send_beside(self, name: str, size_bytes: int, read: Reader) -> str:
        """Send while it is hashed, until the service turns out to have it."""
        with HashAhead(read(0), lambda digest: bool(self.present([digest]))) as ahead:

            def read_unless_there(offset: int) -> Iterator[bytes]:
                for piece in read(offset):
                    if ahead.is_there:
                        raise _IsThere
                    yield piece

            try:
                return self._send_stream(name, size_bytes, read_unless_there, partial(KnownHash, ahead.digest))
            except _IsThere:
                self._persist(partial(_drop, self._transport, name, self._patience_sec))
            except PeerRefused:
                if not self.present([ahead.digest()]):  # there is no room for it, and none is needed
                    raise
            return ahead.digest()

    def _send_stream(self, name: str, size_bytes: int, read: Reader, fresh: Callable[[], Hash]) -> str:
        upload = _StreamUpload(self._transport, name, size_bytes, read, self._patience_sec, fresh)
        return self._persist(upload.go_on, lambda: upload.received_bytes)

    def read(self, sha256: str, offset: int, length: int) -> Iterator[bytes]:
        """See BlobSource."""
        received, patience = 0, self._patience()
        while received < length:
            query, before = BlobPart(offset=offset + received, length=length - received), received
            try:
                for piece in receive_pieces(self._transport, f"/blobs/{sha256}", query):
                    received += len(piece)
                    yield piece
            except BalsamError as error:
                patience.bear(error, received)
            else:
                if received == before:  # whoever wrote the list of files may have said more of the blob than there is
                    why = f"its content ends at {offset + received}, where {length - received} bytes more should be"
                    raise PeerRefused(why, is_final=True)

    def _persist(self, work: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        patience = self._patience()
        while True:
            try:
                return work()
            except BalsamError as error:
                patience.bear(error, progress())

    def _patience(self) -> "_Patience":
        return _Patience(self._transport, self._patience_sec, self._random)


class _IsThere(Exception):
    """What is being sent needs not be sent."""


class _Patience:
    """How many breaks are borne: begun anew whenever something got on."""

    def __init__(self, transport: Transport, seconds: float, random: Random) -> None:
        self._transport = transport
        self._seconds = seconds
        self._random = random
        self._progress = 0
        self._attempts = self._new_attempts()

    def bear(self, error: BalsamError, progress: int) -> None:
        """Pause after a break. Raises PeerAway when there were too many, PeerRefused when it was none."""
        if not isinstance(error, ServiceUnavailable) and error.code != OFFSET:
            raise _refused(error) from error
        if progress > self._progress:
            self._progress, self._attempts = progress, self._new_attempts()
        pause = self._attempts.failed(Failure(str(error), maybe_done=True), self._transport.now())
        if pause is None or self._transport.is_closed:
            raise PeerAway(str(error)) from error
        self._transport.sleep(pause)

    def _new_attempts(self) -> Attempts:
        return Attempts(True, self._transport.now() + self._seconds, self._random)


class _StreamUpload:
    """One upload of any size. The hash follows what was sent; after a break it goes back to what has arrived.

    `fresh` makes a hash of nothing yet, or one that knows its end: the service compares it with what arrived.
    """

    def __init__(
        self,
        transport: Transport,
        name: str,
        size_bytes: int,
        read: Reader,
        patience_sec: float,
        fresh: Callable[[], Hash],
    ) -> None:
        self.received_bytes = 0
        self._transport = transport
        self._patience_sec = patience_sec
        self._path = f"/blobs/uploads/{name}"
        self._size_bytes = size_bytes
        self._read = read
        self._fresh = fresh
        self._hashed = fresh()
        self._hashed_bytes = 0
        self._mark = (0, self._hashed.copy())  # before the piece that is being sent

    def go_on(self) -> str:
        """Send what is missing; the SHA-256 of the whole."""
        if self._hashed_bytes == self._size_bytes and self._is_there():
            return self._hashed.hexdigest()  # it was completed, and the answer was lost
        state = self._transport.request("GET", self._path, reply=UploadState, deadline_sec=self._patience_sec)
        self.received_bytes = state.received_bytes
        self._seek(self.received_bytes)
        while self.received_bytes < self._size_bytes:
            length = min(PIECE_BYTES, self._size_bytes - self.received_bytes)
            self._mark = (self._hashed_bytes, self._hashed.copy())
            query = UploadPiece(offset=self.received_bytes, size_bytes=self._size_bytes)
            state = send_pieces(self._transport, self._path, query, self._pieces(length), length, UploadState)
            self.received_bytes = state.received_bytes
        return self._complete()

    def _complete(self) -> str:
        sha256 = self._hashed.hexdigest()
        query = UploadPiece(offset=self._size_bytes, size_bytes=self._size_bytes, sha256=sha256)
        send_pieces(self._transport, self._path, query, [], 0, UploadState)
        return sha256

    def _is_there(self) -> bool:
        body = BlobsLookUp(sha256=[self._hashed.hexdigest()])
        return bool(_look_up(self._transport, body, self._patience_sec))

    def _seek(self, offset: int) -> None:
        """Bring the hash to `offset`."""
        if offset < self._hashed_bytes:
            position, hashed = self._mark if self._mark[0] <= offset else (0, self._fresh())
            self._hashed_bytes, self._hashed = position, hashed.copy()
        if isinstance(self._hashed, KnownHash):
            self._hashed_bytes = offset
        for _ in self._pieces(offset - self._hashed_bytes):
            continue

    def _pieces(self, length: int) -> Iterator[bytes]:
        """The next bytes, which are hashed with that."""
        left = length
        if not left:
            return
        for piece in self._read(self._hashed_bytes):
            piece = piece[:left]
            self._hashed.update(piece)
            self._hashed_bytes += len(piece)
            left -= len(piece)
            yield piece
            if not left:
                return


def _digest(pieces: Iterator[bytes]) -> str:
    digest = HashBeside()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _drop(transport: Transport, name: str, patience_sec: float) -> None:
    """Give an upload up."""
    transport.request("DELETE", f"/blobs/uploads/{name}", deadline_sec=patience_sec)


def _look_up(transport: Transport, body: BlobsLookUp, patience_sec: float) -> list[str]:
    reply = transport.request(
        "POST", "/blobs/look-up", body=body, reply=BlobsPresent, safe_to_repeat=True, deadline_sec=patience_sec
    )
    return reply.present


def _refused(error: BalsamError) -> Exception:
    """In the words of `transfer`. A token that is refused is no fault of the file."""
    if isinstance(error, Unauthorized | Forbidden | ServiceFault | WireVersionMismatch):
        return PeerAway(str(error))
    if isinstance(error, NotFound):
        return PeerRefused("its content is not kept at the service any more; submit the Job anew", is_final=True)
    return PeerRefused(str(error), is_final=not isinstance(error, StorageFull) and error.code != "checksum_mismatch")
