"""`balsam job fetch`: what Jobs sent to `client:`, brought to this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from balsam.cli.outcome import PARTLY_DONE
from balsam.cli.output import counted, json_option, plain, print_json
from balsam.cli.selectors import JobChoice, job_selectors

if TYPE_CHECKING:
    from balsam.client.arrivals import Arrived

JOBS_AT_ONCE = 1000


@click.command()
@job_selectors()
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Put them below this directory, at the paths of the workdirs. [default: where their Jobs say, when this "
    "machine submitted them]",
)
@json_option
def fetch(choice: JobChoice, to: Path | None, as_json: bool) -> None:
    """Bring home what Jobs sent to client: and nobody collected yet.

    Scripts need it only when they ended before their Jobs did: what a process waits for comes by itself.
    """
    from balsam.api import default_client
    from balsam.client.arrivals import fetch_home, fetch_to

    if choice.is_open:
        raise click.UsageError("say which Jobs: by ids, --tag, --state, --app ...")
    scope = choice.scope()
    scope.mention_left_out()
    job_ids = [job.id for job in choice.query(scope)]
    found: list[Arrived] = []
    for start in range(0, len(job_ids), JOBS_AT_ONCE):
        some = job_ids[start : start + JOBS_AT_ONCE]
        found += fetch_home(default_client(), some) if to is None else fetch_to(default_client(), some, to)
    if as_json:
        print_json([_plainly(one) for one in found])
    else:
        _tell(found)
    if any(one.error for one in found):
        raise click.exceptions.Exit(PARTLY_DONE)


def _tell(found: "list[Arrived]") -> None:
    for one in found:
        if one.error:
            click.echo(f"Job {one.job_id}, {plain(one.slot)}: {plain(one.error)}", err=True)
        else:
            click.echo(plain(one.path))
    if not found:
        click.echo("Nothing to fetch: these Jobs have sent nothing to client:, or it was collected.", err=True)
    elif any(one.error for one in found):
        click.echo(f"{counted(sum(bool(one.error) for one in found), 'result')} did not arrive.", err=True)


def _plainly(one: "Arrived") -> dict[str, Any]:
    return {
        "job_id": one.job_id,
        "slot": one.slot,
        "path": one.path,
        "size_bytes": one.size_bytes,
        "error": one.error or None,
    }
