"""`balsam job create`: a Job, or a series of them, from the command line."""

from typing import TYPE_CHECKING, Any

import click

from balsam.cli.app_selectors import one_app
from balsam.cli.job_fields import json_option_of, pairs_option, shape_of_new_job
from balsam.cli.job_series import jobs_of, parse_each, ranges_text
from balsam.cli.output import counted, json_option, parse_pairs, plain, print_json
from balsam.cli.param_types import MAX_IDS, IdRanges, expanded, joined
from balsam.cli.selectors import site_option

if TYPE_CHECKING:
    from balsam.api import Job

_PLACE = "SLOT=ALIAS:/ABSOLUTE/PATH"
MAX_SHOWN = 80
_EXAMPLE = "input=client:/home/me/in.dat"


def _stage_data(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = parse_pairs("--stage-data", _PLACE, _EXAMPLE)(ctx, param, values)
    for slot, place in found.items():
        alias, colon, path = place.partition(":")
        if not alias or not colon or not path.startswith("/"):
            raise click.BadParameter(f"{slot}={place} is not {_PLACE}, as in --stage-data {_EXAMPLE}")
    return found


@click.command()
@click.option("-w", "--workdir", required=True, help="Below the Site's data directory.")
@click.option("-a", "--app", required=True, help="Name or id of the App.")
@pairs_option("-tag", "--tag", "tags", text="A tag; repeat.")
@pairs_option("-p", "--param", "parameters", text="A parameter of the App, as text; repeat.")
@json_option_of("--param-json", "json_parameters", text="A parameter that is no text, as in n=3; repeat.")
@click.option(
    "--each",
    multiple=True,
    metavar="PARAM=VALUES",
    callback=parse_each,
    help="A Job for each of these values of a parameter, as in seed=1-100 or kind=bulk,slab; repeat: for each "
    "combination. {seed} in --workdir, tags and --stage-data stands for the value.",
)
@shape_of_new_job
@pairs_option("-lp", "--launch-param", "launch_params", text="For the MPI launcher; repeat.")
@click.option(
    *("-pid", "--parent-id", "parents"), multiple=True, type=IdRanges(), callback=joined, help="Wait for it; repeat."
)
@click.option(
    *("-s", "--stage-data", "transfers"),
    multiple=True,
    metavar="SLOT=ALIAS:PATH",
    callback=_stage_data,
    help="A file for a transfer slot of the App; repeat.",
)
@click.option("-y", "--yes", is_flag=True, hidden=True, expose_value=False, help="Of Balsam 0.7; nothing is asked.")
@site_option()
@json_option
def create(
    app: str,
    site: str | None,
    parameters: dict[str, str],
    json_parameters: dict[str, Any],
    each: dict[str, list[str]],
    parents: tuple[range, ...],
    as_json: bool,
    **fields: Any,
) -> None:
    """Create a Job of an App, or with --each a series of them: all of it or nothing, up to 10,000 Jobs.

    \b
    balsam job create -a hello -w hello/1 -p name=you
    balsam job create -a simulate -w 'scan/{seed}' --each seed=1-100 -npc 8
    """
    from balsam.api import Job

    given = {name: value for name, value in fields.items() if value is not None and value != {}}
    given |= {
        "app_id": one_app(app, site).id,
        "parameters": {**parameters, **json_parameters},
        "parent_ids": expanded(parents),
    }
    if each:
        _create_series([Job(**one) for one in jobs_of(each, given)], as_json)
        return
    job = Job(**given)
    job.save()
    if as_json:
        print_json(job.display_dict())
    else:
        click.echo(f"Job {job.id} is {job.state} in {plain(job.workdir)}; see it with: balsam job ls --id {job.id}")


def _create_series(jobs: "list[Job]", as_json: bool) -> None:
    from balsam.api import Job

    Job.objects.bulk_create(jobs, progress=False)
    if as_json:
        print_json([job.display_dict() for job in jobs])
        return
    numbers = ranges_text(job.id for job in jobs)
    if len(jobs) > MAX_IDS or len(numbers) > MAX_SHOWN:  # too many to name, or those of others between them
        click.echo(f"{counted(len(jobs), 'Job')} created, {jobs[0].id} the first and {jobs[-1].id} the last.")
        return
    click.echo(f"{counted(len(jobs), 'Job')} created: {numbers}; watch them with:")
    click.echo(f"  balsam job ls --id {numbers} --by-state --watch")
