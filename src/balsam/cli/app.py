"""`balsam app`: list the Apps of Sites."""

import click

from balsam.cli.output import json_option, print_json, print_table
from balsam.cli.selectors import site_ids, site_option


@click.group()
def app() -> None:
    """List Apps."""


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
