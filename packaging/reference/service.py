"""The page of the service's calls, and the copy of its OpenAPI document, both out of the declared routes."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator
from typing import Any

from objects import code, table
from pydantic.warnings import UnsupportedFieldAttributeWarning

from balsam.server import openapi, routes

HEAD = "<!-- made by `make docs` out of the declared routes; change those -->\n"
ABOUT = """Every route of the service, made from the declarations that the service itself checks; each is in
[openapi.json](openapi.json) with its messages, as it is at `/openapi.json` of a running service.

- **for**: whose token; nobody's where it says anybody. **scope**: what the token has to be good for; a login is good
  for everything ([who may do what](../security.md#who-may-do-what)).
- **body**: the most that a body may have; beyond it 413.
- **counted**: by *token* (a second) and *account* (at once, and a second where an administrator said so), or as a
  *login* (a minute, of an address and of the account that is named); beyond it 429 with Retry-After
  ([limits](../security.md#limits)). Open calls that are not counted have the limits on connections alone: probes, the
  version, and collecting a device login by its code of 256 bits.
"""
DEPTH = 3  # a line for each operation, schema and error: a change can be read


@functools.cache
def document() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsupportedFieldAttributeWarning)  # FastAPI's own, of bodies built late
        found: dict[str, Any] = json.loads(json.dumps(openapi.document(routes.ALL)))
    return found


def snapshot() -> str:
    return "\n".join(_lines(document(), 0)) + "\n"


def _lines(value: Any, depth: int) -> Iterator[str]:
    if not isinstance(value, dict) or not value or depth == DEPTH:
        yield json.dumps(value, ensure_ascii=False, sort_keys=True)
        return
    yield "{"
    for number, (key, below) in enumerate(sorted(value.items()), start=1):
        first, *rest = _lines(below, depth + 1)
        lines = [f"{json.dumps(key)}: {first}", *rest]
        yield from (" " + line for line in lines[:-1])
        yield f" {lines[-1]}{'' if number == len(value) else ','}"
    yield "}"


def service_page() -> str:
    return "\n".join([HEAD, "# Calls of the service\n", ABOUT, *_sections()])


def _sections() -> Iterator[str]:
    tags: dict[str, list[tuple[str, ...]]] = {}
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            tags.setdefault(operation["tags"][0], []).append(_row(f"{method.upper()} {path}", operation))
    for tag, rows in sorted(tags.items()):
        yield f"## {tag}\n"
        yield table(("call", "does", "for", "scope", "body", "counted"), rows)


def _row(call: str, operation: dict[str, Any]) -> tuple[str, ...]:
    kinds, most = operation["x-balsam-kinds"], operation["x-balsam-max-body-bytes"]
    who = "administrator" if operation["x-balsam-admin"] else ", ".join(kinds) or "anybody"
    scope = code(operation["x-balsam-scope"]) if kinds else ""
    return code(call), operation["summary"], who, scope, _size(most), ", ".join(operation["x-balsam-rates"])


def _size(size_bytes: int) -> str:
    for unit, number in (("MiB", 1024**2), ("KiB", 1024)):
        if size_bytes >= number and size_bytes % number == 0:
            return f"{size_bytes // number} {unit}"
    return f"{size_bytes} B" if size_bytes else ""
