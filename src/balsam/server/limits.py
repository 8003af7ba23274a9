"""Limits of the HTTP layer (S16): body size and pace of upload, rate of logins and of requests.

Used by the dispatcher and the login route. Each refusal names the limit. Counters live in memory: they protect this
process, and a restart forgives.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from balsam.server.errors import TooMany
from balsam.server.principal import Principal
from balsam.server.problems import Problem

DEFAULT_BODY_BYTES = 4 * 1024 * 1024
CHUNK_SEC = 30.0  # a body may arrive slowly, but not slower than one piece in this time
GRACE_SEC = 60.0  # and after this time not slower than MIN_BYTES_PER_SEC
MIN_BYTES_PER_SEC = 1_000
MAX_KEYS = 50_000

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Disconnected(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


def too_large(limit: int) -> Problem:
    return Problem(
        413, "too_large", f"the body is larger than {limit} bytes, the limit for this call; send it in parts"
    )


class Crowd:
    """Requests of one account that are being answered: one user's flood waits at its own door, not in the queue of
    the writer before everybody else's. Streams are not counted; they have a limit of their own."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._inside: Counter[int] = Counter()

    def enter(self, user_id: int) -> None:
        """Raises TooMany; otherwise `leave` has to follow."""
        if self._most is not None and self._inside[user_id] >= self._most:
            raise TooMany(f"more than {self._most} requests of one account at once")
        self._inside[user_id] += 1

    def leave(self, user_id: int) -> None:
        self._inside[user_id] -= 1
        if self._inside[user_id] <= 0:
            del self._inside[user_id]


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The whole body; 413 before it is read when its length is announced, else as soon as it is too long."""
    pieces = [piece async for piece in BodyStream(receive, headers, limit)]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class BodyStream:
    """A body as it arrives, for endpoints that must not hold it: iterate once. 413 as for `read_body`."""

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> None:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            message = "the service does not accept compressed bodies; send it as it is"
            raise Problem(415, "unsupported_encoding", message)
        announced = headers.get(b"content-length", b"")
        self.announced_bytes = int(announced) if announced.isdigit() else None
        if self.announced_bytes is not None and self.announced_bytes > limit:
            raise too_large(limit)
        self._receive = receive
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, more, loop = 0, True, asyncio.get_running_loop()
        begun = loop.time()
        while more:
            message = await _next(self._receive)
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size < (loop.time() - begun - GRACE_SEC) * MIN_BYTES_PER_SEC:
                raise Problem(408, "too_slow", f"the body arrived with less than {MIN_BYTES_PER_SEC} bytes a second")
            if size > self._limit:
                raise too_large(self._limit)
            yield piece
            more = message.get("more_body", False)


async def _next(receive: Receive) -> MutableMapping[str, Any]:
    try:
        async with asyncio.timeout(CHUNK_SEC):
            message = await receive()
    except TimeoutError:
        raise Problem(408, "too_slow", f"no piece of the body arrived within {CHUNK_SEC:.0f} s") from None
    if message["type"] == "http.disconnect":
        raise Disconnected
    return message


class Window:
    """At most `count` events per key in any `period_sec`."""

    def __init__(self, count: int, period_sec: float) -> None:
        self.count = count
        self.period_sec = period_sec
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_sec(self, key: str, now: float) -> float:
        """0 and the event is counted, or how long to wait until one would be allowed."""
        times = self._fresh(key, now)
        if len(times) >= self.count:
            return times[0] + self.period_sec - now
        times.append(now)
        return 0.0

    def note(self, key: str, now: float) -> None:
        """Count an event that happened elsewhere."""
        self._fresh(key, now).append(now)

    def take_back(self, key: str) -> None:
        """The newest event does not count after all."""
        if times := self._seen.get(key):
            times.pop()

    def _fresh(self, key: str, now: float) -> deque[float]:
        times = self._seen.setdefault(key, deque())
        self._seen.move_to_end(key)
        while times and times[0] <= now - self.period_sec:
            times.popleft()
        if len(self._seen) > MAX_KEYS:
            self._seen.popitem(last=False)
        return times


class Buckets:
    """A steady rate per key with bursts of four seconds' worth."""

    def __init__(self) -> None:
        self._level: OrderedDict[int, tuple[float, float]] = OrderedDict()

    def wait_sec(self, key: int, per_sec: float, now: float) -> float:
        """0 and the request is counted, or how long to wait until one would be allowed."""
        burst = max(1.0, 4 * per_sec)
        level, at = self._level.get(key, (burst, now))
        level = min(burst, level + (now - at) * per_sec)
        allowed = level >= 1.0
        self._level[key] = (level - 1.0 if allowed else level, now)
        self._level.move_to_end(key)
        if len(self._level) > MAX_KEYS:
            self._level.popitem(last=False)
        return 0.0 if allowed else (1.0 - level) / per_sec


class RequestRates:
    """Requests a second: of each token what holds for everybody, of an account what an administrator set for it."""

    def __init__(self, per_token: float | None) -> None:
        self._per_token = per_token
        self._tokens, self._accounts = Buckets(), Buckets()

    def check(self, caller: Principal, now: float) -> None:
        """Count a request. Raises TooMany, with when to come back."""
        if self._per_token is not None:
            wait = self._tokens.wait_sec(caller.token_id, self._per_token, now)
            _refuse_after(wait, f"more than {self._per_token:g} requests a second with one token")
        if caller.requests_per_sec is not None:
            wait = self._accounts.wait_sec(caller.user_id, caller.requests_per_sec, now)
            _refuse_after(wait, f"more than {caller.requests_per_sec} requests a second, the limit of your account")


def _refuse_after(wait_sec: float, what: str) -> None:
    if wait_sec > 0:
        raise TooMany(what, int(wait_sec) + 1)


class LoginLimit:
    """5 logins a minute per account and 20 per address, right or wrong: a password can't be found by trying.

    Lives in the event loop. Each process of the service tells the others of the logins that it let pass.
    """

    def __init__(self) -> None:
        self._accounts = Window(5, 60.0)
        self._addresses = Window(20, 60.0)

    def check(self, username: str, address: str, now: float) -> None:
        """Count a login, without a name where it names no account. Raises TooMany."""
        waits = [(self._addresses.wait_sec(address, now), "20 logins a minute from one address")]
        if username:
            waits.append((self._accounts.wait_sec(username.casefold(), now), "5 logins a minute to one account"))
        for wait, what in waits:
            if wait > 0:
                raise TooMany(f"more than {what}; try again in {int(wait) + 1} s", int(wait) + 1)

    def note(self, username: str, address: str, now: float) -> None:
        """A login that another process let pass; without a name where it named no account."""
        self._addresses.note(address, now)
        if username:
            self._accounts.note(username.casefold(), now)
