"""`balsam app`: the table of verbs on Apps."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "create": ("balsam.cli.app_create:create", "Register an App whose Jobs run a command."),
    "ls": ("balsam.cli.app_list:list_apps", "List Apps with their parameters."),
    "show": ("balsam.cli.app_list:show", "Show all that Apps run, and the hash of it."),
    "approve": ("balsam.cli.app_approve:approve", "Let an App run on a Site that runs only approved ones."),
    "rm": ("balsam.cli.app_remove:remove", "Remove Apps and their Jobs."),
}


@click.group(cls=Group, lazy=_COMMANDS)
def app() -> None:
    """Create, list, show, approve and remove Apps."""
