"""One request as an endpoint sees it, and the parts of the service it may use.

Endpoints are given a `Call`; the dispatcher makes it. Nothing here knows a single route.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from balsam.domain.clock import Clock
from balsam.server.auth.cache import TokenCache
from balsam.server.auth.passwords import Passwords
from balsam.server.blobs.uploads import Uploads
from balsam.server.broker import Broker
from balsam.server.errors import Unauthenticated
from balsam.server.limits import LoginLimit
from balsam.server.principal import Principal
from balsam.server.problems import Problem
from balsam.server.routes.file_desk import FileDesk
from balsam.server.settings import ServerSettings
from balsam.server.store.protocol import ReadTx, Store, Tx
from balsam.server.usecases.idempotent import MAX_KEY_LENGTH, once
from balsam.wire import IDEMPOTENCY_HEADER
from balsam.wire.base import Message

_KEY_HEADER = IDEMPOTENCY_HEADER.lower().encode()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Raw(Generic[M]):
    """The JSON of a message of type M, when the bytes are at hand already."""

    content: bytes


@dataclass(slots=True)
class Service:
    """What one running service consists of; wired in app.py."""

    settings: ServerSettings
    store: Store
    clock: Clock
    instance: str
    tokens: TokenCache
    broker: Broker
    files: FileDesk
    uploads: Uploads
    passwords: Passwords
    logins: LoginLimit


class Call:
    """One authenticated request."""

    __slots__ = ("_principal", "body", "headers", "now", "request_id", "scope", "service")

    def __init__(self, service: Service, scope: Scope, headers: Mapping[bytes, bytes], request_id: str) -> None:
        self.service = service
        self.scope = scope
        self.headers = headers
        self.request_id = request_id
        self.now: datetime = service.clock.now()
        self.body = b""
        self._principal: Principal | None = None

    async def authenticate(self) -> None:
        """Set the principal from the token, or raise Unauthenticated."""
        header = self.headers.get(b"authorization")
        if header is None:
            raise Unauthenticated
        live = await self.service.tokens.authenticate(header.decode("latin-1"), self.service.clock.now())
        self._principal = live.principal

    @property
    def principal(self) -> Principal:
        """Who calls. Only routes that are not open have one."""
        if self._principal is None:
            raise RuntimeError("an open route has no principal")
        return self._principal

    @property
    def address(self) -> str:
        client = self.scope.get("client")
        return str(client[0]) if client else "unknown"

    async def read(self, use_case: Callable[[ReadTx], T]) -> T:
        """Run a use case that changes nothing."""
        return await self.service.store.read(use_case)

    async def write(self, use_case: Callable[[Tx], T]) -> T:
        """Run a use case in one transaction of its own; returns once it is durable (S1)."""
        return await self.service.store.write(use_case)

    async def create(self, reply: type[M], use_case: Callable[[Tx], M]) -> M:
        """Run a use case that creates something: once per Idempotency-Key, with the same answer to a repeat (S2)."""
        key = self.idempotency_key()
        return await self.write(lambda tx: self.once(tx, key, reply, lambda: use_case(tx)))

    def once(self, tx: Tx, key: str | None, reply: type[M], do: Callable[[], M]) -> M:
        """`do`, or the kept answer to this key, inside a transaction. The answer is stored: it must hold no secret."""
        if key is None:
            return do()
        what = f"{self.scope['method']} {self.scope['path']}\n".encode() + self.body
        return once(tx, self.principal, key, hashlib.sha256(what).hexdigest(), reply, self.now, do)

    def idempotency_key(self) -> str | None:
        """The Idempotency-Key of this request, None without one."""
        header = self.headers.get(_KEY_HEADER)
        if header is None:
            return None
        key = header.decode("latin-1")
        if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
            message = f"{IDEMPOTENCY_HEADER} must be 1 to {MAX_KEY_LENGTH} printable ASCII characters"
            raise Problem(400, "malformed", message)
        return key
