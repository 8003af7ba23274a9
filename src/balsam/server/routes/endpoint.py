"""How a route is declared: method, path, who may call it, and a function whose signature says body, query and reply.

    routes = Routes("jobs", reads=Scope.JOBS_READ, writes=Scope.JOBS_WRITE)

    @routes.post("/jobs", needs=USER, status=201)
    async def create_jobs(call: Call, body: JobsCreate) -> JobsCreated: ...

`needs` and the scopes have no default, so a route without an auth declaration can't be written. Reads are GETs and
searches; an endpoint that is neither or both says its own `scope`. The body is validated once, from the
raw bytes; the reply is serialised once. A body that is a BodyStream is handed over unread, for files of any size. The
OpenAPI document is made from the same declaration (openapi.py).
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from balsam.domain.scopes import Scope
from balsam.server.auth.needs import Needs
from balsam.server.limits import DEFAULT_BODY_BYTES, BodyStream
from balsam.server.routes.call import Call, Raw
from balsam.wire import API_PREFIX
from balsam.wire.base import Message
from balsam.wire.limits import MAX_BODY_BYTES

Function = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route. `path_types` are the names and types of the parameters in its path; `streams`: its body is bytes."""

    method: str
    path: str
    needs: Needs
    function: Function
    tag: str
    status: int
    body_limit: int
    media_type: str
    body: type[Message] | None
    query: type[Message] | None
    reply: Any
    path_types: dict[str, type]
    streams: bool
    scope: Scope
    audit: str  # the event that a success leaves in the audit log; empty: none
    is_login: bool  # its function counts the call with `call.check_login`


@dataclass(slots=True)
class Routes:
    """The endpoints of one module."""

    tag: str
    reads: Scope
    writes: Scope
    prefix: str = API_PREFIX
    endpoints: list[Endpoint] = field(default_factory=list)

    def add(
        self,
        method: str,
        path: str,
        *,
        needs: Needs,
        status: int = 200,
        body_limit: int = DEFAULT_BODY_BYTES,
        media_type: str = "application/json",
        scope: Scope | None = None,
        audit: str = "",
        is_login: bool = False,
    ) -> Callable[[Function], Function]:
        """Declare the function below as the endpoint."""

        def declare(function: Function) -> Function:
            parts = _signature(function, path)
            parts["audit"], parts["is_login"] = audit, is_login
            parts["scope"] = scope or (self.reads if method == "GET" else self.writes)
            endpoint = Endpoint(
                method, self.prefix + path, needs, function, self.tag, status, body_limit, media_type, **parts
            )
            self.endpoints.append(endpoint)
            return function

        return declare

    def search(self, path: str, *, needs: Needs) -> Callable[[Function], Function]:
        """A GET whose query may be longer than a request line: `POST path/search` takes the same as its body."""

        def declare(function: Function) -> Function:
            self.add("GET", path, needs=needs)(function)
            kind = get_type_hints(function)["query"]

            async def search(call: Call, body: Any) -> Any:
                return await function(call, body)

            search.__name__ = search.__qualname__ = f"search_{function.__name__.removeprefix('list_')}"
            search.__doc__ = f"{function.__doc__} The query is the body, of any length."
            search.__annotations__ = {"call": Call, "body": kind, "return": get_type_hints(function)["return"]}
            self.add("POST", f"{path}/search", needs=needs, body_limit=MAX_BODY_BYTES, scope=self.reads)(search)
            return function

        return declare

    def get(self, path: str, *, needs: Needs, **more: Any) -> Callable[[Function], Function]:
        return self.add("GET", path, needs=needs, **more)

    def post(self, path: str, *, needs: Needs, **more: Any) -> Callable[[Function], Function]:
        return self.add("POST", path, needs=needs, **more)

    def put(self, path: str, *, needs: Needs, **more: Any) -> Callable[[Function], Function]:
        return self.add("PUT", path, needs=needs, **more)

    def patch(self, path: str, *, needs: Needs, **more: Any) -> Callable[[Function], Function]:
        return self.add("PATCH", path, needs=needs, **more)

    def delete(self, path: str, *, needs: Needs, **more: Any) -> Callable[[Function], Function]:
        return self.add("DELETE", path, needs=needs, **more)


def _signature(function: Function, path: str) -> dict[str, Any]:
    """What the function's signature says; refuses one that does not fit its path."""
    hints = get_type_hints(function)
    names = list(inspect.signature(function).parameters)
    in_path = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    if names[:1] != ["call"] or hints.get("call") is not Call:
        raise TypeError(f"the first parameter of {function.__qualname__} must be `call: Call`")
    rest = [name for name in names[1:] if name not in ("body", "query")]
    if rest != in_path:
        raise TypeError(f"{function.__qualname__} takes {rest}, its path {path} gives {in_path}")
    streams = hints.get("body") is BodyStream
    return {
        "body": None if streams else hints.get("body"),
        "streams": streams,
        "query": hints.get("query"),
        "reply": _reply(hints.get("return", NoneType)),
        "path_types": {name: hints[name] for name in in_path},
    }


def _reply(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Raw else annotation
