"""`balsam job create --each`: the values of parameters in a series of Jobs, and what differs from one to the next."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

import click

MAX_JOBS = 100_000
_RANGE = re.compile(r"(\d{1,18})-(\d{1,18})")
_EXAMPLE = "as in --each seed=1-100 or --each kind=bulk,slab"


def parse_each(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, list[str]]:
    """A click callback: the values of each parameter. Raises BadParameter, also for more Jobs than MAX_JOBS."""
    parts: dict[str, list[str]] = {}
    for text in given:
        name, _, values = text.partition("=")
        if not name or not values:
            raise click.BadParameter(f"{text!r} is not PARAM=VALUES, {_EXAMPLE}")
        if name in parts:
            raise click.BadParameter(f"{name} is there twice; give all its values at once, {_EXAMPLE}")
        parts[name] = values.split(",")
    count = prod(sum(len(_numbers(part) or (part,)) for part in values) for values in parts.values())
    if count > MAX_JOBS:
        raise click.BadParameter(f"these are {count} Jobs; one command creates at most {MAX_JOBS}")
    return {name: [value for part in values for value in _texts(part)] for name, values in parts.items()}


def jobs_of(each: Mapping[str, list[str]], fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields of each Job of the series. `{seed}` in workdir, tags and paths of files stands for its value.

    Raises BadParameter when two of them would have the same workdir.
    """
    if missing := [name for name, values in each.items() if len(values) > 1 and f"{{{name}}}" not in fields["workdir"]]:
        words = "/".join(f"{{{name}}}" for name in missing)
        raise click.BadParameter(
            f"each Job needs a workdir of its own; put {{{missing[0]}}} into it, as in {fields['workdir']}/{words}",
            param_hint="--workdir",
        )
    for values in product(*each.values()):
        chosen = dict(zip(each, values, strict=True))
        here = {name: _filled(fields[name], chosen) for name in ("workdir", "tags", "transfers") if name in fields}
        yield {**fields, **here, "parameters": {**fields["parameters"], **chosen}}


def ranges_text(ids: Iterable[int]) -> str:
    """Ids as the selectors of the command take them.

    >>> ranges_text([3, 4, 5, 9, 11, 12])
    '3-5,9,11-12'
    """
    ranges: list[list[int]] = []
    for number in sorted(ids):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _numbers(part: str) -> range | None:
    found = _RANGE.fullmatch(part)
    return range(int(found[1]), int(found[2]) + 1) if found and int(found[1]) <= int(found[2]) else None


def _texts(part: str) -> Iterator[str]:
    """One value, or those of a range; `001-100` keeps its zeros."""
    numbers = _numbers(part)
    if numbers is None:
        yield part
        return
    width = len(part.partition("-")[0]) if part.startswith("0") else 0
    yield from (f"{number:0{width}}" for number in numbers)


def _filled(given: Any, chosen: Mapping[str, str]) -> Any:
    if isinstance(given, Mapping):
        return {key: _filled(value, chosen) for key, value in given.items()}
    for name, value in chosen.items():
        given = given.replace(f"{{{name}}}", value)
    return given
