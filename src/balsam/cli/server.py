"""`balsam server`: the table of verbs on a service."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "deploy": ("balsam.cli.server_control:deploy", "Make a directory for a service and start it in the background."),
    "up": ("balsam.cli.server_control:up", "Run a service, in this terminal until Ctrl-C or in the background."),
    "restart": (
        "balsam.cli.server_control:restart",
        "Start a service that runs in the background anew, with what is installed now.",
    ),
    "down": ("balsam.cli.server_control:down", "Stop a service that runs in the background."),
    "doctor": ("balsam.cli.server_doctor:doctor", "Check a service's installation on its own machine."),
    "migrate": ("balsam.cli.server_database:migrate", "Bring a PostgreSQL database to the schema of this version."),
    "backup": ("balsam.cli.server_database:backup", "Save one state of a service's database, also while it runs."),
    "restore": ("balsam.cli.server_database:restore", "Put a backup in the place of a database, SQLite or PostgreSQL."),
    "copy": ("balsam.cli.server_database:copy", "Move a service from its SQLite file to PostgreSQL."),
    "add-user": ("balsam.cli.server_users:add_user", "Create a password account."),
}


@click.group(cls=Group, lazy=_COMMANDS)
def server() -> None:
    """Run a service, and manage its accounts."""
