"""Groups of commands: sub-commands that are imported when they are called, `list` for `ls`, and a hint for a typo.

`balsam` itself and each of its groups are a `Group`. A sub-command stands in the group as the place to import it from
and its line in the help, so that help and completion stay quick on slow file systems.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

ALIASES = {"list": "ls"}
# In the context of every command: whether the user set how long a call is repeated.
PATIENCE_IS_GIVEN = "balsam.patience_is_given"


class Group(click.Group):
    """A group; `lazy` maps the names of its commands to (`module:attribute`, one line of help)."""

    def __init__(self, *words: Any, lazy: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*words, **options)
        self._lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in self._lazy:
            return None
        module, _, attribute = self._lazy[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word.startswith("-") or ALIASES.get(word, word) in self._lazy:
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(word, self._lazy, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self._lazy)}"
        raise click.UsageError(f"there is no command '{ctx.command_path} {word}'; {hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        words = [
            CompletionItem(name, help=text) for name, (_, text) in self._lazy.items() if name.startswith(incomplete)
        ]
        return words + click.Command.shell_complete(self, ctx, incomplete)
