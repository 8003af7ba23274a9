"""Values come out as they went in; what is JSON stays readable."""

import math
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from balsam.client.encoding import MAX_PLAIN_DEPTH, decode, decode_all, encode, is_plain
from balsam.client.pickling import NotOpened, NotPicklable
from balsam.domain.envelope import BadEnvelope, is_envelope

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@given(VALUES)
def test_what_comes_out_is_what_went_in(value: Any) -> None:
    """Through the JSON that the service reads and writes."""
    there = from_json(to_json(encode(value)))
    assert same(decode(there), value)


class Colour(StrEnum):
    RED = "red"


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    "value", [None, True, 0, -7, 1.5, "text", [], {}, {"a": [1, {"b": None}]}, nested(MAX_PLAIN_DEPTH)]
)
def test_json_stays_json(value: Any) -> None:
    assert is_plain(value)
    assert encode(value) is value


@pytest.mark.parametrize(
    "value",
    [
        (1, 2), {1}, b"x", 1j, {1: 2}, [Decimal(1)], math.inf, Colour.RED, Path("x"), "\ud800", {"\ud800": 1}, 2**63,
        {"$envelope": 1}, nested(MAX_PLAIN_DEPTH + 1),
    ],
)  # fmt: skip
def test_all_else_gets_an_envelope(value: Any) -> None:
    there = encode(value)
    assert is_envelope(there)
    assert same(decode(there), value)


def test_what_can_t_travel_says_why() -> None:
    with pytest.raises(NotPicklable, match="TypeError"):
        encode(item for item in ())
    with pytest.raises(BadEnvelope, match="Write large data to a file"):
        encode(bytes(600_000))


def test_a_damaged_parameter_is_named() -> None:
    there = {**encode((1,)), "python": "3.9"}
    with pytest.raises(NotOpened, match=r"parameter 'x': .* Python 3\.9"):
        decode_all({"a": 1, "x": there})
