"""`balsam app ls` and `show`; how a definition is shown to people, also before they approve it."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from balsam.cli.app_selectors import apps_of, missing, named_apps, no_such_app
from balsam.cli.output import json_option, plain, print_json
from balsam.cli.selectors import SiteScope, site_option, site_scope
from balsam.cli.table import print_table

if TYPE_CHECKING:
    from balsam.api import App
    from balsam.domain.app import AppSpec


@click.command("ls")
@click.argument("names", nargs=-1, metavar="[NAMES]...")
@click.option("-v", "--verbose", is_flag=True, help="The whole definitions.")
@site_option("-s")
@json_option
def list_apps(names: tuple[str, ...], verbose: bool, site: str | None, as_json: bool) -> None:
    """List Apps with their parameters: all, or those with these names or ids."""
    scope = site_scope(site)
    scope.mention_left_out()
    every = apps_of(scope)
    apps = [one for one in every if not names or one.name in names or str(one.id) in names]
    for word in missing(names, every):
        click.echo(no_such_app(word, every, scope), err=True)
    if as_json:
        print_json([one.display_dict() for one in apps])
    elif verbose and apps:
        _show_each(apps, scope)
    else:
        rows = [
            (one.id, one.name, scope.name_of(one.site_id), " ".join(one.parameters), one.command_template)
            for one in apps
        ]
        columns = ("ID", "Name", "Site", "Parameters", "Command")
        print_table(
            columns,
            rows,
            "No Apps match."
            if names
            else "No Apps yet; to register one: balsam app create, or MyApp.sync() in Python.",
        )


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAMES...")
@site_option("-s")
@json_option
def show(names: tuple[str, ...], site: str | None, as_json: bool) -> None:
    """Show all that the Apps with these NAMES or ids run, and the hash of it."""
    scope = site_scope(site, otherwise="all")
    apps = named_apps(names, scope)
    if as_json:
        print_json([one.display_dict() for one in apps])
    else:
        _show_each(apps, scope)


def _show_each(apps: "list[App]", scope: SiteScope) -> None:
    from balsam.domain.app import AppSpec

    for one in apps:
        click.echo(f"App {one.id} of Site {plain(scope.name_of(one.site_id))}")
        print_definition(AppSpec.from_view(one.display_dict()))


def print_definition(spec: "AppSpec") -> None:
    """Everything that the hash covers, so that nobody approves what they were not shown."""
    click.echo(f"{plain(spec.name)}, hash {spec.content_hash}")
    click.echo(_indented(spec.command_template or "(no command template: its Jobs run run())"))
    for title, content in (
        ("parameters", {key: asdict(value) for key, value in spec.parameters.items()}),
        ("environment variables", spec.environment_variables),
        ("transfers", {key: asdict(value) for key, value in spec.transfers.items()}),
        ("cleanup files", list(spec.cleanup_files)),
        ("hooks", sorted(spec.hooks)),
        ("monitors", {key: asdict(value) for key, value in spec.monitors.items()}),
        ("Python code", {} if spec.code is None else spec.code.as_content()),
    ):
        if content:
            click.echo(f"{title}: {plain(json.dumps(content, ensure_ascii=False))}")
    if spec.source_code:
        click.echo("source code:")
        click.echo(_indented(spec.source_code))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in plain(text).split("\n"))
