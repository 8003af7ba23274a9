"""Running `balsam` in this process, and walking its commands."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
import pytest

from balsam.cli import main, output
from balsam.cli.group import Group


@dataclass
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON value on stdout; fails when there is none, or anything else beside it."""
        return json.loads(self.out)


class Terminal(io.StringIO):
    """Stdout of a person."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def balsam(monkeypatch: pytest.MonkeyPatch, *words: str, put: str = "", terminal: bool = False) -> Done:
    """Run the entry point as a shell would."""
    out = Terminal() if terminal else io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    err = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["balsam", *words])
    monkeypatch.setattr(sys, "stdin", io.StringIO(put))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(output, "_printed", False)
    with pytest.raises(SystemExit) as end:
        main.main()
    code = end.value.code
    said = out.getvalue() if isinstance(out, Terminal) else out.buffer.getvalue().decode()  # type: ignore[attr-defined]
    return Done(int(code or 0), said, err.getvalue())


def leaves(command: click.Command | None = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that is no group."""
    command = main.cli if command is None else command
    if not isinstance(command, Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        yield from leaves(command.get_command(context, name), (*path, name))


def command_at(path: tuple[str, ...]) -> click.Command:
    """The command with these words."""
    command: click.Command | None = main.cli
    for word in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None, path
    return command
