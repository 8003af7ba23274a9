"""`balsam server add-user`."""

import click

from balsam.cli.output import json_option, print_json
from balsam.cli.password import Password, new_password_options


@click.command("add-user")
@click.argument("username")
@click.option("--admin", is_flag=True, help="May create accounts too.")
@new_password_options
@json_option
def add_user(username: str, admin: bool, password: Password, as_json: bool) -> None:
    """Create a password account; log in as an administrator first.

    The password is asked for, or taken from the environment variable BALSAM_PASSWORD or from --password-stdin.
    """
    from balsam.api import default_client

    user = default_client().create_user(username, password.read(), is_admin=admin)
    if as_json:
        print_json(user)
    else:
        click.echo(f"Created account {user.username}; log in with: balsam login URL --username {user.username}")
