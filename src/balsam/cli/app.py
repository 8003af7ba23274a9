"""`balsam app`: list and show the Apps of Sites, and approve one for a Site that runs only approved Apps (S15)."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balsam.cli.output import json_option, plain, print_json, print_table
from balsam.cli.selectors import site_ids, site_option
from balsam.domain.app import AppSpec

if TYPE_CHECKING:
    from balsam.api import App
    from balsam.site.directory import SiteIdentity


@click.group()
def app() -> None:
    """List, show and approve Apps."""


@app.command("ls")
@site_option
@json_option
def list_apps(site: str | None, as_json: bool) -> None:
    """List Apps with their parameters."""
    from balsam.api import App, Site

    chosen = site_ids(site)
    apps = list(App.objects.filter(site_id=chosen) if chosen is not None else App.objects.all())
    if as_json:
        print_json([one.display_dict() for one in apps])
        return
    names = {one.id: one.name for one in Site.objects.all()}
    rows = [(one.id, one.name, names.get(one.site_id), " ".join(one.parameters), one.command_template) for one in apps]
    print_table(("ID", "Name", "Site", "Parameters", "Command"), rows, "No Apps yet: MyApp.sync() registers one.")


@app.command()
@click.argument("name")
@site_option
@json_option
def show(name: str, site: str | None, as_json: bool) -> None:
    """Show all that the Apps with this NAME run, and the hash of it."""
    from balsam.api import App, Site

    chosen = site_ids(site)
    wanted = {"name": name} if chosen is None else {"name": name, "site_id": chosen}
    apps = list(App.objects.filter(**wanted))
    if not apps:
        raise click.ClickException(f"there is no App {name!r} here; see: balsam app ls --site all")
    if as_json:
        print_json([one.display_dict() for one in apps])
        return
    names = {one.id: one.name for one in Site.objects.all()}
    for one in apps:
        click.echo(f"App {one.id} of Site {plain(str(names.get(one.site_id, one.site_id)))}")
        _print_definition(AppSpec.from_view(one.display_dict()))


@app.command()
@click.argument("name")
@click.option("--site-path", type=click.Path(path_type=Path), help="The Site. [default: the one you stand in]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def approve(name: str, site_path: Path | None, yes: bool, as_json: bool) -> None:
    """Let the App NAME run on a Site that runs only approved Apps (apps.accept: pinned).

    What is approved is the definition that is shown, by its hash: another one under the same name does not run.
    """
    from balsam.site.approvals import approve_app, approved_apps
    from balsam.site.directory import require_site

    if as_json and not yes:
        raise click.UsageError("--json asks nothing; look at the App with `balsam app show` and add --yes")
    directory = require_site(site_path)
    spec = AppSpec.from_view(_app_of_site(name, directory.identity()).display_dict())
    known = spec.content_hash in approved_apps(directory)
    if not as_json:
        _print_definition(spec)
    if not known:
        if not yes:
            click.confirm(f"May this run at {directory.root}?", abort=True)
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
    """The App as the service tells it now. Which one is meant is checked: you may be logged in at another service."""
    from balsam.api import App, Site

    site = Site.objects.get(id=identity.id)
    if site.name != identity.name:
        raise click.ClickException(
            f"the service you are logged in at knows Site {identity.id} as {site.name!r}, and this one is "
            f"{identity.name!r}; log in at its own: balsam login {identity.url}"
        )
    found = list(App.objects.filter(site_id=identity.id, name=name))
    if not found:
        raise click.ClickException(f"Site {identity.name!r} has no App {name!r}; list them with: balsam app ls")
    return found[0]


def _print_definition(spec: AppSpec) -> None:
    """Everything that the hash covers, so that nobody approves what they were not shown."""
    click.echo(f"{plain(spec.name)}, hash {spec.content_hash}")
    click.echo(_indented(spec.command_template or "(no command template)"))
    for title, content in (
        ("parameters", {key: asdict(value) for key, value in spec.parameters.items()}),
        ("environment variables", spec.environment_variables),
        ("transfers", {key: asdict(value) for key, value in spec.transfers.items()}),
        ("cleanup files", list(spec.cleanup_files)),
        ("hooks", sorted(spec.hooks)),
    ):
        if content:
            click.echo(f"{title}: {plain(json.dumps(content, ensure_ascii=False))}")
    if spec.source_code:
        click.echo("source code:")
        click.echo(_indented(spec.source_code))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in plain(text).split("\n"))
