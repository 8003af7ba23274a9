"""`balsam job`: list, cancel, read the output of, and explain Jobs."""

import sys
from typing import Any

import click

from balsam.cli.output import age, json_option, plain, print_json, print_table
from balsam.cli.selectors import job_selectors, selected_jobs
from balsam.domain.states import DONE_STATES, JobState


@click.group()
def job() -> None:
    """List, watch, explain and cancel Jobs."""


@job.command("ls")
@job_selectors
@click.option("--by-state", is_flag=True, help="Only count Jobs by state.")
@click.option("-n", "--limit", default=100, show_default=True, type=click.IntRange(min=1), help="Newest Jobs to show.")
@json_option
def list_jobs(by_state: bool, limit: int, as_json: bool, **selectors: Any) -> None:
    """List Jobs, newest first."""
    query = selected_jobs(**selectors)
    if by_state:
        _print_counts(query.count_by("state"), as_json)
        return
    jobs = list(query.order_by("-id")[:limit])
    if as_json:
        print_json([one.display_dict() for one in jobs])
        return
    rows = [(one.id, one.app_name, one.workdir, one.state, one.tags or "", age(one.last_update)) for one in jobs]
    print_table(("ID", "App", "Workdir", "State", "Tags", "Changed"), rows, "No Jobs match.")
    if len(jobs) == limit and (total := query.count()) > limit:
        click.echo(f"{limit} of {total} Jobs; see more with --limit", err=True)


@job.command()
@job_selectors
@click.option("--all", "every", is_flag=True, help="All of your Jobs that are not done.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def cancel(every: bool, yes: bool, as_json: bool, **selectors: Any) -> None:
    """Cancel Jobs: waiting ones at once, running ones as soon as their processes are gone."""
    if not every and not any(selectors.values()):
        raise click.UsageError("say which Jobs: --id, --tag, --state ... or --all")
    from balsam.api import Job

    # Only what is not done can be cancelled; asking for nothing else keeps the count in the question true.
    open_states = [state for state in JobState if state not in DONE_STATES]
    wanted = [JobState(state.upper()) for state in selectors["states"]] or open_states
    selectors["states"] = tuple(state for state in wanted if state not in DONE_STATES)
    query = selected_jobs(**selectors) if selectors["states"] else Job.objects.filter(id=[])
    count = query.count()
    if count and not yes and not as_json:
        click.confirm(f"Cancel {count} Job{'s' * (count > 1)}?", abort=True)
    done = Job.objects.cancel(query) if count else None
    changed, refused = (done.changed, done.refused) if done is not None else (0, {})
    if as_json:
        print_json({"cancelled": changed, "refused": refused})
    else:
        click.echo(f"Cancelled {changed} Job{'s' * (changed != 1)}.")
        for job_id, why in refused.items():
            click.echo(f"  {job_id}: {plain(why)}", err=True)
    if refused:
        sys.exit(3)


@job.command()
@click.argument("job_id", type=int)
@click.option("--file", "name", default="job.out", show_default=True, help="File in the Job's workdir.")
@click.option("--tail", "tail_bytes", type=click.IntRange(min=1), help="Only the last so many bytes.")
@json_option
def logs(job_id: int, name: str, tail_bytes: int | None, as_json: bool) -> None:
    """Print the output of a Job, also while it runs."""
    from balsam.api import Job

    one = Job.objects.get(id=job_id)
    text = one.read_text(name, offset=-tail_bytes if tail_bytes else 0)
    if as_json:
        print_json({"id": job_id, "file": name, "text": text})
    else:
        click.echo(plain(text), nl=not text.endswith("\n"))


@job.command()
@click.argument("job_id", type=int)
@json_option
def explain(job_id: int, as_json: bool) -> None:
    """Say why a Job is where it is, and what to do."""
    from balsam.api import Job

    why = Job.objects.get(id=job_id).explain()
    if as_json:
        print_json(why)
        return
    click.echo(f"Job {why.id} is {why.state}: {plain(why.summary)}")
    for reason in why.reasons:
        click.echo(f"  - {plain(reason)}")


def _print_counts(counts: dict[JobState, int], as_json: bool) -> None:
    if as_json:
        print_json(counts)
    else:
        print_table(("State", "Jobs"), [(state, counts[state]) for state in JobState if counts.get(state)], "No Jobs.")
