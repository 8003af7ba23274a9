"""`balsam completion`: the script that completes commands, options, states and Sites in a shell."""

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from balsam.cli.output import json_option, print_json

CONNECT_SEC, READ_SEC = 0.3, 1.0
_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print the completion script of a SHELL.

    \b
    bash:  balsam completion bash > ~/.local/share/bash-completion/completions/balsam
    zsh:   balsam completion zsh > a file _balsam in a directory of $fpath
    fish:  balsam completion fish > ~/.config/fish/completions/balsam.fish
    """
    from balsam.cli.main import cli

    script = _SHELLS[shell](cli, {}, "balsam", "_BALSAM_COMPLETE").source()
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)


def site_names(incomplete: str) -> list[CompletionItem]:
    """Words for `--site`; the service is asked once and briefly, so that a keystroke never hangs."""
    before, comma, last = incomplete.rpartition(",")
    words = [*(() if comma else ("all", "active", "this")), *_names()]
    return [CompletionItem(f"{before}{comma}{word}") for word in words if word.startswith(last)]


def _names() -> list[str]:
    from dataclasses import replace

    from balsam.client.client import Client
    from balsam.client.errors import BalsamError
    from balsam.client.settings import ClientSettings

    try:
        settings = ClientSettings.load()
        hasty = replace(settings, retry_for_sec=0.0, connect_timeout_sec=CONNECT_SEC, read_timeout_sec=READ_SEC)
        with Client(hasty) as client:
            return [str(site.name) for site in client.Site.objects.all()]
    except BalsamError:
        return []
