"""`balsam config`: the table of its verbs."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "show": ("balsam.cli.config_show:show_settings", "Every setting in effect, and where it comes from."),
}


@click.group(cls=Group, lazy=_COMMANDS)
def config() -> None:
    """Settings of the Site you stand in, and of this command."""
