"""Transport: calls to the service that are repeated until answered, refused or out of time.

The promise: a call with an idempotency key, an idempotent method or `safe_to_repeat` takes effect at most once however
often it had to be sent; a deadline always holds; the user hears of an outage once, and once of its end; a local service
that was restarted on another port is found again.
"""

import threading
from collections.abc import Callable, Mapping
from random import Random, SystemRandom
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit

from balsam import __version__
from balsam.client.errors import (
    BalsamError,
    DeadlineExceeded,
    ServiceFault,
    ServiceUnavailable,
    from_reply,
)
from balsam.client.settings import ClientSettings
from balsam.client.transport.abandon import is_given_up
from balsam.client.transport.codec import (
    MAX_TARGET,
    Fields,
    body_of,
    error_of,
    is_final,
    key_header,
    parse,
    parse_json,
    retry_after_sec,
    target_of,
)
from balsam.client.transport.link import HttpLink, LinkError, OpenReply, PooledLink, RawReply, RawRequest
from balsam.client.transport.outage import Outage
from balsam.client.transport.retry import (
    MAYBE_DONE,
    QUIET_TRIES,
    REFUSED_UNTOUCHED,
    SHORTEST_TRY_SEC,
    TOO_FAST,
    Attempts,
    Failure,
    RetryPolicy,
)
from balsam.client.transport.stream import EventStream
from balsam.domain.clock import Clock, SystemClock
from balsam.wire import API_PREFIX, WIRE_HEADER, WIRE_VERSION

T = TypeVar("T")
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE"})
STREAM_SILENCE_SEC = 45.0  # the service sends a comment every 15 s
STREAM_RETRY = RetryPolicy(cap_sec=5.0)
STREAM_SETTLED_SEC = 5.0
MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
USER_AGENT = f"openbalsam/{__version__}"


