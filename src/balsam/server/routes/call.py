"""One request as an endpoint sees it, and the parts of the service it may use.

Endpoints are given a `Call`; the dispatcher makes it. Nothing here knows a single route.
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from balsam.domain.clock import Clock
from balsam.server.auth.cache import TokenCache
from balsam.server.auth.passwords import Passwords
from balsam.server.blobs.uploads import Uploads
from balsam.server.broker import Broker
from balsam.server.errors import Unauthenticated
from balsam.server.limits import Crowd, LoginLimit, RequestRates
from balsam.server.principal import Principal
from balsam.server.problems import Problem
from balsam.server.routes.file_desk import FileDesk
from balsam.server.settings import ServerSettings
from balsam.server.store.protocol import ReadTx, Store, Tx, Wake
from balsam.server.usecases.audit import Entry, record
from balsam.server.usecases.idempotent import MAX_KEY_LENGTH, once
from balsam.wire import IDEMPOTENCY_HEADER
from balsam.wire.base import Message

if TYPE_CHECKING:
    from balsam.server.metrics import Metrics  # imported by create_app: the library looks at its environment then

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


class LoginDoors(Protocol):
    """Where people log in with a browser; see `login_pages`."""

    @property
    def login_url(self) -> str:
        """The page that asks for a user code."""
        ...

    @property
    def titles(self) -> Mapping[str, str]:
        """The providers' names, and what people call them."""
        ...

    @property
    def issuers(self) -> Collection[str]:
        """Where the providers are."""
        ...

    @property
    def form_targets(self) -> str:
        """For a Content-Security-Policy: a form that is answered with a redirect counts as sent to where it leads."""
        ...


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
    rates: RequestRates  # of calls and of pages together, as is the crowd
    crowd: Crowd
    metrics: "Metrics"
    first_code: str | None = None  # with it the first administrator is made
    providers: LoginDoors | None = None


class Call:
    """One authenticated request."""

    __slots__ = ("_detail", "_event", "_principal", "body", "headers", "now", "request_id", "scope", "service")

    def __init__(
        self, service: Service, scope: Scope, headers: Mapping[bytes, bytes], request_id: str, event: str = ""
    ) -> None:
        self.service = service
        self.scope = scope
        self.headers = headers
        self.request_id = request_id
        self.now: datetime = service.clock.now()
        self.body = b""
        self._principal: Principal | None = None
        self._event = event
        self._detail: dict[str, Any] = {}

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
    def _account(self) -> int:
        """In whose turn it is read and written."""
        return 0 if self._principal is None else self._principal.user_id

    @property
    def address(self) -> str:
        client = self.scope.get("client")
        return str(client[0]) if client else "unknown"

    async def check_login(self, username: str) -> None:
        """Count a login to this account (empty: to one that is not named). Raises TooMany; other processes are told."""
        service = self.service
        service.logins.check(username, self.address, service.clock.monotonic())
        await service.store.tell(Wake("logins", 0, "tried", {"username": username, "address": self.address}))

    async def read(self, use_case: Callable[[ReadTx], T]) -> T:
        """Run a use case that changes nothing."""
        clock = self.service.clock
        begun = clock.monotonic()
        found = await self.service.store.read(use_case, self._account)
        self.service.metrics.read(clock.monotonic() - begun)
        return found

    async def write(self, use_case: Callable[[Tx], T]) -> T:
        """Run a use case in one transaction of its own, with its row in the audit log; returns once durable (S1)."""
        clock = self.service.clock
        begun = clock.monotonic()
        done = await self.service.store.write(self._audited(use_case) if self._event else use_case, self._account)
        self.service.metrics.write(clock.monotonic() - begun)
        return done

    def _audited(self, use_case: Callable[[Tx], T]) -> Callable[[Tx], T]:
        entry = self._entry(self._event)

        def audited(tx: Tx) -> T:
            done = use_case(tx)
            record(tx, entry, self.now)
            return done

        return audited

    def note(self, **detail: Any) -> None:
        """What the audit log is told of this request, beside who, where and when. Never a secret."""
        self._detail |= detail

    async def audit(self, event: str) -> None:
        """Leave a row by itself: of what was refused, or did not write anything."""
        entry = self._entry(event)
        await self.service.store.write(lambda tx: record(tx, entry, self.now), self._account)

    def _entry(self, event: str) -> Entry:
        target = f"{self.scope['method']} {self.scope['path']}"
        return Entry(event, self._principal, self.address, self.request_id, target, self._detail)

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
