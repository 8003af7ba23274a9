"""The network below the HTTP library: sockets whose every wait is cut to what is left of the call, and proxies.

Imported by `link` at the first exchange, together with the HTTP library.
"""

import ssl
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2

Left = Callable[[], float | None]
SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class NotSent(Exception):
    """The request is sure not to have reached the service."""


class DeadlineStream(httpcore2.NetworkStream):
    """A connection on which no wait is longer than the call has left, however slowly bytes drip in."""

    def __init__(self, stream: httpcore2.NetworkStream, left: Left) -> None:
        self._stream = stream
        self._left = left
        self.read_bytes = 0  # larger than what the HTTP library asks for: few reads for a large body

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max(max_bytes, self.read_bytes), _cut(timeout, self._left(), httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _cut(timeout, self._left(), httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        timeout = _cut(timeout, self._left(), httpcore2.ConnectTimeout)
        return DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class DeadlineBackend(httpcore2.NetworkBackend):
    """Opens such connections."""

    def __init__(self, left: Left) -> None:
        self._backend = httpcore2.SyncBackend()
        self._left = left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore2.NetworkStream:
        timeout = _cut(timeout, self._left(), httpcore2.ConnectTimeout)
        stream = self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return DeadlineStream(stream, self._left)


def _cut(timeout: float | None, left: float | None, too_late: type[Exception]) -> float | None:
    if left is None:
        return timeout
    if left <= 0:
        raise too_late("no time left")
    return left if timeout is None else min(timeout, left)


def proxy_for(scheme: str, host: str) -> httpcore2.Proxy | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY name for a host. Raises NotSent for nonsense."""
    proxies = getproxies()
    address = proxies.get(scheme) or proxies.get("all")
    if not address or proxy_bypass(host):
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotSent(f"the proxy {parts.scheme}://{parts.hostname} in the environment is not an HTTP proxy")
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    default_port = 443 if parts.scheme == "https" else 80
    return httpcore2.Proxy(f"{parts.scheme}://{parts.hostname}:{parts.port or default_port}", auth=auth)
