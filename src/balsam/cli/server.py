"""`balsam server`: the table of verbs on a service."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "deploy": ("balsam.cli.server_control:deploy", "Make a directory for a service and start it in the background."),
    "up": ("balsam.cli.server_control:up", "Run a service, in this terminal until Ctrl-C or in the background."),
    "down": ("balsam.cli.server_control:down", "Stop a service that runs in the background."),
    "add-user": ("balsam.cli.server_users:add_user", "Create a password account."),
}
_GONE = {"migrate": "a service brings its database to the schema of its version when it starts"}


@click.group(cls=Group, lazy=_COMMANDS, gone=_GONE)
def server() -> None:
    """Run a service, and manage its accounts."""
