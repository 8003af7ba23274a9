"""Markdown of one public class or function: signature, docstring, fields, properties, methods."""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import inspect
from collections.abc import Iterator
from typing import Any

from source import Line, lines_of, signature, text_of

from balsam.client.fields import Field
from balsam.client.model import Model
from balsam.client.objects import Manager
from balsam.wire.kinds import OPS, OPS_OF

WRITE = {"always": "any time", "create": "until it is saved", "saved": "once it is saved", "never": "by the service"}


def markdown(thing: Any, name: str, apart: frozenset[type]) -> str:
    """A section. Members that a class has from one of `apart` are described there."""
    if inspect.isfunction(thing):
        return "\n".join([f"## {name}\n", *function_part(thing, name)])
    return "\n".join(part for part in class_parts(thing, name, apart) if part)


def class_parts(cls: type, name: str, apart: frozenset[type]) -> Iterator[str]:
    yield f"## {name}\n"
    yield docstring(cls)
    if issubclass(cls, enum.Enum):
        yield members_table(cls)
        return
    if issubclass(cls, BaseException):
        bases = [base.__name__ for base in cls.__bases__ if base is not object]
        yield f"A kind of `{'`, `'.join(bases)}`.\n"
    yield fields_table(cls)
    if issubclass(cls, Manager):
        yield filters_table(cls)
    members = list(own_members(cls, apart))
    yield properties_table(members)
    for member, value in members:
        if is_method(value):
            yield f"### {name}.{member}\n"
            yield from function_part(getattr(value, "__func__", value), f"{name}.{member}")


def function_part(function: Any, name: str) -> Iterator[str]:
    yield f"```python\n{signature(function, name)}\n```\n"
    yield docstring(function)


def own_members(cls: type, apart: frozenset[type]) -> Iterator[tuple[str, Any]]:
    """Public methods and properties in the order they are written, those of mixins last."""
    seen: set[str] = set()
    elsewhere = {base for other in apart - {cls} if issubclass(cls, other) for base in other.__mro__}
    for owner in cls.__mro__:
        if owner in elsewhere or not owner.__module__.startswith("balsam."):
            continue
        for name, value in [pair for pair in vars(owner).items() if not pair[0].startswith("_")]:
            if name not in seen and (is_method(value) or isinstance(value, (property, functools.cached_property))):
                seen.add(name)
                yield name, value


def is_method(value: Any) -> bool:
    return inspect.isfunction(getattr(value, "__func__", value))


def docstring(thing: Any) -> str:
    """Its text, with the examples in blocks."""
    own = thing.__doc__ if not isinstance(thing, type) else vars(thing).get("__doc__")
    out: list[str] = []
    in_example = False
    for line in inspect.cleandoc(own or "").splitlines():
        if line.startswith(">>>") and not in_example:
            out += ["```pycon"] if not out or not out[-1] else ["", "```pycon"]
            in_example = True
        elif in_example and not line:
            out.append("```")
            in_example = False
        out.append(line)
    return "\n".join([*out, *(["```"] if in_example else [])]) + "\n" if out else ""


def fields_table(cls: type) -> str:
    if issubclass(cls, Model):
        rows = [_model_row(line) for owner in reversed(cls.__mro__) if issubclass(owner, Model) and owner is not Model
                for line in lines_of(owner) if isinstance(getattr(owner, line.name, None), Field)]  # fmt: skip
        return table(("field", "type", "default", "is set", ""), rows)
    if not (dataclasses.is_dataclass(cls) or hasattr(cls, "model_fields") or hasattr(cls, "_fields")):
        return ""
    lines = [line for line in lines_of(cls) if line.type and not line.type.startswith("ClassVar")]
    rows = [(f"`{line.name}`", code(line.type), code(line.default), line.remark) for line in lines]
    return table(("field", "type", "default", ""), rows)


def _model_row(line: Line) -> tuple[str, ...]:
    """`num_nodes = Field[int](1, write=Write.CREATE)`."""
    call = line.value
    assert isinstance(call, ast.Call)
    kind = text_of(call.func.slice) if isinstance(call.func, ast.Subscript) else ""
    write = next((ast.unparse(word.value) for word in call.keywords if word.arg == "write"), "Write.ALWAYS")
    who = write.removeprefix("Write.").lower()
    default = "" if who == "never" else ast.unparse(call.args[0]) if call.args else "required"
    return f"`{line.name}`", code(kind), default if default == "required" else code(default), WRITE[who], line.remark


def filters_table(manager: type[Manager[Any]]) -> str:
    """Named filters, and the fields that can be looked up."""
    from balsam.client import signatures

    told = {"JobManager": "JobFilters", "EventManager": "EventFilters", "BatchJobManager": "BatchJobFilters"}
    told |= {"SiteManager": "SiteFilters", "AppManager": "AppFilters", "TransferManager": "TransferFilters"}
    if manager.__name__ not in told:
        return ""
    rows = [(f"`{line.name}`", code(line.type)) for line in lines_of(getattr(signatures, told[manager.__name__]))]
    text = table(("filter", "takes"), rows)
    if manager.lookups:
        kinds = [(f"`{name}`", kind.value, " ".join(op for op in OPS if op in OPS_OF[kind]))
                 for name, kind in manager.lookups.items()]  # fmt: skip
        text += "\n" + table(("look-up", "holds", "compared by, after `__`"), kinds)
    if manager.orderings:
        text += f"\nOrders: {', '.join(code(order) for order in manager.orderings)}.\n"
    return text


def members_table(cls: type[enum.Enum]) -> str:
    remarks = {line.name: line.remark for line in lines_of(cls)}
    return table(
        ("member", "value", ""), [(f"`{one.name}`", code(repr(one.value)), remarks.get(one.name, "")) for one in cls]
    )


def properties_table(members: list[tuple[str, Any]]) -> str:
    rows = [(f"`{name}`", _kind(value), " ".join(docstring(value).split()))
            for name, value in members if not is_method(value)]  # fmt: skip
    return table(("property", "type", ""), rows)


def _kind(value: Any) -> str:
    function = value.fget if isinstance(value, property) else value.func
    assert function is not None
    _, _, answer = signature(function, "").rpartition(" -> ")
    return code(answer)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def table(heads: tuple[str, ...], rows: list[Any]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
