"""Model: what Site, App, Job, BatchJob, Session and EventLog have in common.

An instance is made in memory and created by `save`, or came from a query. It knows the row the service told last and
what was set since, and sends only that.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

from balsam.client import errors
from balsam.client.fields import REQUIRED, Field, IdField, Write
from balsam.client.values import json_copy, nearest

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.objects import Manager
    from balsam.client.settings import ClientSettings


_LATER = (Write.ALWAYS, Write.SAVED)


class Model:
    """Base of the classes in `balsam.api`. Two instances are equal when they stand for the same row."""

    DoesNotExist: ClassVar[type[errors.DoesNotExist]]
    MultipleObjectsReturned: ClassVar[type[errors.MultipleObjectsReturned]]
    id = IdField(None, write=Write.NEVER)

    _fields: ClassVar[dict[str, Field[Any]]] = {"id": id}
    _parsed: ClassVar[tuple[tuple[str, Callable[[Any], Any]], ...]] = ()
    _required: ClassVar[frozenset[str]] = frozenset()
    _base: ClassVar[type["Model"]]  # the class of balsam.api, also for the classes of another client
    _bound_client: ClassVar["Client | None"] = None
    _shown: ClassVar[tuple[str, ...]] = ("id",)
    _columns: ClassVar[tuple[str, ...]] = ()  # of tables, where they are not what repr shows
    _hints: ClassVar[dict[str, str]] = {}

    _values: dict[str, Any]
    _row: dict[str, Any] | None
    _key: tuple[str, bytes] | None  # of a creation whose outcome is not known
    _stale: bool = False  # the row is older than what is known of the object
    _deleted: bool = False  # by this instance
    _is_partial: bool = False  # the row has a part of the fields; the others are read when one is looked at

    def __init_subclass__(cls, bound_to: "Client | None" = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if bound_to is not None:
            cls._bound_client = bound_to
            return
        cls._base = cls
        cls._fields = {**cls._fields, **{name: item for name, item in vars(cls).items() if isinstance(item, Field)}}
        cls._parsed = tuple((name, item.parse) for name, item in cls._fields.items() if item.parse is not None)
        cls._required = frozenset(name for name, item in cls._fields.items() if item.default is REQUIRED)
        for base in (errors.DoesNotExist, errors.MultipleObjectsReturned):
            place = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.{base.__name__}"}
            setattr(cls, base.__name__, type(base.__name__, (base,), place))

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(_values={}, _row=None, _key=None)
        known = self._fields
        for name, value in fields.items():
            if name not in known:
                raise TypeError(f"{self._base.__name__} has no field {name!r}{nearest(name, known)}")
            known[name].__set__(self, value)
        if not self._required <= fields.keys():
            raise TypeError(f"{self._base.__name__} needs {', '.join(sorted(self._required - fields.keys()))}")

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> Self:
        instance = cls.__new__(cls)
        instance.__dict__.update(_values={}, _row=row, _key=None)
        return instance

    @classmethod
    def _row_of_json(cls, answer: Any) -> dict[str, Any]:
        """The row in an answer. Raises ValueError, TypeError, KeyError for what is none."""
        row: dict[str, Any] = answer
        if type(row["id"]) is not int:
            raise TypeError(f"id is {row['id']!r}")
        for name, parse in cls._parsed:
            value = row.get(name)
            if value is not None:
                row[name] = parse(value)
        return row

    @classmethod
    def _client(cls) -> "Client":
        if cls._bound_client is not None:
            return cls._bound_client
        from balsam.client.client import default_client

        return default_client()

    @classmethod
    def _manager(cls) -> "Manager[Any]":
        manager: Manager[Any] = vars(cls._base)["objects"].__get__(None, cls)
        return manager

    def save(self) -> None:
        """Create the object at the service, or send what was changed since; nothing to send is no request.

        A save that ended without a clear answer can be called again: it creates nothing twice.
        Raises ValidationFailed (every wrong field named), NotFound when it was deleted meanwhile, Conflict.

        >>> job.tags["checked"] = "yes"
        >>> job.save()
        >>> Job.objects.get(id=job.id).tags["checked"]
        'yes'
        """
        manager = self._manager()
        if self._row is None:
            manager._create(self)
            return
        self._saved_id()
        changes = self._changes()
        if changes:
            manager._update(self, changes)

    def refresh_from_db(self) -> None:
        """Read the object again; changes that were not saved are dropped. Raises `DoesNotExist` when it is gone.

        >>> job.refresh_from_db()
        >>> job.attempt
        1
        """
        self._take_row(self._manager()._read(self._saved_id()))

    def delete(self) -> None:
        """Delete the object at the service; its `id` is None then.

        One that is gone already is no error: a repeated call must not fail.

        >>> unwanted = Hello.submit("docs/unwanted", name="x", num_nodes=1000)
        >>> unwanted.delete()
        >>> unwanted.id is None
        True
        """
        if not self._deleted:
            self._manager()._delete(self)
            self._deleted = True

    def display_dict(self) -> dict[str, Any]:
        """All fields as plain values, for tables and JSON.

        >>> site.display_dict()["name"] == site.name
        True
        """
        return {name: getattr(self, name) for name in self._fields}

    def _freshen(self) -> None:
        """Read the row again because a part of it is known to be old; what was set stays set."""
        self._renew_row(self._manager()._read(self._saved_id()))

    def _renew_row(self, row: dict[str, Any]) -> None:
        """Take a newer row. Values that were read and not changed follow it, or a save would set the old ones again."""
        for name, value in list(self._values.items()):
            if value != self._fields[name].of_row(row) and self._row_says(name, value):
                del self._values[name]
        self._row, self._stale, self._is_partial = row, False, False

    def _changes(self) -> dict[str, Any]:
        """Fields that differ from the row, as JSON values."""
        changed = (name for name, value in self._values.items() if not self._row_says(name, value))
        return {name: json_copy(self._values[name], name) for name in changed if self._fields[name].write in _LATER}

    def _row_says(self, name: str, value: Any) -> bool:
        """Whether the row is known to have this value; what a part of a row leaves out may be anything."""
        row = self._row
        is_unknown = self._is_partial and row is not None and name not in row
        return not is_unknown and bool(value == self._fields[name].of_row(row))

    def _given(self) -> dict[str, Any]:
        """Fields that were set on an unsaved instance, as JSON values."""
        return {name: json_copy(value, name) for name, value in self._values.items()}

    def _take_row(self, row: dict[str, Any]) -> None:
        self.__dict__.update(_row=row, _values={}, _key=None, _stale=False, _is_partial=False)

    def _saved_id(self) -> int:
        if self._row is None:
            raise ValueError(f"this {self._base.__name__} is not saved yet; call save() first")
        if self._deleted:
            raise self.DoesNotExist(f"{self._base.__name__} {self._row['id']} was deleted", code="not_found")
        return int(self._row["id"])

    def _hint(self, name: str) -> str:
        hint = self._hints.get(name)
        return f"; {hint}" if hint else ""

    def _place(self) -> str:
        return self._client().url

    def __setattr__(self, name: str, value: Any) -> None:
        if name[0] != "_" and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no field {name!r}{nearest(name, self._fields)}")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Model):
            return NotImplemented
        if self._row is None or other._row is None:
            return self is other
        same = self._base is other._base and self._row["id"] == other._row["id"]
        return same and (type(self) is type(other) or self._place() == other._place())

    def __hash__(self) -> int:
        if self._row is None:
            raise TypeError(f"an unsaved {self._base.__name__} can't be in a set or be a key; save() it first")
        return hash((self._base, self._row["id"]))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_shown(getattr(self, name))}" for name in self._shown)
        return f"{self._base.__name__}({shown})"

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.display_dict().items())

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from balsam.client.display import object_html

        return object_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        settings = None if self._bound_client is None else self._bound_client.settings
        return _restored, (self._base, settings, self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        # Of its own: what is set on a copy must not be set here.
        return {"_values": dict(self._values), "_row": self._row, "_key": self._key, "_deleted": self._deleted}


def _restored(base: type[Model], settings: "ClientSettings | None", state: dict[str, Any]) -> Model:
    """An unpickled instance, attached to the default client, or to the client of the same settings in this process."""
    kind = base
    if settings is not None:
        from balsam.client.client import client_for

        kind = client_for(settings).bound(base)
    instance = kind.__new__(kind)
    for name, value in state.items():
        object.__setattr__(instance, name, value)
    return instance


def _shown(value: Any) -> str:
    return repr(str(value) if isinstance(value, StrEnum) else value)
