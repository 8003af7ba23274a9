"""The ASGI application behind every /api call: find the endpoint, check wire version and token, parse, run, answer.

One function from bytes to bytes, without middleware layers: this is the service's hot path (docs/decisions). Paths that
are not the API's (docs, pages) go on to `fallback`. Every answer carries X-Request-Id; every error is an ErrorReply.
"""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from balsam.server import logs, problems
from balsam.server.auth.needs import check_scope
from balsam.server.errors import STOPPING, Forbidden, NotFound, ServiceError, Unavailable
from balsam.server.limits import BodyStream, Disconnected, Window, read_body
from balsam.server.problems import Problem
from balsam.server.routes import query
from balsam.server.routes.call import Call, Raw, Receive, Scope, Send, Service
from balsam.server.routes.endpoint import Endpoint
from balsam.wire import API_PREFIX, WIRE_HEADER, WIRE_VERSIONS

log = logging.getLogger("balsam.server")

_WIRE = WIRE_HEADER.lower().encode()
# Every answer has these, unless it brings its own.
_COMMON = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"referrer-policy", b"no-referrer"),
]
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_STREAM = b"text/event-stream; charset=utf-8"
_MAX_ID = 2**63
REFUSALS_SEC = 3600.0  # the audit log is told once in this time that a token was refused a call


