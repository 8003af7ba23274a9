"""Values of options that click does not know: ids in ranges, moments, states."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _Ranges = click.ParamType[tuple[range, ...]]
    _Time = click.ParamType[datetime]
    _Member = click.ParamType[StrEnum]
    _Text = click.ParamType[str]
else:  # generic in newer versions of click only
    _Ranges = _Time = _Member = _Text = click.ParamType

MAX_IDS = 10_000
_PART = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)")
_UNITS = {"s": "seconds", "min": "minutes", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class IdRanges(_Ranges):
    """`5-20,33`: ids and ranges of ids, separated by commas.

    >>> IdRanges().convert("5-7,33", None, None)
    (range(5, 8), range(33, 34))
    """

    name = "ids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[range, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self._range(part.strip(), param, ctx) for part in str(value).split(","))

    def _range(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        found = _PART.fullmatch(text)
        if found is None:
            self.fail(f"{text!r} is no id and no range of ids, as in 5-20,33", param, ctx)
        first, last = int(found[1]), int(found[2] or found[1])
        if first < 1 or last < first:
            self.fail(f"{text} is no range of ids; it goes from the smaller to the larger", param, ctx)
        return range(first, last + 1)


def joined(_ctx: click.Context, _param: click.Parameter, values: tuple[tuple[range, ...], ...]) -> tuple[range, ...]:
    """A click callback: the ranges of a repeatable option. Raises BadParameter for more than 10,000 ids."""
    ranges = tuple(one for ranges in values for one in ranges)
    if sum(one.stop - one.start for one in ranges) > MAX_IDS:
        raise click.BadParameter(f"more than {MAX_IDS} ids; select by --tag, --app or --state instead")
    return ranges


def expanded(ranges: Iterable[range]) -> tuple[int, ...]:
    """The ids, each once, in the order in which they were given."""
    return tuple(dict.fromkeys(number for one in ranges for number in one))


class Moment(_Time):
    """`2h`, `30min`, `1d` ago, or ISO 8601; without a zone it is this machine's time.

    >>> Moment().convert("2026-11-26T05:00:00+01:00", None, None)
    datetime.datetime(2026, 11, 26, 4, 0, tzinfo=datetime.timezone.utc)
    """

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        try:
            ago = _AGO.fullmatch(text)
            if ago is not None:
                return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is no time: write 90s, 30min, 2h, 1d or 1w, or 2026-11-26T14:00", param, ctx)


class OneOf(_Member):
    """A member of an enumeration, in capital or small letters. The value that commands get is the member."""

    name = "state"

    def __init__(self, kind: type[StrEnum], hidden: Iterable[StrEnum] = ()) -> None:
        self._known: dict[str, StrEnum] = {one.value.lower(): one for one in kind if one not in set(hidden)}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StrEnum:
        if isinstance(value, StrEnum):
            return value
        found = self._known.get(str(value).strip().lower())
        if found is None:
            names = ", ".join(self._known.values())
            self.fail(f"{value!r} is none of: {names}", param, ctx)
        return found

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        return [CompletionItem(one.value) for key, one in self._known.items() if key.startswith(incomplete.lower())]


class MachineName(_Text):
    """A machine that settings are shipped for. Looked up only when it is given."""

    name = "machine"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from balsam.platform.machines import UnknownMachine, settings_text

        try:
            settings_text(str(value))
        except UnknownMachine as error:
            self.fail(str(error), param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        from balsam.platform.machines import machine_names

        return [CompletionItem(name) for name in machine_names() if name.startswith(incomplete)]
