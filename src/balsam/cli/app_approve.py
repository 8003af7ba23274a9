"""`balsam app approve`: let an App run on a Site that runs only what was approved there (S15)."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from balsam.cli.app_list import print_definition
from balsam.cli.asking import confirm, yes_option
from balsam.cli.output import json_option, print_json
from balsam.cli.own_site import check_login

if TYPE_CHECKING:
    from balsam.api import App
    from balsam.site.directory import SiteIdentity


@click.command()
@click.argument("name")
@click.option("--site-path", type=click.Path(path_type=Path), help="The Site. [default: the one you stand in]")
@yes_option
@json_option
def approve(name: str, site_path: Path | None, yes: bool, as_json: bool) -> None:
    """Let the App NAME run on a Site that runs only approved Apps (apps.accept: pinned).

    What is approved is the definition that is shown, by its hash: another one under the same name does not run.
    """
    from balsam.domain.app import AppSpec
    from balsam.site.approvals import approve_app, approved_apps
    from balsam.site.directory import require_site

    if as_json and not yes:
        raise click.UsageError("--json asks nothing; look at the App with `balsam app show` and add --yes")
    directory = require_site(site_path)
    spec = AppSpec.from_view(_app_of_site(name, directory.identity()).display_dict())
    known = spec.content_hash in approved_apps(directory)
    if not as_json:
        print_definition(spec)
    if not known:
        confirm(f"May this run at {directory.root}?", yes=yes, as_json=as_json)
        approve_app(directory, spec.content_hash, spec.name)
    if as_json:
        print_json({"name": spec.name, "content_hash": spec.content_hash, "approved": True, "was_approved": known})
    elif known:
        click.echo("This definition is approved already.")
    else:
        click.echo(
            "Approved, for allocations that are submitted to the scheduler from now on; the agent need not be "
            "restarted. Those that are queued or running already refuse it to their end."
        )


def _app_of_site(name: str, identity: "SiteIdentity") -> "App":
    """The App as the service tells it now."""
    from balsam.api import App

    check_login(identity)
    found = list(App.objects.filter(site_id=identity.id, name=name))
    if not found:
        raise click.ClickException(f"Site {identity.name!r} has no App {name!r}; list them with: balsam app ls")
    return found[0]
