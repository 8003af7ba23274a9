"""The OpenAPI document, made from the declared endpoints. Called by app.py when somebody asks for it.

It names every error an endpoint may answer, with the one error body, which kinds of principal may call with which
scope, and what limits the call (`x-balsam-...`). docs/reference/openapi.json is a copy of it, kept by `make docs`.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, get_type_hints

from fastapi import Query, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from balsam import __version__
from balsam.server import openapi_lookups
from balsam.server.routes.endpoint import Endpoint
from balsam.wire import IDEMPOTENCY_HEADER, WIRE_HEADER
from balsam.wire.base import ErrorReply

ERRORS = {
    400: "Malformed: the body is no JSON, or a header or the query can't be read",
    401: "No valid token",
    403: "The token may not do this",
    404: "Not found, or not yours",
    408: "The body came too slowly",
    409: "Conflict with the present state; `code` names the rule",
    413: "The body is larger than the limit",
    415: "The body is compressed",
    422: "Invalid; `details` name every place",
    426: "Wire version not spoken here",
    429: "Too many; Retry-After says when",
    500: "The service failed; its log has the cause",
    503: "The service can't do it now; Retry-After says when",
    504: "The Site's agent did not answer",
    507: "The service's disk is full",
}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_ONLY_WITH_BODY = {408, 413, 415}
DESCRIPTION = (
    f"Every call but those that log in carries `Authorization: Bearer <token>`. `{WIRE_HEADER}` says which wire "
    f"version the caller speaks. Calls that create things take `{IDEMPOTENCY_HEADER}`: same key and body, same answer, "
    'for 7 days. Bodies are taken as this document says: `"1"` is no number, and `1.0` no whole one.'
)


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document of these endpoints."""
    found = get_openapi(
        title="Balsam service",
        version=__version__,
        description=DESCRIPTION,
        routes=[_route(endpoint) for endpoint in endpoints],
    )
    components = found.setdefault("components", {})
    components["schemas"] |= openapi_lookups.schemas()
    for parameter in _parameters(found):
        _make_exact(parameter)
        _name_lookups(parameter, {"type": "string", "contentMediaType": "application/json"})  # JSON text
    _name_lookups(components["schemas"], None)
    del components["schemas"]["Lookup"]  # of any field: each of the others says which
    _make_exact(components["schemas"])
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    components["responses"] = {}
    for methods in found["paths"].values():
        for operation in methods.values():
            _refer(operation["responses"], components["responses"])
    return found


def _parameters(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        for operation in methods.values():
            yield from operation.get("parameters", [])


def _name_lookups(schema: Any, items: Mapping[str, Any] | None) -> None:
    """Say what can be looked up where: by `items`, or by the schema of that name."""
    if isinstance(schema, list):
        for each in schema:
            _name_lookups(each, items)
    if isinstance(schema, dict):
        if name := schema.pop("x-balsam-lookups", ""):
            schema["items"] = items or {"$ref": f"#/components/schemas/{name}"}
        for below in schema.values():
            _name_lookups(below, items)


def _make_exact(schema: Any) -> None:
    """A map whose keys have a pattern has no other keys. Ranges are numbers of floating point here, which 2^63 is
    written out wrongly as."""
    if isinstance(schema, list):
        for each in schema:
            _make_exact(each)
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema["additionalProperties"] = False
        for name in _BOUNDS & schema.keys():
            if isinstance(schema[name], float) and schema[name].is_integer():
                schema[name] = int(schema[name])
        for below in schema.values():
            _make_exact(below)


def _refer(answers: dict[str, Any], shared: dict[str, Any]) -> None:
    """Errors are the same everywhere: said once, and referred to. They were more than half of the document."""
    for status, answer in answers.items():
        if int(status) in ERRORS:
            shared[status] = answer
            answers[status] = {"$ref": f"#/components/responses/{status}"}


def _route(endpoint: Endpoint) -> APIRoute:
    head, _, rest = inspect.cleandoc(endpoint.function.__doc__ or endpoint.function.__name__).partition("\n\n")
    summary = " ".join(head.split())
    is_json = endpoint.media_type == "application/json"
    is_model = is_json and inspect.isclass(endpoint.reply) and issubclass(endpoint.reply, BaseModel)
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorReply, "description": text} for status, text in _errors(endpoint).items()
    }
    if not is_json:
        responses[endpoint.status] = {"content": {endpoint.media_type: {"schema": {"type": "string"}}}}
    needs = endpoint.needs
    extra: dict[str, Any] = {"x-balsam-kinds": sorted(needs.kinds), "x-balsam-admin": needs.admin}
    extra["x-balsam-scope"] = endpoint.scope
    extra["x-balsam-max-body-bytes"] = endpoint.body_limit if endpoint.body or endpoint.streams else 0
    extra["x-balsam-rates"] = rates(endpoint)
    if endpoint.streams:
        schema = {"type": "string", "format": "binary"}
        extra["requestBody"] = {"required": True, "content": {"application/octet-stream": {"schema": schema}}}
    if needs.kinds:
        extra["security"] = [{"token": []}]
    return APIRoute(
        endpoint.path,
        _described(endpoint),
        methods=[endpoint.method],
        status_code=endpoint.status,
        response_model=endpoint.reply if is_model else None,
        response_class=JSONResponse if is_model else Response,
        responses=responses,
        tags=[endpoint.tag],
        summary=summary.rstrip("."),
        description=rest.strip() or summary,
        operation_id=endpoint.function.__name__,
        openapi_extra=extra,
    )


def rates(endpoint: Endpoint) -> list[str]:
    """By what the requests of this endpoint are counted: `token` (a second), `account` (at once, and a second where an
    administrator said so), `login` (a minute, of an address and of the account that is named)."""
    return [*(["token", "account"] if endpoint.needs.kinds else []), *(["login"] if endpoint.is_login else [])]


def _errors(endpoint: Endpoint) -> dict[int, str]:
    without = set() if endpoint.body or endpoint.streams else set(_ONLY_WITH_BODY)
    if not endpoint.needs.kinds:
        without |= {403, 504, 507} | (set() if endpoint.body else {401, 404, 409})
    return {status: text for status, text in ERRORS.items() if status not in without}


class _Described:
    """What FastAPI reads the parameters of an endpoint from; it is never called: the dispatcher serves."""

    def __init__(self, path: str, signature: inspect.Signature) -> None:
        self._path = path
        self.__signature__ = signature

    async def __call__(self) -> None:
        raise NotImplementedError(f"{self._path} is served by routes.dispatch")


def _described(endpoint: Endpoint) -> _Described:
    kind = inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(endpoint.function, include_extras=True)
    parameters = [inspect.Parameter(name, kind, annotation=hints[name]) for name in endpoint.path_types]
    if endpoint.query is not None:
        parameters.append(inspect.Parameter("query", kind, annotation=Annotated[endpoint.query, Query()]))
    if endpoint.body is not None:
        parameters.append(inspect.Parameter("body", kind, annotation=endpoint.body))
    return _Described(endpoint.path, inspect.Signature(parameters, return_annotation=NoneType))
