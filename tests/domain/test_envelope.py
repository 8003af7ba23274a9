"""Envelopes: what they refuse before anything is unpickled."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.domain.envelope import MAX_PAYLOAD_BYTES, BadEnvelope, Envelope, is_envelope

GOOD = Envelope.seal(b"payload", python="3.11", pickler="cloudpickle 3.1.2")


@given(st.binary(max_size=2000))
def test_json_and_back(payload: bytes) -> None:
    envelope = Envelope.seal(payload, python="3.12", pickler="cloudpickle 3.1.2")
    assert Envelope.from_json(envelope.as_json()) == envelope
    assert is_envelope(envelope.as_json())


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"a": 1}, {"payload": "x"}])
def test_other_values_are_none(value: Any) -> None:
    assert not is_envelope(value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"$envelope": 2}, "upgrade"),
        ({"payload": "cGF5bG9hRA=="}, "damaged or changed"),
        ({"payload": "no base64!"}, "not base64"),
        ({"payload": "bäse64=="}, "not base64"),
        ({"python": None}, "all text"),
        ({"more": "x"}, "nothing else"),
    ],
)
def test_a_bad_envelope_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadEnvelope, match=said):
        Envelope.from_json({**GOOD.as_json(), **change})


def test_a_large_value_is_refused_with_advice() -> None:
    with pytest.raises(BadEnvelope, match="Write large data to a file"):
        Envelope.seal(b"x" * (MAX_PAYLOAD_BYTES + 1), python="3.11", pickler="cloudpickle 3.1.2")


@pytest.mark.parametrize(
    ("python", "pickler", "said"),
    [
        ("3.11", "cloudpickle 3.1.2", None),
        ("3.11", "cloudpickle 3.9.0", None),
        ("3.12", "cloudpickle 3.1.2", "Python 3.11 and this is Python 3.12"),
        ("3.11", "cloudpickle 4.0.0", "cloudpickle 3.1.2 and this is cloudpickle 4.0.0"),
        ("3.11", "dill 3.1.2", "dill"),
    ],
)
def test_versions_are_compared_before_it_is_opened(python: str, pickler: str, said: str | None) -> None:
    obstacle = GOOD.obstacle(python, pickler)
    assert obstacle is None if said is None else said in str(obstacle)
