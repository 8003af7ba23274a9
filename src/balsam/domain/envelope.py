"""Envelope: a pickled value with a header that is checked before anything is unpickled.

Python code (functions, hooks) and parameters that are no JSON travel in one. A pickle made by another minor version of
Python does not fail when it is read: it ends the interpreter. So the versions stand in the header, and whoever opens an
envelope compares them first. `client/pickling.py` makes and opens envelopes; the service stores them as JSON and never
looks inside.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = 1
MARK = "$envelope"
MAX_PAYLOAD_BYTES = 512_000


class BadEnvelope(ValueError):
    """This is no envelope, or not one that can be opened here; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """`python` is major.minor of the interpreter that pickled, `pickler` the library and its version.

    >>> envelope = Envelope.seal(b"...", python="3.11", pickler="cloudpickle 3.1.2")
    >>> Envelope.from_json(envelope.as_json()) == envelope
    True
    >>> envelope.obstacle("3.12", "cloudpickle 3.1.2")
    'it was pickled by Python 3.11 and this is Python 3.12; the two must have the same minor version'
    """

    python: str
    pickler: str
    sha256: str
    payload: bytes

    @classmethod
    def seal(cls, payload: bytes, *, python: str, pickler: str) -> "Envelope":
        """Put a header to a pickle. Raises BadEnvelope when it is too large."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise BadEnvelope(
                f"{len(payload)} bytes pickled; at most {MAX_PAYLOAD_BYTES} travel this way. "
                "Write large data to a file and pass its name"
            )
        return cls(python, pickler, hashlib.sha256(payload).hexdigest(), payload)

    def as_json(self) -> dict[str, Any]:
        """The JSON form, for messages and files."""
        return {
            MARK: FORMAT,
            "python": self.python,
            "pickler": self.pickler,
            "sha256": self.sha256,
            "payload": base64.b64encode(self.payload).decode(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Envelope":
        """Out of its JSON form. Raises BadEnvelope when a part is missing or the payload is not what was hashed."""
        if value.get(MARK) != FORMAT:
            raise BadEnvelope(
                f"this envelope has format {value.get(MARK)!r}; openbalsam here knows {FORMAT}: upgrade it"
            )
        texts = [value.get(name) for name in ("python", "pickler", "sha256", "payload")]
        if not all(isinstance(text, str) for text in texts) or len(value) != len(texts) + 1:
            raise BadEnvelope("an envelope has python, pickler, sha256 and payload, all text, and nothing else")
        python, pickler, sha256, encoded = map(str, texts)
        try:
            payload = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise BadEnvelope(f"the payload of an envelope is not base64: {error}") from None
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise BadEnvelope(f"an envelope holds at most {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
        if hashlib.sha256(payload).hexdigest() != sha256:
            raise BadEnvelope("the payload of an envelope is not what its hash says: it was damaged or changed")
        return cls(python, pickler, sha256, payload)

    def obstacle(self, python: str, pickler: str) -> str | None:
        """Why it can't be opened by this Python and this version of the pickling library; None when it can."""
        if self.python != python:
            return (
                f"it was pickled by Python {self.python} and this is Python {python}; "
                "the two must have the same minor version"
            )
        if _library(self.pickler) != _library(pickler):
            return f"it was pickled with {self.pickler} and this is {pickler}; both sides need the same major version"
        return None


def is_envelope(value: object) -> bool:
    """Whether a JSON value says that it is an envelope."""
    return isinstance(value, Mapping) and MARK in value


def _library(pickler: str) -> tuple[str, str]:
    """Name and major version."""
    name, _, version = pickler.partition(" ")
    return name, version.partition(".")[0]
