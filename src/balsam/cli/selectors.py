"""Options that choose Sites and Jobs, the same on every verb.

`--site`: `all`, `this` (the Site directory you stand in), `active`, or ids and names separated by commas. Without it:
the Site you stand in, else all.
"""

from collections.abc import Callable
from typing import Any

import click

from balsam.cli.output import parse_pairs
from balsam.domain.states import JobState

site_option = click.option("--site", help="all, this, active, or ids and names separated by commas.")


def job_selectors(command: Callable[..., Any]) -> Callable[..., Any]:
    """--id --state --tag --workdir --app --site on a verb that works on Jobs."""
    for option in (
        click.option("--id", "ids", type=int, multiple=True, help="A Job id; repeat for more."),
        click.option(
            "-s",
            "--state",
            "states",
            type=click.Choice([state.value for state in JobState], case_sensitive=False),
            multiple=True,
        ),
        click.option("-t", "--tag", "tags", multiple=True, callback=parse_pairs("--tag"), help="KEY=VALUE; repeat."),
        click.option("-w", "--workdir", help="Part of the workdir."),
        click.option("-a", "--app", "app_name", help="Name of the App."),
        site_option,
    ):
        command = option(command)
    return command


def selected_jobs(
    ids: tuple[int, ...],
    states: tuple[str, ...],
    tags: dict[str, str],
    workdir: str | None,
    app_name: str | None,
    site: str | None,
) -> Any:
    """The query that the selectors mean."""
    from balsam.api import Job

    wanted: dict[str, Any] = {}
    if ids:
        wanted["id"] = list(ids)
    if states:
        wanted["state"] = [JobState(state.upper()) for state in states]
    if tags:
        wanted["tags"] = tags
    if workdir:
        wanted["workdir__contains"] = workdir
    if app_name:
        wanted["app_name"] = app_name
    chosen = site_ids(site)
    if chosen is not None:
        wanted["site_id"] = chosen
    return Job.objects.filter(**wanted) if wanted else Job.objects.all()


def site_ids(selector: str | None) -> list[int] | None:
    """Ids of the Sites that `--site` means; None for all. Raises click.BadParameter when one is not found."""
    from balsam.site.directory import current_site_id

    if selector in (None, "this"):
        here = current_site_id()
        if here is None and selector == "this":
            raise click.BadParameter("you are not in a Site directory; cd into one, or set BALSAM_SITE_PATH")
        return [here] if here is not None else None
    if selector == "all":
        return None
    from balsam.api import Site

    sites = list(Site.objects.all())
    if selector == "active":
        return [one.id for one in sites if one.is_active]
    chosen = []
    for word in str(selector).split(","):
        found = [one.id for one in sites if str(one.id) == word or one.name == word or (word and word in str(one.path))]
        if not found:
            known = ", ".join(f"{one.name} ({one.id})" for one in sites) or "none"
            raise click.BadParameter(f"no Site {word!r}; there are: {known}")
        chosen.extend(found)
    return chosen


def one_site(selector: str | None) -> int:
    """The one Site that is meant: by `--site`, by the directory you stand in, or because there is only one."""
    from balsam.api import Site

    chosen = site_ids(selector)
    if chosen is None:
        chosen = [one.id for one in Site.objects.all()]
    if len(chosen) != 1:
        raise click.BadParameter(f"{len(chosen)} Sites match; name one with --site (see: balsam site ls)")
    return chosen[0]
