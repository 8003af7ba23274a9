"""The rows of a MemoryStore, and a transaction's way to them: every change is noted, so that it can be undone.

`TableTx` has what is the same for all small tables; memory_files and memory_tx stand on it.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from balsam.server.store.protocol import Duplicate, R, Value, Wake
from balsam.server.store.records import (
    AppAtSite,
    AppRow,
    BlobRow,
    DeviceLoginRow,
    EventRow,
    IdempotencyRow,
    IdentityRow,
    JobRow,
    MembershipRow,
    Row,
    ShareRow,
    SiteRow,
    TeamRow,
    TokenRow,
    UserRow,
)

_UNIQUE: dict[type[Any], tuple[str, ...]] = {
    UserRow: ("username",),
    DeviceLoginRow: ("device_hash",),
    IdentityRow: ("issuer", "subject"),
    TeamRow: ("founder_id", "name"),
    MembershipRow: ("user_id", "team_id"),
    ShareRow: ("owner_id", "site_id", "campaign", "team_id"),
    TokenRow: ("token_hash",),
    SiteRow: ("owner_id", "name"),
    AppRow: ("site_id", "name"),
    IdempotencyRow: ("user_id", "key"),
    BlobRow: ("owner_id", "site_id", "sha256"),
}
_MISSING = object()


@dataclass(slots=True)
class Tables:
    """All rows of a MemoryStore."""

    rows: dict[type[Any], dict[int, Any]] = field(default_factory=lambda: defaultdict(dict))
    jobs: dict[int, JobRow] = field(default_factory=dict)
    events: dict[int, tuple[EventRow, ...]] = field(default_factory=dict)  # by Job
    children: dict[int, tuple[int, ...]] = field(default_factory=dict)
    blob_uses: dict[tuple[int, int], bool] = field(default_factory=dict)  # (TransferItem, blob)
    sequences: Counter[str] = field(default_factory=Counter)


class TableTx:
    """The part of ReadTx and Tx about rows of small tables, and the end of a transaction that failed."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self.wakes: list[Wake] = []

    def undo(self) -> None:
        """Put everything back as it was."""
        for rows, key, before in reversed(self._undo):
            if before is _MISSING:
                rows.pop(key, None)
            else:
                rows[key] = before

    def _set(self, rows: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((rows, key, rows.get(key, _MISSING)))
        if value is _MISSING:
            rows.pop(key, None)
        else:
            rows[key] = value

    def _unset(self, rows: dict[Any, Any], key: Any) -> None:
        self._set(rows, key, _MISSING)

    def get(self, kind: type[R], row_id: int) -> R | None:
        row: R | None = self._tables.rows[kind].get(row_id)
        return row

    def find(self, kind: type[R], /, **equals: Value | tuple[Value, ...]) -> list[R]:
        def fits(row: R) -> bool:
            return all(
                getattr(row, column) in value if isinstance(value, tuple) else getattr(row, column) == value
                for column, value in equals.items()
            )

        return [row for row in self._of(kind) if fits(row)]

    def apps_at_sites(self, app_ids: Sequence[int]) -> list[AppAtSite]:
        sites, users = self._tables.rows[SiteRow], self._tables.rows[UserRow]
        found = ((app, sites[app.site_id]) for app in self.find(AppRow, id=tuple(app_ids)))
        return [
            AppAtSite(app, site.name, dict(site.transfer_locations), users[app.owner_id].max_jobs)
            for app, site in found
        ]

    def newest(self, kind: type[R], before_id: int, limit: int, /, **equals: Value) -> list[R]:
        return [row for row in reversed(self.find(kind, **equals)) if row.id < before_id][:limit]

    def created_before(self, kind: type[R], at: int) -> list[R]:
        return [row for row in self._of(kind) if getattr(row, "created_at", at) < at]

    def _of(self, kind: type[R]) -> list[R]:
        rows = self._tables.rows[kind]
        return [rows[row_id] for row_id in sorted(rows)]

    def new_id(self, kind: type[Row]) -> int:
        return self._take(kind.__name__)

    def _take(self, name: str) -> int:
        self._tables.sequences[name] += 1
        return self._tables.sequences[name]

    def put(self, row: Row) -> None:
        kind = type(row)
        unique = _UNIQUE.get(kind)
        if unique is not None:
            key = [getattr(row, column) for column in unique]
            for other in self._of(kind):
                if other.id != row.id and [getattr(other, column) for column in unique] == key:
                    raise Duplicate(f"{kind.__name__} {key}")
        self._set(self._tables.rows[kind], row.id, row)

    def remove(self, kind: type[Row], row_id: int) -> None:
        self._unset(self._tables.rows[kind], row_id)

    def wake(self, wake: Wake) -> None:
        self.wakes.append(wake)
