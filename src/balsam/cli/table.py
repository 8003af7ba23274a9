"""Tables for people: cut to the width of the terminal and coloured there; whole, plain and stable when piped.

A cell may be any value: a datetime is an age on a terminal and ISO 8601 in UTC elsewhere, None is a dash, a dict is
KEY=VALUE words. `NO_COLOR` and TERM=dumb switch colours off.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import click

from balsam.cli.output import plain

GAP = "  "
NARROWEST = 8
_COLORS = {
    **dict.fromkeys(("JOB_FINISHED", "finished", "active", "ok"), "green"),
    **dict.fromkeys(("FAILED", "submit_failed", "RUN_ERROR", "PROBLEM"), "red"),
    **dict.fromkeys(("CANCELLED", "RUN_TIMEOUT", "pending_deletion", "warning"), "yellow"),
    **dict.fromkeys(("RUNNING", "running"), "cyan"),
}


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print a table; `empty` is said (on stderr) when there is no row."""
    text = table_text(columns, rows)
    if text:
        click.echo(text)
    else:
        click.echo(empty, err=True)


def table_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The table, empty when there is no row."""
    on_terminal = sys.stdout.isatty()
    shown = [[_cell(value, on_terminal) for value in row] for row in rows]
    if not shown:
        return ""
    return "\n".join(_fitted(columns, shown) if on_terminal else _aligned(columns, shown))


def age(moment: datetime | None) -> str:
    """How long ago, in the largest unit that says something."""
    if moment is None:
        return "-"
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def has_color() -> bool:
    """Whether stdout is a terminal that takes colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _cell(value: object, on_terminal: bool) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return age(value) if on_terminal else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, dict):
        value = " ".join(f"{key}={item}" for key, item in value.items())
    return plain(str(value)).replace("\n", " ").replace("\t", " ")


def _aligned(columns: Sequence[str], rows: list[list[str]]) -> list[str]:
    table = [list(columns), *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    return [GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _fitted(columns: Sequence[str], rows: list[list[str]]) -> list[str]:
    from rich.cells import cell_len, set_cell_size  # only a terminal has characters of two columns

    table = [list(columns), *rows]
    widths = [max(cell_len(row[index]) for row in table) for index in range(len(columns))]
    widths = fit(widths, shutil.get_terminal_size().columns - len(GAP) * (len(columns) - 1))
    color = has_color()
    lines = []
    for number, row in enumerate(table):
        cells = []
        for cell, width in zip(row, widths, strict=True):
            text = cell if cell_len(cell) <= width else set_cell_size(cell, width - 1) + "…"
            padding = " " * (width - cell_len(text))
            cells.append((_styled(text, number == 0) if color else text) + padding)
        lines.append(GAP.join(cells).rstrip())
    return lines


def _styled(text: str, is_title: bool) -> str:
    return (
        click.style(text, bold=True) if is_title else click.style(text, fg=_COLORS[text]) if text in _COLORS else text
    )


def fit(widths: Sequence[int], room: int) -> list[int]:
    """Widths that fit into `room`: the widest columns give way first, none below a few characters.

    >>> fit([4, 40, 12, 60], 80)
    [4, 32, 12, 32]
    """
    limit = max(widths, default=0)
    while limit > NARROWEST and sum(min(width, limit) for width in widths) > room:
        limit -= 1
    return [min(width, limit) for width in widths]
