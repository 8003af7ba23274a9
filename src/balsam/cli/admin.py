"""`balsam admin`: the table of verbs of a service's administrators."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "first": ("balsam.cli.admin_verbs:first", "Become the administrator of a new service, with the code in its log."),
    "users": ("balsam.cli.admin_verbs:users", "List accounts with what they use."),
    "quota": ("balsam.cli.admin_verbs:quota", "Set what an account may use."),
    "disable": ("balsam.cli.admin_verbs:disable", "Disable an account with all its tokens; nothing is removed."),
    "enable": ("balsam.cli.admin_verbs:enable", "Enable an account again; its tokens work again."),
    "role": ("balsam.cli.admin_verbs:role", "Make an account an administrator's, or one like the others."),
    "password": ("balsam.cli.admin_verbs:password", "Give an account another password, when its own is forgotten."),
    "prune": ("balsam.cli.admin_verbs:prune", "Remove Jobs that ended long ago, with their events and results."),
    "audit": ("balsam.cli.admin_verbs:audit", "Who did what to accounts, tokens, Sites and Apps, newest first."),
}


@click.group(cls=Group, lazy=_COMMANDS)
def admin() -> None:
    """Accounts, quotas and the audit log of a service, as its administrator."""
