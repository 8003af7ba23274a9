"""The only place from which the service calls somebody else: the OpenID providers of its configuration.

No redirect is followed, nothing but https (or loopback) is called, an answer is read up to 1 MiB and 10 s. The client's
own HTTP code is not used: the service does not import the client.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpcore2

from balsam.server.settings import is_loopback

MAX_BYTES = 1024 * 1024
TIMEOUT_SEC = 10.0


class ProviderAway(Exception):
    """The provider can't be reached, or gave no sense."""


class Outbound:
    """Connections to providers."""

    def __init__(self) -> None:
        self._pool = httpcore2.AsyncConnectionPool(max_connections=10, keepalive_expiry=30.0)

    async def get_json(self, url: str) -> dict[str, Any]:
        """A document. Raises ProviderAway."""
        status, found = await self._ask("GET", url, {}, b"")
        if status != 200:
            raise ProviderAway(f"{url} answered with status {status}")
        return found

    async def post_form(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a form; an OAuth error is raised as ProviderAway with its code."""
        given = {"content-type": "application/x-www-form-urlencoded", **headers}
        status, found = await self._ask("POST", url, given, urlencode(form).encode())
        if status != 200:
            raise ProviderAway(f"{url} answered with status {status}: {str(found.get('error', ''))[:100]}")
        return found

    async def close(self) -> None:
        await self._pool.aclose()

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise ProviderAway(f"{url} is no address: {error}") from error
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            raise ProviderAway(f"{url} is not https")
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SEC)
        given = [("accept", "application/json"), *headers.items()]
        try:
            async with self._pool.stream(
                method, url, headers=given, content=body, extensions={"timeout": timeouts}
            ) as reply:
                content = await _read(reply)
                found = json.loads(content) if content else {}
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, ValueError) as error:
            raise ProviderAway(f"{url}: {type(error).__name__} {error}".rstrip()) from error
        if not isinstance(found, dict):
            raise ProviderAway(f"{url} answered with something else than an object")
        return reply.status, found


async def _read(reply: httpcore2.Response) -> bytes:
    content = b""
    async for piece in reply.aiter_stream():
        content += piece
        if len(content) > MAX_BYTES:
            raise ProviderAway(f"an answer of more than {MAX_BYTES} bytes")
    return content
