"""Look-ups: conditions on single fields, beyond the filters that have a name of their own.

A filter carries them in `where`. Both ends check a look-up against the tables of `wire.kinds`: the client so that a
mistake shows where it was made, the service because it trusts nobody.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue

from balsam.wire.base import Message
from balsam.wire.kinds import MAX_LISTED, OPS, OPS_OF, Fields, Kind, Op, is_key, problem_of

MAX_LOOKUPS = 50
MAX_LOOKUP_DEPTH = 8


class Lookup(Message):
    """One condition: `num_nodes gt 2`, or, below a JSON field, `parameters` `["grid", "x"]` `eq 3`."""

    field: str
    path: Annotated[list[str], Field(max_length=MAX_LOOKUP_DEPTH)] = []
    op: Op = "eq"
    value: JsonValue = None

    def problem(self, fields: Fields) -> str | None:
        """What is wrong with it, None when it can be carried out."""
        fault = self.problem_of_field(fields)
        if fault is not None:
            return fault
        kind = fields[self.field]
        if self.op not in OPS_OF[kind]:
            able = ", ".join(op for op in OPS if op in OPS_OF[kind])
            return f"{self.field} holds {kind.value} and can't be looked up by {self.op!r}; it can by: {able}"
        return self._problem_of_value(kind)

    def problem_of_field(self, fields: Fields) -> str | None:
        """What is wrong with its field and path."""
        kind = fields.get(self.field)
        if kind is None:
            return f"{self.field!r} can't be looked up; there are: {', '.join(sorted(fields))}"
        if (kind is Kind.JSON) != bool(self.path):
            what = "say which key in it" if kind is Kind.JSON else "there is nothing below it"
            return f"{self.field} holds {kind.value}: {what}"
        if not all(is_key(key) for key in self.path):
            return f"{self.field}: a key with quotes, backslashes or control characters can't be looked up"
        return None

    def _problem_of_value(self, kind: Kind) -> str | None:
        if self.op == "isnull":
            return None if isinstance(self.value, bool) else "isnull is true or false"
        if self.op != "in":
            return problem_of(kind, self.op, self.value)
        if not isinstance(self.value, list) or len(self.value) > MAX_LISTED:
            return f"{self.field}: in takes a list of at most {MAX_LISTED} values"
        return next((why for item in self.value if (why := problem_of(kind, self.op, item))), None)


def _parsed(given: object) -> object:
    """In a query string each look-up is JSON text."""
    return list(_texts(given)) if isinstance(given, list) else given


def _texts(given: list[Any]) -> Iterator[Any]:
    for item in given:
        try:
            yield json.loads(item) if isinstance(item, str) else item
        except ValueError as error:
            raise ValueError(f"{item!r} is no JSON: {error}") from None


Where = Annotated[list[Lookup], Field(max_length=MAX_LOOKUPS), BeforeValidator(_parsed)]


def said(name: str) -> Any:
    """Beside a Where: its name in the OpenAPI document, which says there what can be looked up (server/openapi.py)."""
    return Field(json_schema_extra={"x-balsam-lookups": name})
