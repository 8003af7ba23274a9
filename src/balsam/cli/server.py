"""`balsam server`: run a service in the foreground, and manage its password accounts."""

import sys
from pathlib import Path

import click

from balsam.cli.output import json_option, print_json


@click.group()
def server() -> None:
    """Run a service, and manage its accounts."""


@server.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8124, show_default=True, type=click.IntRange(0, 65_535), help="0 takes a free port.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where state lives. [default: BALSAM_HOME/service]")
@click.option("--tls-cert", type=click.Path(exists=True, path_type=Path), help="Certificate chain, for https.")
@click.option("--tls-key", type=click.Path(exists=True, path_type=Path), help="Private key of --tls-cert.")
@click.option("--behind-proxy", is_flag=True, help="A reverse proxy in front terminates https.")
@json_option
def up(
    host: str,
    port: int,
    data_dir: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    as_json: bool,
) -> None:
    """Run a service in this terminal until Ctrl-C.

    On a loopback address your own Unix user is logged in without a password, and nobody else is.
    """
    from balsam.server.__main__ import run_here
    from balsam.server.settings import ServerSettings

    settings = ServerSettings(
        host=host, port=port, data_dir=data_dir, tls_cert=tls_cert, tls_key=tls_key, behind_proxy=behind_proxy
    )
    sys.exit(run_here(settings, as_json=as_json))


@server.command("add-user")
@click.argument("username")
@click.option("--admin", is_flag=True, help="May create accounts too.")
@click.password_option(help="Asked for when not given; prefer that, arguments are visible to others.")
@json_option
def add_user(username: str, admin: bool, password: str, as_json: bool) -> None:
    """Create a password account; log in as an administrator first."""
    from balsam.api import default_client

    user = default_client().create_user(username, password, is_admin=admin)
    if as_json:
        print_json(user)
    else:
        click.echo(f"Created account {user.username}; log in with: balsam login URL --username {user.username}")
