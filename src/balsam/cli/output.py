"""What commands print: one JSON value with `--json`, a table for people otherwise.

Text that came from Jobs or other users passes through `plain`, so that no escape sequence reaches the terminal.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value instead of a table.")


def print_json(value: Any) -> None:
    """Exactly one JSON value on stdout."""
    json.dump(value, sys.stdout, default=_jsonable, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table for people; `empty` is said when there is no row. Whole and stable when piped."""
    shown = [[_cell(value) for value in row] for row in rows]
    if not shown:
        click.echo(empty, err=True)
        return
    if not sys.stdout.isatty():
        _print_aligned(columns, shown)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for row in shown:
        table.add_row(*row)
    Console(markup=False, highlight=False, emoji=False).print(table)


def plain(text: str) -> str:
    """Text without control characters but newline and tab."""
    return "".join(char if char in "\n\t" or (char.isprintable()) else "\N{REPLACEMENT CHARACTER}" for char in text)


def age(moment: datetime | None) -> str:
    """How long ago, in the largest unit that says something."""
    if moment is None:
        return "-"
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def parse_pairs(option: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, str]]:
    """A click callback that turns repeated KEY=VALUE into a dict."""

    def parse(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
        pairs = {}
        for value in values:
            key, separator, text = value.partition("=")
            if not separator or not key:
                raise click.BadParameter(f"{value!r} is not KEY=VALUE, as in {option} kind=test")
            pairs[key] = text
        return pairs

    return parse


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    if isinstance(value, dict):
        value = " ".join(f"{key}={item}" for key, item in value.items())
    return plain(str(value)).replace("\n", " ")


def _print_aligned(columns: Sequence[str], rows: list[list[str]]) -> None:
    table = [list(columns), *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _jsonable(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return str(value)
