"""`balsam site sample-settings`: the settings that a new Site begins with."""

import click

from balsam.cli.output import json_option, print_json
from balsam.cli.param_types import MachineName


@click.command("sample-settings")
@click.option(
    "-m", "--machine", type=MachineName(), default="local", show_default=True, help="A machine that is known."
)
@json_option
def sample_settings(machine: str, as_json: bool) -> None:
    """Print the settings.yml that `balsam site init` would write, with a comment on every setting."""
    from balsam.platform.machines import settings_text

    text = settings_text(machine)
    if as_json:
        print_json({"machine": machine, "text": text})
    else:
        click.echo(text, nl=False)
