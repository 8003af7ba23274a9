"""Fields of model classes: `workdir = Field[str]()` gives every instance a typed `workdir`.

A field reads what was set on the instance, else the row that came from the service. Lists and dicts are handed out as
copies that the instance keeps, so a change in place is found by comparing with the row.
"""

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from balsam.client.model import Model

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
INSTANT = datetime.fromisoformat
REQUIRED: Any = object()


class Write(Enum):
    """Who may set a field, and when."""

    ALWAYS = "always"
    CREATE = "create"  # until it is saved
    SAVED = "saved"  # once it is saved
    NEVER = "never"  # the service sets it


class Field(Generic[T]):
    """One field. `default` is for unsaved instances; a list or dict as default is copied for each.

    `parse` turns the JSON that the service sends into the row's value, `load` that into the Python value, `accept` what
    a user sets. `volatile`: what is pushed does not carry it, so that it is read again after a push.
    """

    def __init__(
        self,
        default: Any = REQUIRED,
        *,
        write: Write = Write.ALWAYS,
        parse: Callable[[Any], Any] | None = None,
        load: Callable[[Any], T] | None = None,
        accept: Callable[[Any], Any] | None = None,
        volatile: bool = False,
    ) -> None:
        self.default = default
        self.write = write
        self.parse = parse
        self.load = load
        self.accept = accept
        self.volatile = volatile
        self.name = ""
        self.__doc__ = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: "Model", owner: type) -> T: ...
    def __get__(self, instance: "Model | None", owner: type) -> Self | T:
        if instance is None:
            return self
        if (self.volatile and instance._stale) or (instance._is_partial and self.name not in (instance._row or {})):
            instance._freshen()
        values = instance._values
        if self.name in values:
            kept: T = values[self.name]
            return kept
        value = self.of_row(instance._row)
        if isinstance(value, (dict, list, set)):
            values[self.name] = value  # the user may change it in place
        fresh: T = value
        return fresh

    def __set__(self, instance: "Model", value: Any) -> None:
        if self.write is Write.NEVER:
            raise AttributeError(
                f"{type(instance).__name__}.{self.name} is set by the service{instance._hint(self.name)}"
            )
        if self.write is Write.SAVED and instance._row is None:
            raise AttributeError(f"{type(instance).__name__}.{self.name} can be set once it is saved")
        if self.write is Write.CREATE and instance._row is not None:
            raise AttributeError(f"{type(instance).__name__}.{self.name} can't be changed once it is saved")
        instance._values[self.name] = self.accept(value) if self.accept is not None else value

    def is_default(self, value: Any) -> bool:
        """Whether a value needs no mention. Types first: numpy's == answers with an array."""
        return type(value) is type(self.default) and bool(value == self.default)

    def of_row(self, row: dict[str, Any] | None) -> Any:
        """The value in a row, or the default; never a list or dict that others hold too."""
        value = self.default if row is None or self.name not in row else row[self.name]
        if value is REQUIRED:
            return None
        return copied(value) if self.load is None or value is None else self.load(value)


def one_of(kind: type[E]) -> Callable[[Any], E]:
    """For `accept`: a member, or its value. Raises ValueError, which lists the values."""

    def accept(value: Any) -> E:
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(str(member.value) for member in kind)
            raise ValueError(f"{value!r} is no {kind.__name__}; there are: {known}") from None

    return accept


class IdField(Field[int]):
    """The id: None before an object is saved, and again when it was deleted."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: "Model", owner: type) -> int: ...
    def __get__(self, instance: "Model | None", owner: type) -> Self | int:
        if instance is None:
            return self
        found: int = self.of_row(None if instance._deleted else instance._row)
        return found


def plain_copy(value: Any) -> Any:
    """A part of a row as plain values: it came as JSON, or as a message in the answer to a creation."""
    dump = getattr(value, "model_dump", None)
    return copied(value) if dump is None else dump(mode="json")


def copied(value: Any) -> Any:
    """A copy of nested lists and dicts; cheap for everything else."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value
