"""`Model.objects`: create, get, filter, bulk verbs. One subclass per model says where its rows live.

`Objects` is the descriptor behind the attribute; it binds to the class it is read from, and so to that class's client.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar, get_args, get_origin

from balsam.client.errors import NotFound, Problem, ValidationFailed
from balsam.client.lookups import aware, lookups_of
from balsam.client.models.application import ApplicationDefinition, is_definition
from balsam.client.query import FIRST_PAGE, NEXT_PAGES, Changed, Query
from balsam.client.values import checked
from balsam.wire import API_PREFIX
from balsam.wire.kinds import Fields

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.model import Model
    from balsam.wire.base import Message
    from balsam.wire.lookups import Lookup

M = TypeVar("M", bound="Model")
G = TypeVar("G", bound="Manager[Any]")
R = TypeVar("R", bound="Message")
PAGING = frozenset({"limit", "offset", "ordering", "after", "after_value", "with_count", "where"})


class Page(NamedTuple):
    """`total`: the number of all matches, None when it was not asked for."""

    total: int | None
    rows: list[dict[str, Any]]


class Objects(Generic[G]):
    """`objects = Objects(JobManager)`."""

    def __init__(self, kind: Callable[[Any], G]) -> None:
        self._kind = kind

    def __get__(self, instance: object, owner: type) -> G:
        if instance is not None:
            raise AttributeError(f"objects belongs to the class: {owner.__name__}.objects")
        return self._kind(owner)


class Manager(Generic[M]):
    """Queries and verbs of one model class."""

    path: ClassVar[str]
    plain_lists: ClassVar[Mapping[str, type]] = {}  # filters of several values, of which any may match; see _plain
    plain_values: ClassVar[Mapping[str, type]] = {}  # filters of one value
    counts_apart: ClassVar[bool] = False  # a page has the number of all matches only when it is asked for
    orderings: ClassVar[tuple[str, ...]] = ()
    default_ordering: ClassVar[str] = "id"
    keyset: ClassVar[frozenset[str]] = frozenset()  # fields of orderings in which a page can start after a row
    lookups: ClassVar[Fields] = {}
    conjunctive: ClassVar[frozenset[str]] = frozenset({"tags", "filter_tags", "data"})

    def __init__(self, model: type[M]) -> None:
        self.model = model

    @property
    def name(self) -> str:
        return self.model._base.__name__

    @property
    def client(self) -> "Client":
        return self.model._client()

    @staticmethod
    def _filter_type() -> "type[Message]":
        """The message that has the filters. Imported late: with it comes pydantic, which plain queries need not."""
        raise NotImplementedError

    def all(self) -> Query[M]:
        """Every row that is yours.

        >>> Site.objects.all().count()
        1
        """
        return Query(self)

    def filter(self, **filters: Any) -> Query[M]:
        """Rows that match every filter; see `Query.filter`.

        >>> [one.name for one in App.objects.filter(site_id=site.id, name="Hello")]
        ['Hello']
        """
        return Query(self).filter(**filters)

    def get(self, **filters: Any) -> M:
        """The only match. Raises `DoesNotExist` or `MultipleObjectsReturned` of the model.

        >>> Site.objects.get(name=site.name) == site
        True
        """
        return Query(self).get(**filters)

    def order_by(self, *fields: str) -> Query[M]:
        """Every row, ordered.

        >>> BatchJob.objects.order_by("-start_time").first().site_id == site.id
        True
        """
        return Query(self).order_by(*fields)

    def count(self) -> int:
        """Number of rows.

        >>> Site.objects.count()
        1
        """
        return Query(self).count()

    def first(self) -> M:
        """The first row. Raises IndexError when there is none.

        >>> Site.objects.first() == site
        True
        """
        return Query(self).first()

    def __iter__(self) -> Iterator[M]:
        return iter(Query(self))

    def create(self, *args: Any, **fields: Any) -> M:  # any arguments: managers name theirs
        """Make an instance and save it.

        >>> made = Job.objects.create(app_id=Hello, workdir="docs/made", parameters={"name": "x"})
        >>> made.id > 0
        True
        """
        instance = self.model(*args, **fields)
        instance.save()
        return instance

    def _rows(
        self,
        filters: Mapping[str, Any],
        ordering: str | None,
        offset: int,
        wanted: int | None,
        deadline_sec: float | None = None,
    ) -> Iterator[M]:
        """Rows in order, page by page."""
        page_size = FIRST_PAGE
        place: dict[str, Any] = {"offset": offset or None}
        while wanted is None or wanted > 0:
            limit = page_size if wanted is None else min(page_size, wanted)
            rows = self._get_page({**filters, **self._paging(limit, ordering, place)}, deadline_sec).rows
            for row in rows:
                yield self.model._from_row(row)
            if len(rows) < limit:
                return
            wanted = None if wanted is None else wanted - len(rows)
            offset += len(rows)
            place = self._place_after(rows[-1], ordering, offset)
            page_size = NEXT_PAGES

    def _paging(self, limit: int, ordering: str | None, place: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a page request that are not filters."""
        paging = {"limit": limit, "ordering": ordering, **place}
        if self.counts_apart:
            paging["with_count"] = False
        return {key: value for key, value in paging.items() if value is not None}

    def _place_after(self, row: Mapping[str, Any], ordering: str | None, offset: int) -> dict[str, Any]:
        """Where the page after this row starts."""
        name = (ordering or self.default_ordering).removeprefix("-")
        if name not in self.keyset:
            return {"offset": offset}
        value = row[name]
        text = value.isoformat() if isinstance(value, datetime) else str(value)
        return {"after": row["id"]} if name == "id" else {"after": row["id"], "after_value": text}

    def _get_page(self, fields: Mapping[str, Any], deadline_sec: float | None = None) -> Page:
        """One page. Its rows are checked field by field, without the message they came from."""
        transport = self.client.transport
        answer = transport.search_json(self.path, fields, deadline_sec=deadline_sec)
        with self._understanding():
            rows = [self.model._row_of_json(row) for row in answer["results"]]
            return Page(answer["count"], rows)

    def _count(self, filters: Mapping[str, Any], deadline_sec: float | None = None) -> int:
        counted = {"with_count": True} if self.counts_apart else {}
        return int(self._get_page({**filters, "limit": 0, **counted}, deadline_sec).total or 0)

    @staticmethod
    def _row_dict(view: "Message") -> dict[str, Any]:
        return view.__dict__

    def _read(self, row_id: int, deadline_sec: float | None = None) -> dict[str, Any]:
        try:
            answer = self.client.transport.read_json(f"{self.path}/{row_id}", deadline_sec=deadline_sec)
        except NotFound as error:
            raise self.model.DoesNotExist(f"{self.name} {row_id} does not exist (any more)", code=error.code) from None
        with self._understanding():
            return self.model._row_of_json(answer)

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        """Raises WireVersionMismatch for what is no row."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            from balsam.client.transport.codec import misunderstood

            why = f"{type(error).__name__}: {error}"
            raise misunderstood(f"GET {API_PREFIX}{self.path}", self.client.url, why) from error

    def _changed_of(self, given: Iterable[M]) -> dict[int, tuple[M, dict[str, Any]]]:
        """Those that have changes, with them, by id. Raises ValueError when one is there twice with different ones."""
        changed: dict[int, tuple[M, dict[str, Any]]] = {}
        for one in given:
            row_id, changes = one._saved_id(), one._changes()
            if changes and changed.setdefault(row_id, (one, changes))[1] != changes:
                raise ValueError(f"{self.name} {row_id} is there twice, with different changes; keep one of the two")
        return changed

    def _post_new(self, instance: M, body: "type[Message]", reply: type[R]) -> R:
        """Create an instance; a repeat after an unclear end carries the same key (S3)."""
        from balsam.wire.base import dump_body

        content = dump_body(checked(body, self.name, instance._given()))
        transport = self.client.transport
        if instance._key is None or instance._key[1] != content:
            instance._key = (transport.new_key(), content)
        return transport.request("POST", self.path, body=content, reply=reply, idempotency_key=instance._key[0])

    def _create(self, instance: M) -> None:
        raise TypeError(f"{self.name} is not created by users")

    def _update(self, instance: M, changes: dict[str, Any]) -> None:
        raise TypeError(f"{self.name} can't be changed")

    def _delete(self, instance: M) -> None:
        with suppress(NotFound):
            self.client.transport.request("DELETE", f"{self.path}/{instance._saved_id()}")

    def _update_matching(self, query: Query[M], fields: dict[str, Any]) -> Changed:
        raise TypeError(f"{self.name} queries can't be updated; change the instances")

    def _delete_matching(self, query: Query[M]) -> Changed:
        raise TypeError(f"{self.name} queries can't be deleted; delete the instances")

    def _checked_filters(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        """Filters as the service knows them."""
        plain = self._plain(filters)
        if plain is not None:
            return plain
        kind = self._filter_type()
        known = {name: field.annotation for name, field in kind.model_fields.items() if name not in PAGING}
        fields: dict[str, Any] = {}
        where: list[Lookup] = []
        for name, value in filters.items():
            value = self._filter_value(name, value)
            takes_list = name in known and _is_list(known[name])
            if name == "id" and value is None:
                why = "is None: an object that is not saved, or was deleted, has no id; leave it out to select all"
                raise ValidationFailed(f"id {why}", code="validation", details=[Problem("id", why)])
            if name not in known or (name in self.lookups and not takes_list and isinstance(value, (list, tuple, set))):
                where += lookups_of(name, value, self.lookups, self.name, known)
            elif value is not None:
                fields[name] = _listed(value) if takes_list else value
        if where:
            fields["where"] = where
        message = checked(kind, f"{self.name} filter", fields)
        return {name: getattr(message, name) for name in fields}

    def _plain(self, filters: Mapping[str, Any]) -> dict[str, Any] | None:
        """The filters when all are of exactly the types in `plain_*`; None when one needs a closer look."""
        fields: dict[str, Any] = {}
        for name, given in filters.items():
            value = self._filter_value(name, given)
            if name in self.plain_lists:
                value = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
                if any(type(item) is not self.plain_lists[name] for item in value):
                    return None
            elif type(value) is not self.plain_values.get(name):
                return None
            fields[name] = value
        return fields

    def _filter_value(self, name: str, value: Any) -> Any:
        """What a user may write for a value of the service's: a model instance for its id, a dict for tags."""
        if name in self.conjunctive and isinstance(value, Mapping):
            return [f"{key}:{item}" for key, item in value.items()]
        return aware(value) if isinstance(value, datetime) else value


def _listed(value: Any) -> list[Any]:
    from balsam.client.model import Model

    items = [value] if isinstance(value, (str, bytes, Model)) or not isinstance(value, Iterable) else list(value)
    return [_id_of(item) if is_definition(item) or isinstance(item, Model) else item for item in items]


def _id_of(item: "Model | type[ApplicationDefinition]") -> int:
    return item._ensure_synced() if isinstance(item, type) else item._saved_id()


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(_is_list(part) for part in get_args(annotation))
