"""docs/compatibility.md: every public name of Balsam 0.7 once, and what it says of each is so."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import pytest

from balsam.cli.main import cli
from balsam.client.query import Query
from balsam.domain.app import LaunchMethod
from balsam.domain.lifecycle import Hook
from balsam.site.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
NAMES = Path(__file__).parent / "names_of_balsam_0_7.txt"
ROW = re.compile(r"^\| (`[^|]+`) \| (\w+) \| ?(.*?) ?\|$")


class Row(NamedTuple):
    part: str
    name: str
    verdict: str
    because: str


def rows() -> Iterator[Row]:
    part = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            part = line.removeprefix("## ")
        elif found := ROW.match(line):
            names, verdict, because = found.groups()
            for name in re.findall(r"`([^`]+)`", names):
                yield Row(part, name, verdict, because)


def test_every_name_of_0_7_once() -> None:
    listed = [(row.part, row.name) for row in rows()]
    part, known = "", []
    for line in NAMES.read_text().splitlines():
        if line.startswith("# "):
            part = line.removeprefix("# ")
        elif line:
            known.append((part, line))
    assert sorted(listed) == sorted(known)
    assert len(set(listed)) == len(listed) > 350


def test_each_row_has_a_verdict_and_a_reason() -> None:
    assert [row for row in rows() if row.verdict not in ("same", "better", "not")] == []
    assert [row for row in rows() if row.verdict != "same" and not row.because] == []


@pytest.mark.parametrize("part", sorted({row.part for row in rows()}))
def test_what_is_said_to_be_here_is_here(part: str) -> None:
    here = [row for row in rows() if row.part == part]
    assert [row.name for row in here if row.verdict != "not" and not is_there(row)] == []
    if part.startswith("Python"):
        assert [row.name for row in here if row.verdict == "not" and is_there(row)] == []


def is_there(row: Row) -> bool:
    if row.part.startswith("Python"):
        return is_in_python(row.name)
    if row.part == "Command":
        return is_in_command(row.name.split()[1:])
    if row.part == "settings.yml":
        return is_setting(row.name)
    if row.part == "Methods that an App defines":
        return row.name in {"run", *Hook, *LaunchMethod}
    return row.name in words_of_the_sources()


@functools.cache
def words_of_the_sources() -> frozenset[str]:
    sources = (ROOT / "src" / "balsam").rglob("*.py")
    return frozenset(re.findall(r"\w+", "\n".join(path.read_text() for path in sources)))


def is_in_python(name: str) -> bool:
    path, _, argument = name.removesuffix("=)").partition("(")
    try:
        found = resolve(path)
    except AttributeError:
        return False
    if not argument:
        return True
    manager: Any = found.__self__
    return argument in {*manager._filter_type().model_fields, *manager.lookups}


def resolve(path: str) -> Any:
    first, *rest = path.split(".")
    if first == "Query":
        return getattr(Query, rest[0])
    if first != "balsam":
        home = importlib.import_module("balsam.api")
        return follow(home, [first, *rest])
    home = importlib.import_module("balsam")
    while rest and importlib.util.find_spec(f"{home.__name__}.{rest[0]}"):
        home = importlib.import_module(f"{home.__name__}.{rest.pop(0)}")
        if not hasattr(home, "__path__"):
            break
    return follow(home, rest)


def follow(thing: Any, names: list[str]) -> Any:
    for name in names:
        is_promised = name in getattr(thing, "__annotations__", ())  # that a subclass has it
        thing = getattr(thing, name, None) if is_promised else getattr(thing, name)
    return thing


def is_in_command(words: list[str]) -> bool:
    command: click.Command | None = cli
    context = click.Context(cli)
    for word in words:
        if word.startswith("-"):
            assert command is not None
            return any(word in (*option.opts, *option.secondary_opts) for option in command.params)
        command = command.get_command(context, word) if isinstance(command, click.Group) else None
        if command is None:
            return False
    return True


def is_setting(name: str) -> bool:
    section: Any = Settings
    for part in name.split("."):
        field = getattr(section, "model_fields", {}).get(part)
        if field is None:
            return False
        kinds = (field.annotation, *get_args(field.annotation))  # a section that `null` switches off is an option
        section = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return True
