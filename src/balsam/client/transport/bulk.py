"""Large bodies, both ways, in constant memory: sent out of an iterator, received as one.

One try each, because only the caller knows where to go on after a break: `client/blobs.py` asks the service how far an
upload is, and reads on from where a download ended. Raises ServiceUnavailable when the way to the service broke, else
what `Transport.request` would raise.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from balsam.client.errors import ServiceUnavailable
from balsam.client.transport.codec import error_of, parse, target_of
from balsam.client.transport.link import LinkError, RawReply, RawRequest
from balsam.client.transport.retry import MAYBE_DONE, REFUSED_UNTOUCHED
from balsam.client.transport.transport import Transport
from balsam.wire import API_PREFIX
from balsam.wire.base import Message

T = TypeVar("T")
SLOWEST_BYTES_PER_SEC = 10_000  # a slower line can't send a piece in one call
ANSWER_SEC = 600.0  # hashing and flushing what was sent may take the service its time


def send_pieces(
    transport: Transport, path: str, query: Message, pieces: Iterable[bytes], length: int, reply: type[T]
) -> T:
    """PUT a body of `length` bytes that is made while it is sent."""
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
    where = f"PUT {API_PREFIX}{path}"
    raw = _raw(transport, "PUT", target_of(path, query), headers, ANSWER_SEC + length / SLOWEST_BYTES_PER_SEC)
    try:
        answer = transport._link.send(replace(raw, content=iter(pieces) if length else b""))
    except LinkError as error:
        raise ServiceUnavailable(f"{where}: the connection to {transport.url} broke: {error}") from error
    _check(transport, answer, where)
    return parse(answer, reply, where, transport.url)


def receive_pieces(transport: Transport, path: str, query: Message) -> Iterator[bytes]:
    """GET a body, piece by piece."""
    where = f"GET {API_PREFIX}{path}"
    raw = _raw(transport, "GET", target_of(path, query), {"Accept": "application/octet-stream"}, ANSWER_SEC)
    try:
        answer = transport._link.open(raw)
        if answer.status >= 400:
            _check(transport, RawReply(answer.status, answer.headers, answer.read()), where)
        yield from answer.bulk_chunks()
    except LinkError as error:
        raise ServiceUnavailable(f"{where}: the connection to {transport.url} broke: {error}") from error


def _raw(transport: Transport, method: str, target: str, headers: dict[str, str], patience_sec: float) -> RawRequest:
    return transport._raw(method, target, b"", headers, transport.now() + patience_sec)


def _check(transport: Transport, answer: RawReply, where: str) -> None:
    if answer.status in REFUSED_UNTOUCHED | MAYBE_DONE:
        reason = error_of(answer)[1] or f"answered {answer.status}"
        raise ServiceUnavailable(f"{where}: the service at {transport.url}: {reason}", status=answer.status)
    if answer.status >= 400:
        raise transport._refusal(answer, where, None)
