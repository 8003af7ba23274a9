"""Query: a lazy, chainable selection of rows. Nothing is asked before a result is needed.

Iterating streams pages, each after the last row of the one before, so that row 1,000,000 costs as much as row 1. Up to
`KEPT_ROWS` results are kept for the next look; `len` and indexing into an evaluated query keep them all.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from balsam.client.errors import ServiceUnavailable
from balsam.client.lookups import described

if TYPE_CHECKING:
    from balsam.client.model import Model
    from balsam.client.objects import Manager

M = TypeVar("M", bound="Model")
KEPT_ROWS = 10_000
FIRST_PAGE = 1_000
NEXT_PAGES = 5_000


class Changed(int):
    """How many rows a verb changed: a number, with `refused` saying which it could not change and why (at most 100).

    When the answer to a call was lost and the call repeated, it counts what the repeat changed: the verb is carried out
    on every match either way.
    """

    refused: dict[int, str]

    def __new__(cls, changed: int, refused: Mapping[int, str] | None = None) -> Self:
        number = super().__new__(cls, changed)
        number.refused = dict(refused or {})
        return number

    @property
    def changed(self) -> int:
        return int(self)


class Query(Generic[M]):
    """A selection. Made by `objects.all()`, `objects.filter(...)`; see there for the filters of each model.

    >>> finished = Job.objects.filter(state="JOB_FINISHED").order_by("-last_update")[:10]
    >>> job in finished
    True
    """

    def __init__(self, manager: "Manager[M]") -> None:
        self._manager = manager
        self._filters: dict[str, Any] = {}
        self._nothing = False  # an empty list was asked for
        self._ordering: str | None = None
        self._start = 0
        self._stop: int | None = None
        self._cache: list[M] | None = None

    def all(self) -> Self:
        """The same selection, to be evaluated anew.

        >>> Job.objects.filter(id=job.id).all().count()
        1
        """
        return self._copy()

    def filter(self, **filters: Any) -> Self:
        """Narrow the selection. A list means any of its values; an empty one selects nothing and asks nothing.

        Beside the filters that the model's manager names, every field can be looked up: `num_nodes__gt=2`,
        `workdir__startswith="a/"`, `created_at__gt=yesterday`, `parameters__x__lte=0.5`, `data={"grid": {"x": 3}}`. The
        ways are `eq` (the default) `ne in gt gte lt lte range contains startswith endswith isnull`; what is missing
        differs from everything, and is null. The guide says which filters are fast with a million Jobs.

        Raises TypeError for an unknown filter, naming the nearest; ValidationFailed for a value that can't be.

        >>> Job.objects.all().filter(id=job.id).filter(tags__kind__in=["a", "b"]).count()
        0
        """
        self._not_sliced("filter")
        query = self._copy()
        for name, value in self._manager._checked_filters(filters).items():
            query._add(name, value)
        return query

    def order_by(self, *fields: str) -> Self:
        """Order by one field, `-field` for descending.

        >>> EventLog.objects.filter(job_id=job.id).order_by("timestamp").first().to_state.value
        'READY'
        """
        self._not_sliced("order_by")
        if len(fields) != 1 or fields[0] not in self._manager.orderings:
            known = ", ".join(self._manager.orderings) or "none"
            raise TypeError(f"{self._manager.name} can be ordered by one of: {known}; not by {', '.join(fields)}")
        query = self._copy()
        query._ordering = fields[0]
        return query

    def get(self, **filters: Any) -> M:
        """The only match. Raises `DoesNotExist` or `MultipleObjectsReturned` of the model.

        >>> Job.objects.filter(workdir=job.workdir).get(id=job.id) == job
        True
        """
        query = self.filter(**filters) if filters else self
        found = query._rows_at_once(2)
        kind = self._manager.model
        if not found:
            raise kind.DoesNotExist(f"no {self._manager.name} matches {query._described()}", code="not_found")
        if len(found) > 1:
            raise kind.MultipleObjectsReturned(f"more than one {self._manager.name} matches {query._described()}")
        return found[0]

    def count(self) -> int:
        """Number of matches, counted by the service.

        >>> Job.objects.filter(id=job.id).count()
        1
        """
        return self._total(None)

    def _total(self, deadline_sec: float | None) -> int:
        if self._cache is not None:
            return len(self._cache)
        if self._nothing:
            return 0
        total = self._manager._count(self._filters, deadline_sec)
        stop = total if self._stop is None else min(self._stop, total)
        return max(0, stop - self._start)

    def first(self) -> M:
        """The first match. Raises IndexError when there is none.

        >>> EventLog.objects.filter(job_id=job.id).first().to_state.value
        'JOB_FINISHED'
        """
        found = self._rows_at_once(1)
        if not found:
            raise IndexError(f"no {self._manager.name} matches {self._described()}")
        return found[0]

    def exists(self) -> bool:
        """Whether anything matches.

        >>> Job.objects.filter(workdir__contains="no such place").exists()
        False
        """
        return bool(self._rows_at_once(1))

    def update(self, **fields: Any) -> Changed:
        """Set the fields of every match. Returns how many were changed; `.refused` says which were not, and why.

        >>> Job.objects.filter(id=job.id).update(tags={"seen": "yes"})
        1
        """
        self._not_sliced("update")
        self._cache = None
        if self._nothing:
            return Changed(0)
        return self._manager._update_matching(self, fields)

    def delete(self) -> Changed:
        """Delete every match. Returns how many; `.refused` says which could not be deleted, and why.

        >>> unwanted = Hello.submit("docs/unwanted", name="x", num_nodes=1000)
        >>> Job.objects.filter(id=unwanted.id).delete()
        1
        """
        self._not_sliced("delete")
        self._cache = None
        if self._nothing:
            return Changed(0)
        return self._manager._delete_matching(self)

    def __iter__(self) -> Iterator[M]:
        if self._cache is not None:
            return iter(self._cache)
        return self._stream()

    def __len__(self) -> int:
        return len(self._evaluated())

    def __bool__(self) -> bool:
        return bool(self._cache) if self._cache is not None else self.exists()

    @overload
    def __getitem__(self, key: int) -> M: ...
    @overload
    def __getitem__(self, key: slice) -> "Self | list[M]": ...
    def __getitem__(self, key: int | slice) -> "M | Self | list[M]":
        if isinstance(key, int):
            return self._one(key)
        if any(part is not None and part < 0 for part in (key.start, key.stop, key.step)) or key.step == 0:
            raise ValueError("a query can't be sliced from its end; order it the other way round")
        query = self._sliced(key.start or 0, key.stop)
        return query if key.step is None else list(query)[:: key.step]

    def __repr__(self) -> str:
        return f"<{self._manager.name} query: {self._described()}>"

    def _repr_html_(self) -> str:
        """How a notebook shows it: the first rows, and how many there are."""
        from balsam.client.display import DEADLINE_SEC, ROWS, rows_html

        model = self._manager.model
        try:
            found = list(self._sliced(0, ROWS)._rows(DEADLINE_SEC))
            total = len(found) if len(found) < ROWS else self._total(DEADLINE_SEC)
        except ServiceUnavailable as error:
            return rows_html((), (), f"{self!r}: {error}")
        shown = "" if total == len(found) else f"the first {len(found)} of "
        return rows_html(model._columns or model._shown, found, f"{self!r}: {shown}{total:,}")

    def _one(self, index: int) -> M:
        if index < 0:
            raise ValueError("a query has no negative index; order it the other way round")
        if self._cache is not None:
            return self._cache[index]
        found = self._sliced(index, index + 1)._rows_at_once(1)
        if not found:
            raise IndexError(f"{self._manager.name} query has no row {index}")
        return found[0]

    def _sliced(self, start: int, stop: int | None) -> Self:
        query = self._copy()
        query._start = self._start + start
        ends = [end for end in (self._stop, None if stop is None else self._start + stop) if end is not None]
        query._stop = min(ends, default=None)
        if self._cache is not None:
            query._cache = self._cache[start:stop]
        return query

    def _copy(self) -> Self:
        query = type(self)(self._manager)
        query._filters = dict(self._filters)
        query._nothing, query._ordering = self._nothing, self._ordering
        query._start, query._stop = self._start, self._stop
        return query

    def _add(self, name: str, value: Any) -> None:
        """Both the old and the new filter hold."""
        if name == "where":
            self._filters[name] = [*self._filters.get(name, ()), *value]
            self._nothing = self._nothing or any(lookup.op == "in" and not lookup.value for lookup in value)
            return
        if isinstance(value, list):
            value = list(dict.fromkeys(value))
            self._nothing = self._nothing or not value
        old = self._filters.get(name)
        if old is None:
            self._filters[name] = value
        elif name in self._manager.conjunctive:
            self._filters[name] = list(dict.fromkeys([*old, *value]))
        elif isinstance(value, list):
            self._filters[name] = [item for item in value if item in old]
            self._nothing = self._nothing or not self._filters[name]
        elif old != value:
            raise TypeError(f"{name} is filtered twice, by {old!r} and by {value!r}")

    def _evaluated(self) -> list[M]:
        if self._cache is None:
            self._cache = list(self._rows())
        return self._cache

    def _stream(self) -> Iterator[M]:
        if self._cache is not None:  # list() asks for the length between iter() and the first row
            yield from self._cache
            return
        kept: list[M] | None = []
        for row in self._rows():
            if kept is not None:
                kept.append(row)
                kept = kept if len(kept) <= KEPT_ROWS else None
            yield row
        if kept is not None:
            self._cache = kept

    def _rows_at_once(self, wanted: int) -> list[M]:
        if self._cache is not None:
            return self._cache[:wanted]
        return list(self._sliced(0, wanted)._rows())

    def _rows(self, deadline_sec: float | None = None) -> Iterator[M]:
        if self._nothing or (self._stop is not None and self._stop <= self._start):
            return
        wanted = None if self._stop is None else self._stop - self._start
        yield from self._manager._rows(self._filters, self._ordering, self._start, wanted, deadline_sec)

    def _not_sliced(self, what: str) -> None:
        if self._start or self._stop is not None:
            raise TypeError(f"{what} is not possible on a slice of a query; call it before slicing")

    def _described(self) -> str:
        texts = [f"{name}={_short(value)}" for name, value in self._filters.items() if name != "where"]
        texts += [described(lookup) for lookup in self._filters.get("where", ())]
        part = f" [{self._start}:{'' if self._stop is None else self._stop}]" if self._start or self._stop else ""
        return (", ".join(texts) or "all") + part


def _short(value: Any) -> str:
    items = [
        str(item) if isinstance(item, StrEnum) else item for item in (value if isinstance(value, list) else [value])
    ]
    text = repr(items[0] if len(items) == 1 else items)
    return text if len(text) <= 60 else f"{text[:57]}..."
