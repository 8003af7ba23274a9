"""One HTTP exchange over a pool of kept connections. The HTTP library is imported at the first exchange.

Built on httpcore2, the engine below httpx2: it takes a network back-end, which lets a deadline hold over a whole
exchange, and costs half as much per call. A link has one pool per process, so a forked child never writes into its
parent's connections; threads may share a link.
"""

import os
import ssl
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from balsam.client.settings import is_loopback
from balsam.domain.clock import Clock

if TYPE_CHECKING:
    import httpcore2

MAX_CONNECTIONS = 64
BULK_READ_BYTES = 512 * 1024
KEEP_ALIVE_SEC = 4.0  # less than the 5 s after which uvicorn closes an idle connection


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request as it goes over the wire. `deadline` is on the monotonic clock and holds for the whole exchange."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | Iterator[bytes]  # pieces go with a Content-Length among the headers, and can be sent once only
    deadline: float
    connect_timeout_sec: float
    read_timeout_sec: float


@dataclass(frozen=True, slots=True)
class RawReply:
    """An answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class LinkError(Exception):
    """No answer came. `maybe_done`: the request may have reached the service; `final`: trying again is no use."""

    def __init__(self, message: str, *, maybe_done: bool, final: bool = False) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done
        self.final = final


class HttpLink(Protocol):
    """What carries requests; tests put one between that loses, repeats and delays."""

    def send(self, request: RawRequest) -> RawReply:
        """Exchange one request for its answer, whatever its status. Raises LinkError when none came in time."""
        ...

    def open(self, request: RawRequest) -> "OpenReply":
        """Start an exchange whose body goes on. The deadline holds for the head only. Raises LinkError."""
        ...

    def close(self) -> None:
        """Close all connections of this process."""
        ...


@dataclass(slots=True)
class OpenReply:
    """An answer whose body is still arriving. `abort` ends the reading at once, from any thread."""

    status: int
    headers: Mapping[str, str]
    _response: "httpcore2.Response"
    _aborted: bool = False

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives. Raises LinkError when the connection breaks or stays silent too long."""
        try:
            yield from self._response.iter_stream()
        except _network_errors() as error:
            raise LinkError(_reason(error), maybe_done=True) from error
        finally:
            self._response.close()

    def bulk_chunks(self) -> Iterator[bytes]:
        """As `chunks`, for a body of megabytes: read from the network in large pieces."""
        stream = self._response.extensions["network_stream"]
        stream.read_bytes = BULK_READ_BYTES
        try:
            yield from self.chunks()
        finally:
            stream.read_bytes = 0

    def read(self) -> bytes:
        """The rest of the body."""
        return b"".join(self.chunks())

    def abort(self) -> None:
        """Wake the reader: it sees the end of the stream."""
        import socket

        if self._aborted:
            return
        self._aborted = True
        sock = self._response.extensions["network_stream"].get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            try:
                # Not SSLSocket.shutdown: it takes the TLS layer away under the reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:  # closed meanwhile
                return

    def drop(self) -> None:
        """Close this process's descriptor and nothing else: for a forked child, whose parent goes on reading."""
        sock = self._response.extensions["network_stream"].get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            os.close(sock.detach())


@dataclass(eq=False)
class PooledLink:
    """Connections to the service, kept alive, through the proxy the environment names unless the host is loopback."""

    clock: Clock
    _pools: dict[tuple[int, str], "httpcore2.ConnectionPool"] = field(default_factory=dict)
    _deadline: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        _links.add(self)

    def send(self, request: RawRequest) -> RawReply:
        pool = self._pool(request.url)
        with self._exchange(request), _mapped_errors():
            reply = pool.request(
                request.method,
                request.url,
                headers=list(request.headers.items()),
                content=request.content,
                extensions={"timeout": self._timeouts(request)},
            )
            return RawReply(reply.status, _plain_headers(reply), reply.content)

    def open(self, request: RawRequest) -> OpenReply:
        import httpcore2

        pool = self._pool(request.url)
        with self._exchange(request), _mapped_errors():
            raw = httpcore2.Request(
                request.method,
                request.url,
                headers=list(request.headers.items()),
                content=request.content or None,
                extensions={"timeout": self._timeouts(request)},
            )
            reply = pool.handle_request(raw)
        return OpenReply(reply.status, _plain_headers(reply), reply)

    def close(self) -> None:
        for key in list(self._pools):
            pool = self._pools.pop(key, None)
            if pool is not None and key[0] == os.getpid():
                pool.close()

    def forget_after_fork(self) -> None:
        self._pools = {}
        self._deadline = threading.local()

    def left_sec(self) -> float | None:
        """Seconds that the exchange of this thread may still take."""
        at: float | None = getattr(self._deadline, "at", None)
        return None if at is None else at - self.clock.monotonic()

    def _pool(self, url: str) -> "httpcore2.ConnectionPool":
        parts = urlsplit(url)
        key = (os.getpid(), f"{parts.scheme}://{parts.netloc}")
        pool = self._pools.get(key)
        # No lock around it: one that another thread holds while this process forks would stay locked in the child.
        return pool or self._pools.setdefault(key, self._new_pool(parts.scheme, parts.hostname or ""))

    def _new_pool(self, scheme: str, host: str) -> "httpcore2.ConnectionPool":
        import httpcore2

        from balsam.client.transport.network import DeadlineBackend, proxy_for

        return httpcore2.ConnectionPool(
            ssl_context=httpcore2.default_ssl_context() if scheme == "https" else None,
            proxy=None if is_loopback(host) else proxy_for(scheme, host),
            max_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_SEC,
            network_backend=DeadlineBackend(self.left_sec),
        )

    @contextmanager
    def _exchange(self, request: RawRequest) -> Iterator[None]:
        self._deadline.at = request.deadline
        try:
            yield
        finally:
            self._deadline.at = None

    def _timeouts(self, request: RawRequest) -> dict[str, float | None]:
        left = max(0.0, request.deadline - self.clock.monotonic())
        connect, read = min(request.connect_timeout_sec, left), request.read_timeout_sec
        return {"connect": connect, "read": read, "write": read, "pool": left}


@contextmanager
def _mapped_errors() -> Iterator[None]:
    import httpcore2

    from balsam.client.transport.network import NotSent

    try:
        yield
    except (
        NotSent,
        httpcore2.ConnectError,
        httpcore2.ConnectTimeout,
        httpcore2.ProxyError,
        httpcore2.PoolTimeout,
    ) as error:
        final = isinstance(error, NotSent) or isinstance(_root(error), ssl.SSLCertVerificationError)
        raise LinkError(_reason(error), maybe_done=False, final=final) from error
    except _network_errors() as error:
        raise LinkError(_reason(error), maybe_done=True) from error


def _network_errors() -> tuple[type[Exception], ...]:
    import httpcore2

    return (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, OSError)


def _reason(error: Exception) -> str:
    """`Connection refused` rather than `ConnectError: [Errno 111] Connection refused`."""
    cause = _root(error)
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
    return text or {"ReadTimeout": "no answer in time", "ConnectTimeout": "no connection in time"}.get(
        type(error).__name__, type(error).__name__
    )


def _root(error: Exception) -> Exception:
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    return error


def _plain_headers(reply: "httpcore2.Response") -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reply.headers}


_links: "weakref.WeakSet[PooledLink]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for link in list(_links):
        link.forget_after_fork()


os.register_at_fork(after_in_child=_forget_in_child)
