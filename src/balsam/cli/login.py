"""`balsam login` and `balsam logout`: keep a token for a service in BALSAM_HOME/client.yml (0600)."""

import click

from balsam.cli.output import json_option, print_json
from balsam.cli.password import password_options


@click.command()
@click.argument("url")
@click.option("-u", "--username", prompt=True, help="Account at the service.")
@password_options
@json_option
def login(url: str, username: str, password: str, as_json: bool) -> None:
    """Log in to the service at URL, for example https://balsam.example.org.

    The password is asked for, or taken from the environment variable BALSAM_PASSWORD or from --password-stdin.
    """
    from balsam.client.login import log_in

    done = log_in(url, username, password)
    if as_json:
        print_json({"url": url, "username": done.username, "expires_at": done.expires_at})
    else:
        click.echo(f"Logged in to {url} as {done.username}.")


@click.command()
@json_option
def logout(as_json: bool) -> None:
    """Revoke the token at the service and forget it here."""
    from balsam.client.login import log_out

    url = log_out()
    if as_json:
        print_json({"url": url})
    else:
        click.echo(f"Logged out of {url}." if url else "There was no login.")
