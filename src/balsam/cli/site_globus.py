"""`balsam site globus-login`: a person lets a Site's agent transfer files by Globus."""

from pathlib import Path
from uuid import UUID

import click

from balsam.cli.asking import ask
from balsam.cli.output import json_option, print_json


@click.command("globus-login")
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.option(
    "-e",
    "--endpoint_id",
    "--endpoint",
    "endpoints",
    type=click.UUID,
    multiple=True,
    help="A mapped collection whose data the Site reads or writes, where Globus asks for that consent; repeat.",
)
@click.option(
    "--client-id", type=click.UUID, help="Of your application at Globus; else globus_client_id of the settings."
)
@click.option("--code", help="What Globus shows at the end; else you are asked for it.")
@json_option
def globus_login(
    path: Path, endpoints: tuple[UUID, ...], client_id: UUID | None, code: str | None, as_json: bool
) -> None:
    """Log the Site in the directory PATH in at Globus. A running agent takes the login up by itself.

    The tokens are kept in globus.json of the Site, for its owner only. Collections of globus: locations in settings.yml
    need not be named unless Globus says on a transfer that a consent is missing.
    """
    from balsam.site.directory import require_site
    from balsam.site.settings_file import load_settings
    from balsam.transfer.base import PeerRefused
    from balsam.transfer.globus_login import GlobusLogin

    site = require_site(path)
    transfers = load_settings(site.settings).transfers
    application = str(client_id) if client_id else transfers.globus_client_id if transfers is not None else None
    if application is None:
        raise click.UsageError(
            "Globus wants to know the application: register one (native, without a secret) among your developer "
            "settings at Globus, and give its id as --client-id or globus_client_id in settings.yml"
        )
    try:
        login = GlobusLogin.begin(application, [str(one) for one in endpoints], site.globus_tokens)
        click.echo(f"Open this page, log in, and bring back the code that it shows:\n\n{login.url}\n", err=True)
        login.finish(code or ask("Code", "--code").strip())
    except PeerRefused as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        print_json({"path": str(site.globus_tokens)})
    else:
        click.echo(f"The Site is logged in; its tokens are in {site.globus_tokens}.")
