"""How objects and queries look in a notebook: HTML tables. Nothing that came from elsewhere is taken for HTML."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balsam.client.model import Model

ROWS = 20
LONGEST_CELL = 200
DEADLINE_SEC = 10.0  # a cell that only shows something must not wait for an absent service


def object_html(instance: "Model") -> str:
    """One object: a row for each field."""
    rows = [(name, value) for name, value in instance.display_dict().items()]
    return _table((type(instance)._base.__name__, ""), rows)


def rows_html(columns: Sequence[str], found: "Iterable[Model]", caption: str) -> str:
    """Several objects: a row for each."""
    rows = [[getattr(row, column) for column in columns] for row in found]
    return f"{_table(columns, rows)}<p>{escape(caption)}</p>"


def _table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    text = _text(value)
    shown = text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]} ..."
    return escape(shown)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(item)}" for key, item in value.items())
    return str(value.value) if isinstance(value, Enum) else str(value)
