"""`balsam app rm`: remove Apps together with their Jobs."""

from typing import TYPE_CHECKING

import click

from balsam.cli.app_selectors import apps_of, named_apps
from balsam.cli.asking import confirm, yes_option
from balsam.cli.outcome import report
from balsam.cli.output import counted, json_option
from balsam.cli.selectors import site_option, site_scope

if TYPE_CHECKING:
    from balsam.api import App


@click.command("rm")
@click.argument("names", nargs=-1, metavar="[NAMES]...")
@click.option("-n", "--name", "more", multiple=True, help="Name or id of an App; repeat.")
@click.option("-a", "--all", "every", is_flag=True, help="All Apps at the Sites that --site means.")
@site_option("-s")
@yes_option
@json_option
def remove(
    names: tuple[str, ...], more: tuple[str, ...], every: bool, site: str | None, yes: bool, as_json: bool
) -> None:
    """Remove Apps and their Jobs; an App with Jobs that can't be deleted, as they run, is left and named."""
    words = (*names, *more)
    if bool(words) == every:
        raise click.UsageError("say which Apps: names or ids, or --all")
    scope = site_scope(site)
    scope.mention_left_out()
    apps = apps_of(scope) if every else named_apps(words, scope)
    if apps:
        _ask(apps, [scope.name_of(one.site_id) for one in apps], yes, as_json)
    refused = {one.id: why for one in apps if (why := _remove(one))}
    report("removed", len(apps) - len(refused), refused, as_json=as_json, noun="App")


def _ask(apps: "list[App]", sites: list[str], yes: bool, as_json: bool) -> None:
    from balsam.api import Job

    jobs = sum(Job.objects.filter(app_id=one.id).count() for one in apps)
    places = ", ".join(dict.fromkeys(sites))
    what = f"{counted(len(apps), 'App')} of {places}" if len(apps) > 1 else f"App {apps[0].name} of {places}"
    confirm(f"Remove {what} and {counted(jobs, 'Job')}?", yes=yes, as_json=as_json)


def _remove(one: "App") -> str:
    """Why it is left; empty when it is gone."""
    from balsam.api import Conflict, Job

    left = Job.objects.filter(app_id=one.id).delete().refused
    if left:
        return f"{counted(len(left), 'Job')} of it can't be deleted: {next(iter(left.values()))}"
    try:
        one.delete()
    except Conflict as error:  # a Job was created meanwhile
        return str(error)
    return ""
