"""Loaded by schemathesis (schemathesis.toml): to JSON Schema 1.0 is a whole number, to the service it is none."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    return whole(body)


def whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: whole(below) for key, below in value.items()}
    if isinstance(value, list):
        return [whole(below) for below in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
