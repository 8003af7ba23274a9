"""How pages say times, lengths and states. Text that anybody may have written loses its control characters here."""

import json
import re
from datetime import datetime
from typing import Any

from balsam.domain.states import BATCH_JOB_ENDED, DONE_STATES, BatchJobState, JobState

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_KIND_OF_STATE = {
    JobState.RUNNING: "busy",
    JobState.JOB_FINISHED: "good",
    JobState.FAILED: "bad",
    JobState.RUN_ERROR: "bad",
    JobState.RUN_TIMEOUT: "bad",
    JobState.CANCELLED: "off",
    BatchJobState.RUNNING: "busy",
    BatchJobState.SUBMIT_FAILED: "bad",
    BatchJobState.FINISHED: "off",
}


def plain(text: object) -> str:
    """Without terminal sequences and control characters; lines and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _ANSI.sub("", str(text).replace("\r\n", "\n")))


def span(seconds: float) -> str:
    """A length of time in its two largest units.

    >>> span(3), span(75), span(7300), span(90_000)
    ('3 s', '1 min 15 s', '2 h 1 min', '1 d 1 h')
    """
    rest = max(0, int(seconds))
    parts: list[tuple[int, str]] = []
    for size, unit in _UNITS:
        number, rest = divmod(rest, size)
        if number or parts:
            parts.append((number, unit))
    words = [f"{number} {unit}" for number, unit in parts[:2] if number]
    return " ".join(words) or "0 s"


def ago(when: datetime | None, now: datetime) -> str:
    return "never" if when is None else f"{span((now - when).total_seconds())} ago"


def stamp(when: datetime | None) -> str:
    """A time for people who compare it with a log."""
    return "" if when is None else f"{when:%Y-%m-%d %H:%M:%S} UTC"


def kind(state: JobState | BatchJobState) -> str:
    """The class by which a state is coloured; its name is always there as well."""
    return _KIND_OF_STATE.get(state, "wait")


def pretty(value: Any) -> str:
    return plain(json.dumps(value, indent=2, ensure_ascii=False))


def is_done(state: JobState) -> bool:
    return state in DONE_STATES


def has_ended(state: BatchJobState) -> bool:
    return state in BATCH_JOB_ENDED
