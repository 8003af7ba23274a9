"""`balsam token`: the table of verbs on tokens."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "ls": ("balsam.cli.token_verbs:list_all", "List the tokens of your account that are good now."),
    "create": ("balsam.cli.token_verbs:create", "Make a token for a program."),
    "revoke": ("balsam.cli.token_verbs:revoke", "End tokens; they fail from the next request on."),
    "rotate": ("balsam.cli.token_verbs:rotate", "Give the agent of a Site another token, while it runs."),
}


@click.group(cls=Group, lazy=_COMMANDS)
def token() -> None:
    """Tokens for programs and agents. They outlive every login, and end when they are revoked."""
