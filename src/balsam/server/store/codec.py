"""From rows to SQL values and back: numbers for states, JSON text for lists and dictionaries.

Used by the SQL stores only. The numbers are written out: they are in people's databases, so the order of an enum must
not decide them.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any, get_type_hints

from pydantic_core import from_json, to_json

from balsam.domain.failure import Failure
from balsam.domain.states import Actor, JobState
from balsam.server.store.records import (
    AppRow,
    AuditRow,
    BatchJobRow,
    BlobRow,
    DeviceLoginRow,
    GrantedRow,
    HotJob,
    IdempotencyRow,
    IdentityRow,
    JobRow,
    MembershipRow,
    ResultRow,
    Row,
    SessionRow,
    ShareRow,
    ShownJob,
    SiteRow,
    TeamRow,
    TokenRow,
    TransferItemRow,
    UserRow,
)

STATE_NUMBERS: dict[JobState, int] = {
    JobState.CREATED: 1,
    JobState.AWAITING_PARENTS: 2,
    JobState.READY: 3,
    JobState.STAGED_IN: 4,
    JobState.PREPROCESSED: 5,
    JobState.RUNNING: 6,
    JobState.RUN_DONE: 7,
    JobState.RUN_ERROR: 8,
    JobState.RUN_TIMEOUT: 9,
    JobState.RESTART_READY: 10,
    JobState.POSTPROCESSED: 11,
    JobState.STAGED_OUT: 12,
    JobState.JOB_FINISHED: 13,
    JobState.FAILED: 14,
    JobState.CANCELLED: 15,
}
STATES: dict[int, JobState] = {number: state for state, number in STATE_NUMBERS.items()}
ACTOR_NUMBERS: dict[Actor, int] = {
    Actor.SERVICE: 1,
    Actor.SITE: 2,
    Actor.LAUNCHER: 3,
    Actor.SWEEP: 4,
    Actor.USER: 5,
}
FAILURES: dict[str | None, Failure | None] = {None: None, **{failure.value: failure for failure in Failure}}
ACTORS: dict[int, str] = {number: actor.value for actor, number in ACTOR_NUMBERS.items()}

TABLE_NAMES: dict[type[Row], str] = {
    UserRow: "users",
    AuditRow: "audit_log",
    DeviceLoginRow: "device_logins",
    IdentityRow: "identities",
    TeamRow: "teams",
    MembershipRow: "memberships",
    ShareRow: "shares",
    TokenRow: "tokens",
    SiteRow: "sites",
    AppRow: "apps",
    BatchJobRow: "batch_jobs",
    SessionRow: "sessions",
    IdempotencyRow: "idempotency_keys",
    ResultRow: "results",
    BlobRow: "blobs",
    TransferItemRow: "transfer_items",
}


def dump(value: object) -> str:
    """Compact JSON text. Use cases have checked what they store; a NaN that came through would be a null."""
    if value == {}:
        return "{}"
    return to_json(value, inf_nan_mode="null").decode() if value != [] else "[]"


def load(text: str) -> Any:
    """What `dump` made; always a new object."""
    if text == "{}":
        return {}
    return from_json(text) if text != "[]" else []


def sql_value(value: Any) -> Any:
    """A value to compare a column with: yes and no are 1 and 0 in every table, enums their text."""
    if isinstance(value, bool):
        return int(value)
    return str(value) if isinstance(value, StrEnum) else value


@dataclass(frozen=True, eq=False)
class Table:
    """How one kind of row is stored. There is one object for each kind."""

    name: str
    columns: tuple[str, ...]
    encoders: tuple[Callable[[Any], Any] | None, ...]
    decoders: tuple[Callable[[Any], Any] | None, ...]
    make: Callable[..., Row]

    def encode(self, row: Row) -> list[Any]:
        values = [getattr(row, column) for column in self.columns]
        return [value if f is None else f(value) for value, f in zip(values, self.encoders, strict=True)]

    def decode(self, values: Sequence[Any]) -> Any:
        return self.make(*[value if f is None else f(value) for value, f in zip(values, self.decoders, strict=True)])

    @cached_property
    def put_sql(self) -> str:
        """Insert, or replace the columns of the row with that id. Not REPLACE, which would delete the row first."""
        marks = ", ".join("?" * len(self.columns))
        sets = ", ".join(f"{column} = excluded.{column}" for column in self.columns if column != "id")
        insert = f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({marks})"
        return f"{insert} ON CONFLICT (id) DO UPDATE SET {sets}"

    def checked(self, column: str) -> str:
        """The name of a column. Raises AttributeError for another one."""
        if column not in self.columns:
            raise AttributeError(f"{self.name} has no column {column}")
        return column

    def find_sql(self, conditions: Iterable[tuple[str, str]]) -> str:
        """`conditions` are (column, form), form one of: one, any, null."""
        forms = {"one": "{} = ?", "any": "{} IN (SELECT value FROM json_each(?))", "null": "{} IS NULL"}
        where = " AND ".join(forms[form].format(self.checked(column)) for column, form in conditions) or "TRUE"
        return f"SELECT {', '.join(self.columns)} FROM {self.name} WHERE {where} ORDER BY id"


def _codec(hint: Any) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None]:
    if hint is bool:
        return int, bool
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return str, hint
    if any(word in str(hint) for word in ("dict", "list")):
        return dump, load
    return None, None


def _table(kind: type[Any], name: str) -> Table:
    hints = get_type_hints(kind)
    columns = tuple(field.name for field in fields(kind))
    pairs = [_codec(hints[column]) for column in columns]
    encoders, decoders = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
    return Table(name, columns, encoders, decoders, kind)


_TABLES: dict[type[Any], Table] = {kind: _table(kind, name) for kind, name in TABLE_NAMES.items()}


def table(kind: type[Any]) -> Table:
    """The Table of a kind of row."""
    return _TABLES[kind]


JOB_COLUMNS = tuple(field.name for field in fields(JobRow))
_PLACE = {column: place for place, column in enumerate(JOB_COLUMNS)}
_JOB_STATE, _JOB_FAILURE = _PLACE["state"], _PLACE["failure"]
_JOB_FLAGS = [_PLACE[name] for name in ("cancel_requested", "was_preprocessed", "pending_file_cleanup")]
_JOB_JSON = slice(JOB_COLUMNS.index("parameters"), len(JOB_COLUMNS))
SELECT_JOB = f"SELECT {', '.join('jobs.' + column for column in JOB_COLUMNS)} FROM jobs"
_SHOWN_PLACE = {column: place for place, column in enumerate(ShownJob._fields)}
_SHOWN_STATE = _SHOWN_PLACE["state"]
_SHOWN_FLAGS = [_SHOWN_PLACE[name] for name in ("cancel_requested", "pending_file_cleanup")]
_SHOWN_SOURCES = {"app_name": "a.name", "submitted_by": "u.username"}
# To be filled with what gives the ids.
SELECT_SHOWN = (
    f"SELECT {', '.join(_SHOWN_SOURCES.get(column, f'jobs.{column}') for column in ShownJob._fields)}"
    " FROM ({}) AS page CROSS JOIN jobs ON jobs.id = page.id"
    " CROSS JOIN apps a ON a.id = jobs.app_id CROSS JOIN users u ON u.id = jobs.submitter_id"
)
GRANTED_COLUMNS = tuple(field.name for field in fields(GrantedRow))
_GRANTED_STATE = GRANTED_COLUMNS.index("state")
_GRANTED_JSON = slice(GRANTED_COLUMNS.index("parameters"), len(GRANTED_COLUMNS))
HOT_COLUMNS = tuple(field.name for field in fields(HotJob))[:-2]
_HOT_PLACE = {column: place for place, column in enumerate((*HOT_COLUMNS, "tagged"))}
_HOT_STATE, _HOT_FAILURE = _HOT_PLACE["state"], _HOT_PLACE["failure"]
_HOT_FLAGS = [_HOT_PLACE[name] for name in ("cancel_requested", "was_preprocessed", "tagged")]
SELECT_HOT = f"SELECT {', '.join(HOT_COLUMNS)}, tags <> '{{}}' FROM jobs"


def job_row(values: Sequence[Any]) -> JobRow:
    """A row selected by SELECT_JOB."""
    row = list(values)
    row[_JOB_STATE], row[_JOB_FAILURE] = STATES[row[_JOB_STATE]], FAILURES[row[_JOB_FAILURE]]
    for place in _JOB_FLAGS:
        row[place] = row[place] == 1
    row[_JOB_JSON] = [load(text) for text in row[_JOB_JSON]]
    return JobRow(*row)


def shown_job(values: Sequence[Any]) -> ShownJob:
    """A row selected by SELECT_SHOWN."""
    row = list(values)
    row[_SHOWN_STATE] = STATES[row[_SHOWN_STATE]]
    for place in _SHOWN_FLAGS:
        row[place] = row[place] == 1
    return ShownJob._make(row)


def granted_row(values: Sequence[Any]) -> GrantedRow:
    """A row of GRANTED_COLUMNS."""
    row = list(values)
    row[_GRANTED_STATE] = STATES[row[_GRANTED_STATE]]
    row[_GRANTED_JSON] = map(load, row[_GRANTED_JSON])
    return GrantedRow(*row)


def hot_job(values: Sequence[Any]) -> HotJob:
    """A row selected by SELECT_HOT."""
    row = list(values)
    row[_HOT_STATE], row[_HOT_FAILURE] = STATES[row[_HOT_STATE]], FAILURES[row[_HOT_FAILURE]]
    for place in _HOT_FLAGS:
        row[place] = row[place] == 1
    return HotJob(*row)


@lru_cache(maxsize=65_536)
def tag_number(owner_id: int, key: str, value: str) -> int:
    """63 bits that stand for an owner's tag; `\\0` can't be in a tag, so no two tags give the same text."""
    digest = blake2b(f"{owner_id}\0{key}\0{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
