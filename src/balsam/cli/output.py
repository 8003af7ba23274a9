"""What commands print: one JSON value with `--json`, tables for people otherwise (see `table`).

Text that came from Jobs or other users passes through `plain`, and JSON escapes what `plain` replaces, so that no
escape sequence reaches the terminal.
"""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value instead of text for people.")

_printed = False


def print_json(value: Any) -> None:
    """Exactly one JSON value on stdout."""
    global _printed
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    text = json.dumps(value, default=_jsonable, ensure_ascii=encoding != "utf8")
    _printed = True
    # json leaves C1 controls and characters that change the direction as they are.
    sys.stdout.write((text if text.isprintable() else "".join(map(_escaped, text))) + "\n")
    sys.stdout.flush()


def _escaped(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1] if ord(char) > 0x7F else f"\\u{ord(char):04x}"


def size_text(size_bytes: int) -> str:
    """A size for people.

    >>> size_text(999), size_text(1_500_000_000), size_text(190_400_000)
    ('999 B', '1.50 GB', '190 MB')
    """
    value, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def print_error(kind: str, message: str, code: int) -> None:
    """An error as the JSON value of a command that printed none yet."""
    if not _printed:
        print_json({"error": {"type": kind, "message": message}, "exit_code": code})


def json_wanted(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, also one that can't be understood otherwise."""
    words = list(words)
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def plain(text: str) -> str:
    """Text without control characters but newline and tab."""
    return "".join(char if char in "\n\t" or (char.isprintable()) else "\N{REPLACEMENT CHARACTER}" for char in text)


def counted(number: int, noun: str) -> str:
    """`1 Job`, `2 Jobs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def parse_pairs(
    option: str, shape: str = "KEY=VALUE", example: str = "kind=test"
) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, str]]:
    """A click callback that turns repeated KEY=VALUE into a dict."""

    def parse(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
        pairs = {}
        for value in values:
            key, separator, text = value.partition("=")
            if not separator or not key:
                raise click.BadParameter(f"{value!r} is not {shape}, as in {option} {example}")
            pairs[key] = text
        return pairs

    return parse


def _jsonable(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return str(value)
