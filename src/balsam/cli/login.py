"""`balsam login`, `logout` and `register`: a token for a service in BALSAM_HOME/client.yml (0600), new accounts."""

import os
from typing import TYPE_CHECKING

import click

from balsam.cli.asking import ask
from balsam.cli.output import json_option, plain, print_json
from balsam.cli.password import Password, new_password_options, password_options

if TYPE_CHECKING:
    from balsam.wire.auth import DeviceLogin, Login


@click.command()
@click.argument("url", required=False)
@click.option("--url", "url_option", metavar="URL", help="The same as the argument.")
@click.option("-u", "--username", help="Account at the service. [default: is asked for]")
@click.option("-f", "--force", is_flag=True, help="Log in anew, also when the login that is kept still works.")
@password_options
@json_option
def login(
    url: str | None, url_option: str | None, username: str | None, force: bool, password: Password, as_json: bool
) -> None:
    """Log in to the service at URL, for example https://balsam.example.org. [default: the one of the last login]

    Where the service has OpenID providers, you log in with a browser, on whatever machine; with -u or a password given,
    by password. The password is asked for, or taken from the environment variable BALSAM_PASSWORD or from
    --password-stdin. A login that still works is kept and nothing is asked, unless a password is given. -u also takes
    the address (Balsam 0.7).
    """
    from balsam.client.login import auth_methods, kept_login

    if username is not None and "://" in username:
        url_option, username = username, None
    if url and url_option and url != url_option:
        raise click.UsageError(f"two addresses are given, {url} and {url_option}; give one")
    kept = kept_login()
    url = url or url_option or (kept.url if kept is not None else None)
    if url is None:
        raise click.UsageError("give the address of the service, as in: balsam login https://balsam.example.org")
    good = None if force or password.is_given or kept is None or kept.url != url else kept.check()
    if good is not None and username in (None, good.username):
        done, word = good, "Logged in already"
    else:
        wants_password = username is not None or password.is_given
        methods = ["password"] if wants_password else auth_methods(url).methods
        done, word = (_by_browser(url) if "device" in methods else _by_password(url, username, password)), "Logged in"
    if as_json:
        print_json({"url": url, "username": done.username, "expires_at": done.expires_at})
    else:
        click.echo(f"{word} to {plain(url)} as {plain(done.username)}.")


def _by_password(url: str, username: str | None, password: Password) -> "Login":
    from balsam.client.login import log_in

    return log_in(url, username or ask("Username", "--username"), password.read())


def _by_browser(url: str) -> "Login":
    from balsam.client.login import log_in_by_browser

    def tell(begun: "DeviceLogin") -> None:
        click.echo(f"Open in a browser, on any machine: {plain(begun.verification_uri_complete)}", err=True)
        click.echo(f"It must show the code {plain(begun.user_code)}. Waiting ...", err=True)

    return log_in_by_browser(url, tell)


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


@click.command("password")
@new_password_options
@json_option
def change_password(password: Password, as_json: bool) -> None:
    """Change the password of your account; other logins and the tokens of programs end, those of Sites stay.

    The present password is asked for, or taken from BALSAM_CURRENT_PASSWORD.
    """
    from balsam.api import default_client
    from balsam.client.login import change_password as change

    variable = "BALSAM_CURRENT_PASSWORD"
    current = os.environ.get(variable) or ask("Present password", variable, hide_input=True)
    change(default_client().transport, current, password.read())
    if as_json:
        print_json({"changed": True})
    else:
        click.echo("The password is changed.")


@click.command()
@click.option("-a", "--address", metavar="URL", help="The service. [default: the one you are logged in at]")
@click.option("-u", "--username", help="Name of the new account. [default: is asked for]")
@new_password_options
@json_option
def register(address: str | None, username: str | None, password: Password, as_json: bool) -> None:
    """Create an account, as an administrator of the service.

    In Balsam 0.7 anybody could. Here somebody who may create accounts does it, with this command or with `balsam server
    add-user`; others ask them.
    """
    from balsam.api import default_client
    from balsam.client.errors import Forbidden
    from balsam.client.settings import normal_url

    client = default_client()
    if address is not None and normal_url(address) != client.url:
        raise click.ClickException(
            f"you are logged in at {client.url}; accounts at {address} are created by an administrator there, "
            f"after: balsam login {address}"
        )
    name = username or ask("Username", "--username")
    try:
        user = client.create_user(name, password.read())
    except Forbidden as error:
        raise click.ClickException(f"{error}. Accounts are created by the administrators of {client.url}") from None
    if as_json:
        print_json(user)
    else:
        click.echo(
            f"Created account {user.username}; log in with: balsam login {client.url} --username {user.username}"
        )