class Transport:
    """One client's way to the service. Threads may share it; a forked child may go on using it.

    `clock`, `random`, `pause` and `link` are what tests replace; leave them out otherwise.
    """

    def __init__(
        self,
        settings: ClientSettings,
        clock: Clock | None = None,
        random: Random | None = None,
        *,
        link: HttpLink | None = None,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self.settings = settings
        self._clock: Clock = clock or SystemClock()
        # Not a seeded Random by default: two forked children would draw the same idempotency keys.
        self._random = random or SystemRandom()
        self._link = link or PooledLink(self._clock)
        self._closed = threading.Event()
        self._pause = pause or self._closed.wait
        self._outage = Outage()

    @property
    def url(self) -> str:
        """Address of the service."""
        return self.settings.url

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def now(self) -> float:
        """Monotonic seconds, by the clock that the deadlines are measured by."""
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Pause, but no longer than until `close`."""
        self._pause(seconds)

    def new_key(self) -> str:
        """A fresh idempotency key. Make it before the first try of what must not happen twice."""
        return f"{self._random.getrandbits(128):032x}"

    def close(self) -> None:
        """Close the connections; calls that are being repeated end with ServiceUnavailable."""
        self._closed.set()
        self._link.close()

    @overload
    def request(
        self,
        method: str,
        path: str,
        *,
        reply: type[T],
        body: "Fields | bytes | None" = ...,
        query: "Fields | None" = ...,
        idempotency_key: str | None = ...,
        safe_to_repeat: bool = ...,
        deadline_sec: float | None = ...,
    ) -> T: ...
    @overload
    def request(
        self,
        method: str,
        path: str,
        *,
        reply: None = ...,
        body: "Fields | bytes | None" = ...,
        query: "Fields | None" = ...,
        idempotency_key: str | None = ...,
        safe_to_repeat: bool = ...,
        deadline_sec: float | None = ...,
    ) -> None: ...
    def request(
        self,
        method: str,
        path: str,
        *,
        reply: type[T] | None = None,
        body: "Fields | bytes | None" = None,
        query: "Fields | None" = None,
        idempotency_key: str | None = None,
        safe_to_repeat: bool = False,
        deadline_sec: float | None = None,
    ) -> T | None:
        """Call `path`, which is written without the `/api` prefix, and return its answer as `reply` (None: no body).

        A POST is repeated after an unclear failure only with an `idempotency_key` or `safe_to_repeat` (calls that
        carry a growing number of their own). `deadline_sec` bounds everything, repeats included; without it the call is
        repeated for `settings.retry_for_sec`.

        Raises a BalsamError: NotFound, ValidationFailed, Conflict, SessionEnded, Unauthorized, Forbidden, ... at once;
        ServiceUnavailable or DeadlineExceeded when no answer came in time.

        Example: `transport.request("GET", "/version", reply=VersionReply)`.
        """
        raw = self._call(method, path, body_of(body), query, idempotency_key, safe_to_repeat, deadline_sec)
        if reply is None:
            return None
        return parse(raw, reply, f"{method} {API_PREFIX}{path}", self.url)

    def search(self, path: str, query: Fields, *, reply: type[T], deadline_sec: float | None = None) -> T:
        """GET a list or a count. A query too long for a request line is sent as the body of `POST path/search`.

        Example: `transport.search("/jobs", JobQuery(id=ids), reply=JobsPage)`.
        """
        if len(target_of(path, query)) <= MAX_TARGET:
            return self.request("GET", path, query=query, reply=reply, deadline_sec=deadline_sec)
        return self.request(
            "POST", f"{path}/search", body=query, reply=reply, safe_to_repeat=True, deadline_sec=deadline_sec
        )

    def read_json(self, path: str, *, deadline_sec: float | None = None) -> Any:
        """GET plain JSON values, which the caller checks. Repeats and raises like `request`.

        Example: `transport.read_json("/jobs/17")`.
        """
        raw = self._call("GET", path, b"", None, None, True, deadline_sec)
        return parse_json(raw, f"GET {API_PREFIX}{path}", self.url)

    def search_json(self, path: str, query: Mapping[str, Any], *, deadline_sec: float | None = None) -> Any:
        """Like `search`, for plain JSON values.

        Example: `transport.search_json("/jobs", {"id": ids, "limit": 10})`.
        """
        if len(target_of(path, query)) <= MAX_TARGET:
            raw = self._call("GET", path, b"", query, None, True, deadline_sec)
        else:
            raw = self._call("POST", f"{path}/search", body_of(query), None, None, True, deadline_sec)
        return parse_json(raw, f"GET {API_PREFIX}{path}", self.url)

    def request_bytes(
        self, path: str, *, query: "Fields | None" = None, deadline_sec: float | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """GET raw bytes and the answer's headers (lower-case names). Repeats and raises like `request`."""
        raw = self._call("GET", path, b"", query, None, True, deadline_sec)
        return raw.content, dict(raw.headers)

    def stream(self, path: str, *, query: "Fields | None" = None) -> EventStream:
        """Server-sent events of `path`, reconnecting for ever. See EventStream.

        Example: `for event in transport.stream("/jobs/stream"): print(event.name)`.
        """
        attempts = 0
        connected_at = 0.0

        def connect() -> OpenReply:
            nonlocal connected_at
            connected_at = self._clock.monotonic()
            return self._open(path, query)

        def pause(greeted: bool) -> None:
            nonlocal attempts
            settled = greeted and self._clock.monotonic() - connected_at >= STREAM_SETTLED_SEC
            attempts = 1 if settled else attempts + 1
            stream.wait_closed(STREAM_RETRY.delay(attempts, self._random))

        stream = EventStream(connect, pause)
        return stream

    def _call(
        self,
        method: str,
        path: str,
        content: bytes,
        query: "Fields | None",
        key: str | None,
        safe_to_repeat: bool,
        deadline_sec: float | None,
    ) -> RawReply:
        started = self._clock.monotonic()
        patience = self.settings.retry_for_sec if deadline_sec is None else deadline_sec
        repeatable = method in IDEMPOTENT_METHODS or key is not None or safe_to_repeat
        attempts = Attempts(repeatable, started + patience, self._random)
        target, where, headers = target_of(path, query), f"{method} {API_PREFIX}{path}", key_header(key)
        reloaded = False
        while True:
            deadline = attempts.give_up_at if deadline_sec is not None else self._patient_deadline(attempts)
            outcome = self._try(method, target, content, headers, deadline)
            if isinstance(outcome, RawReply):
                if outcome.status < 400:
                    return outcome
                if outcome.status != 401 or reloaded or not self._reload():
                    raise self._refusal(outcome, where, attempts)
                reloaded = True
                continue
            if not outcome.maybe_done and outcome.retry_after_sec is None and self._reload():
                continue
            pause = attempts.failed(outcome, self._clock.monotonic())
            if pause is None:
                raise self._unavailable(outcome, where, attempts, deadline_sec)
            if not outcome.too_fast or attempts.count >= QUIET_TRIES:
                self._outage.began(self.url, outcome)
            self._pause(pause)
            if self._closed.is_set() or is_given_up():
                why = "the client was closed" if self._closed.is_set() else "the caller went away"
                raise ServiceUnavailable(f"{where}: {why} while it waited for {self.url}")

    def _patient_deadline(self, attempts: Attempts) -> float:
        """Of one try of a call without a deadline: a large body over a slow line may take its time."""
        settings = self.settings
        shortest = settings.connect_timeout_sec + settings.read_timeout_sec
        return max(attempts.give_up_at, self._clock.monotonic() + shortest)

    def _try(
        self, method: str, target: str, content: bytes, headers: dict[str, str], deadline: float
    ) -> RawReply | Failure:
        """One try: an answer to give to the caller, or the reason why there is none."""
        try:
            raw = self._link.send(self._raw(method, target, content, headers, deadline))
            for _ in range(MAX_REDIRECTS):
                if raw.status not in REDIRECTS:
                    break
                raw = self._link.send(self._raw(method, self._same_origin(raw), content, headers, deadline))
        except LinkError as error:
            return Failure(str(error), error.maybe_done, final=error.final)
        if raw.status in REFUSED_UNTOUCHED or (raw.status in MAYBE_DONE and not is_final(raw)):
            reason = error_of(raw)[1] or f"answered {raw.status}"
            return Failure(reason, raw.status in MAYBE_DONE, retry_after_sec(raw), too_fast=raw.status == TOO_FAST)
        self._outage.ended(self.url)
        return raw

    def _raw(self, method: str, target: str, content: bytes, headers: dict[str, str], deadline: float) -> RawRequest:
        settings = self.settings
        url = settings.url + target
        every = {
            "Host": urlsplit(settings.url).netloc,
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
            WIRE_HEADER: str(WIRE_VERSION),
        }
        if settings.token:
            every["Authorization"] = f"Bearer {settings.token}"
        if content:
            every["Content-Type"] = "application/json"
        return RawRequest(
            method=method,
            url=url,
            headers=every | headers,
            content=content,
            deadline=deadline,
            connect_timeout_sec=settings.connect_timeout_sec,
            read_timeout_sec=settings.read_timeout_sec,
        )

    def _same_origin(self, raw: RawReply) -> str:
        """Where a redirect leads, when that is the same service: the token never goes to another host."""
        location = raw.headers.get("location", "")
        base = self.settings.url
        if location.startswith(base + "/"):
            return location.removeprefix(base)
        if location.startswith("/") and not location.startswith("//"):
            return location.removeprefix(urlsplit(base).path)
        raise ServiceFault(
            f"{base} redirects to {location or 'nowhere'}; the token is not sent there. "
            "If that is the right address, log in with it: `balsam login URL`",
            status=raw.status,
        )

    def _open(self, path: str, query: "Fields | None") -> OpenReply:
        """Connect a stream. LinkError: try again later; BalsamError: do not."""
        deadline = self._clock.monotonic() + self.settings.connect_timeout_sec + STREAM_SILENCE_SEC
        for last in (False, True):
            raw = self._raw("GET", target_of(path, query), b"", {"Accept": "text/event-stream"}, deadline)
            raw = RawRequest(
                raw.method, raw.url, raw.headers, b"", deadline, raw.connect_timeout_sec, STREAM_SILENCE_SEC
            )
            try:
                reply = self._link.open(raw)
            except LinkError as error:
                if last or error.maybe_done or not self._reload():
                    raise
                continue
            if reply.status == 200:
                return reply
            refused = RawReply(reply.status, reply.headers, reply.read())
            if refused.status == 401 and not last and self._reload():
                continue
            if refused.status in REFUSED_UNTOUCHED | MAYBE_DONE:
                raise LinkError(f"answered {refused.status}", maybe_done=False)
            raise self._refusal(refused, f"GET {API_PREFIX}{path}", None)
        raise AssertionError("unreachable: the second round always returns or raises")

    def _reload(self) -> bool:
        """Whether the settings' source names another address or token than the one that failed."""
        fresh = self.settings.reloaded()
        if fresh is None:
            return False
        self.settings = fresh
        return True

    def _refusal(self, raw: RawReply, where: str, attempts: Attempts | None) -> BalsamError:
        code, message, details, request_id = error_of(raw)
        if not code and not message:
            message = f"{where}: {self.url} answered {raw.status} without a Balsam error; is that a Balsam service?"
        error = from_reply(
            raw.status,
            code,
            message,
            url=self.url,
            where=where,
            details=details,
            request_id=request_id or raw.headers.get("x-request-id", ""),
        )
        error.repeated = attempts is not None and attempts.maybe_done
        return error

    def _unavailable(
        self, failure: Failure, where: str, attempts: Attempts, deadline_sec: float | None
    ) -> ServiceUnavailable:
        unclear = "; whether the service carried it out is unknown" if attempts.maybe_done else ""
        text = f"{where}: service at {self.url} can't be reached: {failure.reason}{unclear}"
        if deadline_sec is not None and self._clock.monotonic() >= attempts.give_up_at - 2 * SHORTEST_TRY_SEC:
            return DeadlineExceeded(f"{text} (gave up after {deadline_sec:g} s)")
        return ServiceUnavailable(f"{text}. Is it running? `balsam doctor` checks the way to it")
