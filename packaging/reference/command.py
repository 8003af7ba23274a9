"""The page of the command, out of its own tree of groups, commands and options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
from objects import code, table

from balsam.cli.main import cli

HEAD = "<!-- made by `make docs` out of the program's help; change that -->\n"


def command_page() -> str:
    return "\n".join([HEAD, "# The command\n", *sections(cli, click.Context(cli, info_name="balsam"))])


def sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """The command, then everything below it."""
    yield f"## {context.command_path}\n"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```\n{usage}\n```\n"
    yield f"{help_text(command)}\n"
    rows = [row for parameter in command.get_params(context) if (row := option_row(parameter, context))]
    yield table(("option", "does"), rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from sections(below, click.Context(below, info_name=name, parent=context))


def help_text(command: click.Command) -> str:
    """As it was written: click's marks for paragraphs that it must not wrap become blocks."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    blocks = [
        f"```\n{part.removeprefix(chr(8)).strip(chr(10))}\n```" if part.startswith("\b") else part
        for part in paragraphs
    ]
    return "\n\n".join(blocks)


def option_row(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    record = parameter.get_help_record(context)
    return None if record is None else (code(record[0]), " ".join(record[1].split()))