@dataclass(slots=True)
class Node:
    """One segment of the paths: literal children are preferred to the parameter."""

    children: dict[str, "Node"] = field(default_factory=dict)
    parameter: "Node | None" = None
    methods: dict[str, "Bound"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bound:
    """An endpoint with what parsing needs, worked out once."""

    endpoint: Endpoint
    path_types: tuple[type, ...]
    list_fields: frozenset[str]


def tree_of(endpoints: Iterable[Endpoint]) -> Node:
    """The endpoints by path. Two for the same method and path are a mistake."""
    root = Node()
    for endpoint in endpoints:
        node = root
        for part in endpoint.path.split("/")[1:]:
            if part.startswith("{"):
                node.parameter = node.parameter or Node()
                node = node.parameter
            else:
                node = node.children.setdefault(part, Node())
        if endpoint.method in node.methods:
            raise TypeError(f"two endpoints for {endpoint.method} {endpoint.path}")
        lists = query.list_fields(endpoint.query) if endpoint.query else frozenset()
        node.methods[endpoint.method] = Bound(endpoint, tuple(endpoint.path_types.values()), lists)
    return root


def find(root: Node, path: str) -> tuple[Node, list[str]] | None:
    """The node of a path and the texts of its parameters."""
    node, values = root, []
    for part in path.split("/")[1:]:
        child = node.children.get(part)
        if child is None:
            child = node.parameter
            if child is None:
                return None
            values.append(part)
        node = child
    return (node, values) if node.methods else None


class Dispatcher:
    """The API of one service as an ASGI application."""

    def __init__(self, service: Service, endpoints: Sequence[Endpoint], fallback: Any) -> None:
        self._service = service
        self._root = tree_of(endpoints)
        self._fallback = fallback
        self._numbers = itertools.count(1)
        self._prefix = secrets.token_hex(4)
        secure = service.settings.tls_cert is not None or service.settings.behind_proxy
        self._common = [*_COMMON, _HSTS] if secure else _COMMON
        self._refused = Window(1, REFUSALS_SEC)
        self._seen = logs.RequestLog(service.clock, service.metrics, service.settings.access_log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"{self._prefix}-{next(self._numbers):x}"
        seen = scope["balsam.seen"] = self._seen.begin(scope, request_id)
        send = self._complete(send, seen)
        try:
            await self._route(scope, receive, send, seen)
        except Disconnected:
            return
        except asyncio.CancelledError:
            # The service stops and waits for this request no longer; the task ends here, so nobody has to hear of it.
            if not seen.status:
                await self._refuse(Unavailable(STOPPING), send, request_id)
        except Exception as error:
            if seen.status:
                log.exception("request %s: %s %s broke off", request_id, scope["method"], scope["path"])
                return  # the server closes the connection of an answer that was begun and not ended
            await self._refuse(_as_problem(error, scope, request_id), send, request_id)
        finally:
            self._seen.end(seen)

    async def _route(self, scope: Scope, receive: Receive, send: Send, seen: logs.SeenRequest) -> None:
        found = find(self._root, scope["path"])
        if found is not None:
            await self._serve(found, scope, receive, send, seen)
        elif scope["path"].startswith(API_PREFIX + "/"):
            raise NotFound
        else:
            seen.route = "page"
            scope["balsam.request_id"] = seen.request_id
            await self._fallback(scope, receive, send)

    def _complete(self, send: Send, seen: logs.SeenRequest) -> Send:
        """Adds to an answer what every answer has."""
        mine = [*self._common, (b"x-request-id", seen.request_id.encode())]

        async def complete(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                have = {name for name, _ in message["headers"]}
                seen.is_stream = (b"content-type", _STREAM) in message["headers"]
                message["headers"] = [*message["headers"], *(pair for pair in mine if pair[0] not in have)]
            await send(message)

        return complete

    async def _serve(
        self, found: tuple[Node, list[str]], scope: Scope, receive: Receive, send: Send, seen: logs.SeenRequest
    ) -> None:
        node, texts = found
        headers = dict(scope["headers"])
        if _WIRE in headers:
            _check_wire(headers[_WIRE])
        bound = node.methods.get(scope["method"])
        if bound is None:
            allow = ", ".join(sorted(node.methods))
            raise Problem(405, "method_not_allowed", f"this path answers {allow}", {"Allow": allow})
        endpoint = bound.endpoint
        seen.route = endpoint.path
        call = Call(self._service, scope, headers, seen.request_id, endpoint.audit)
        if endpoint.needs.kinds:
            await call.authenticate()
            seen.username = call.principal.username
            await self._admit(call, endpoint)
        arguments = _path_values(bound.path_types, texts)
        more: dict[str, Any] = {}
        if endpoint.query is not None:
            more["query"] = query.parse(endpoint.query, bound.list_fields, scope["query_string"])
        elif scope["query_string"]:
            raise Problem(422, "invalid", "this call takes no query parameters")
        if endpoint.body is not None:
            call.body = await read_body(receive, headers, endpoint.body_limit)
            # Strict: "1" is no 1, as the document says. In a query string all is text.
            more["body"] = endpoint.body.model_validate_json(call.body, strict=True)
        elif endpoint.streams:
            more["body"] = BodyStream(receive, headers, endpoint.body_limit)
        answer = await self._run(call, endpoint, arguments, more)
        await _answer(answer, endpoint.status, scope, receive, send)

    async def _run(self, call: Call, endpoint: Endpoint, arguments: Sequence[int | str], more: dict[str, Any]) -> Any:
        if not endpoint.needs.kinds:
            return await endpoint.function(call, *arguments, **more)
        user_id = call.principal.user_id
        self._service.crowd.enter(user_id)
        try:
            return await endpoint.function(call, *arguments, **more)
        finally:
            self._service.crowd.leave(user_id)

    async def _admit(self, call: Call, endpoint: Endpoint) -> None:
        self._service.rates.check(call.principal, self._service.clock.monotonic())
        try:
            endpoint.needs.check(call.principal)
            check_scope(call.principal, endpoint.scope)
        except Forbidden:
            what = f"{call.principal.token_id} {endpoint.function.__name__}"
            if self._refused.wait_sec(what, self._service.clock.monotonic()) == 0:
                await call.audit("refused")
            raise

    async def _refuse(self, error: ServiceError, send: Send, request_id: str) -> None:
        headers = [
            (name.lower().encode(), value.encode("latin-1")) for name, value in problems.headers_of(error).items()
        ]
        content = problems.reply(error, request_id).model_dump_json().encode()
        await _send(send, error.status, b"application/json", content, headers)


def _check_wire(value: bytes) -> None:
    text = value.decode("latin-1").strip()
    if text.isdigit() and int(text) in WIRE_VERSIONS:
        return
    low, high = WIRE_VERSIONS[0], WIRE_VERSIONS[-1]
    spoken = f"wire version {low}" if low == high else f"wire versions {low} to {high}"
    older = text.isdigit() and int(text) < low
    what = (
        "upgrade openbalsam where this call came from"
        if older
        else "upgrade the service, or use an openbalsam of its version"
    )
    raise Problem(
        426, "wire_version", f"the service speaks {spoken}, the caller {text!r}: {what}", {"Upgrade": "Balsam-Wire"}
    )


def _path_values(types: Sequence[type], texts: Sequence[str]) -> list[int | str]:
    values: list[int | str] = []
    for kind, text in zip(types, texts, strict=True):
        if kind is str:
            values.append(text)
        elif text.isascii() and text.isdigit() and len(text) < 20 and 0 < int(text) < _MAX_ID:
            values.append(int(text))
        else:
            raise NotFound
    return values


async def _answer(answer: Any, status: int, scope: Scope, receive: Receive, send: Send) -> None:
    if isinstance(answer, Raw):
        await _send(send, status, b"application/json", answer.content)
    elif isinstance(answer, BaseModel):
        await _send(send, status, b"application/json", answer.__pydantic_serializer__.to_json(answer))
    elif answer is None:
        await _send(send, 204, None, b"")
    else:
        await answer(scope, receive, send)


async def _send(
    send: Send,
    status: int,
    kind: bytes | None,
    content: bytes,
    more: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    headers = list(more)
    if kind is not None:
        headers += [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})


def _as_problem(error: Exception, scope: Scope, request_id: str) -> ServiceError:
    if isinstance(error, ServiceError):
        if error.status >= 500:
            log.warning("request %s: %s %s: %s", request_id, scope["method"], scope["path"], error)
        return error
    if isinstance(error, ValidationError):
        return problems.from_validation(error)
    log.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"], exc_info=error)
    return problems.internal(request_id)
