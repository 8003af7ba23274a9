"""`balsam server`: the table of verbs on a service."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "up": ("balsam.server.command:up", "Run a service in this terminal until Ctrl-C."),
    "add-user": ("balsam.cli.server_users:add_user", "Create a password account."),
}


@click.group(cls=Group, lazy=_COMMANDS)
def server() -> None:
    """Run a service, and manage its accounts."""
