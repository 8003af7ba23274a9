"""`balsam job logs`, `events` and `explain`: what Jobs said, what happened to them, why they are where they are.

One id alone gives one JSON value for that Job; anything else gives a list.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from balsam.cli.outcome import PARTLY_DONE
from balsam.cli.output import counted, json_option, plain, print_json
from balsam.cli.param_types import OneOf
from balsam.cli.selectors import JobChoice, job_selectors
from balsam.cli.table import table_text
from balsam.cli.watch import View, show, watch_options
from balsam.domain.states import JobState

if TYPE_CHECKING:
    from balsam.api import EventLog, Job

_limit_option = click.option(
    *("-n", "--limit"), default=20, show_default=True, type=click.IntRange(min=1), help="Newest Jobs to look at."
)


@click.command()
@job_selectors()
@click.option("--file", "name", default="job.out", show_default=True, help="File in the Job's workdir.")
@click.option("--tail", "tail_bytes", type=click.IntRange(min=1), help="Only the last so many bytes.")
@click.option("-f", "--follow", is_flag=True, help="Go on while one Job runs, until it is done or Ctrl-C.")
@click.option("--lines", type=click.IntRange(min=0), help="With -f: begin with the last so many lines.")
@_limit_option
@json_option
def logs(
    choice: JobChoice, name: str, tail_bytes: int | None, follow: bool, lines: int | None, limit: int, as_json: bool
) -> None:
    """Print the output of Jobs, also while they run."""
    if lines is not None and not follow:
        raise click.UsageError("--lines goes with -f; without it: --tail BYTES")
    if follow:
        _follow(choice, name, lines, forbidden=as_json or tail_bytes is not None)
        return

    def read(job: "Job") -> dict[str, Any]:
        return {"id": job.id, "file": name, "text": job.read_text(name, offset=-tail_bytes if tail_bytes else 0)}

    def write(found: dict[str, Any], several: bool) -> None:
        if several:
            click.echo(f"==> Job {found['id']}, {plain(name)} <==")
        click.echo(plain(found["text"]), nl=not found["text"].endswith("\n"))

    _each(choice, limit, as_json, read, write)


def _follow(choice: JobChoice, name: str, lines: int | None, *, forbidden: bool) -> None:
    from balsam.api import Job

    if forbidden:
        raise click.UsageError("-f is for people and goes on; without it: --json, --tail BYTES")
    if not choice.has_ids_only or len(choice.ids) != 1:
        raise click.UsageError("-f follows one Job; name it by its id")
    for line in Job.objects.get(id=choice.ids[0]).tail(name, follow=True, lines=lines):
        sys.stdout.write(plain(line))
        sys.stdout.flush()


@click.command()
@job_selectors()
@_limit_option
@json_option
def explain(choice: JobChoice, limit: int, as_json: bool) -> None:
    """Say why Jobs are where they are, and what to do."""

    def ask(job: "Job") -> Any:
        return job.explain()

    def write(why: Any, several: bool) -> None:
        click.echo(f"Job {why.id} is {why.state}: {plain(why.summary)}")
        for reason in why.reasons:
            click.echo(f"  - {plain(reason)}")

    _each(choice, limit, as_json, ask, write)


@click.command()
@job_selectors()
@click.option("--from-state", type=OneOf(JobState), help="Transitions out of this state.")
@click.option("--to-state", type=OneOf(JobState), help="Transitions into this state.")
@click.option("-n", "--limit", default=100, show_default=True, type=click.IntRange(min=1), help="Newest to show.")
@watch_options
@json_option
def events(
    choice: JobChoice,
    from_state: JobState | None,
    to_state: JobState | None,
    limit: int,
    watch: bool,
    every_sec: float,
    as_json: bool,
) -> None:
    """List the transitions of Jobs, the oldest first. --since is about the transition, --state about the Job now."""
    from balsam.api import EventLog

    scope = choice.scope()
    scope.mention_left_out()
    query = EventLog.objects.filter(**_event_filter(choice.filter(scope)), from_state=from_state, to_state=to_state)
    if as_json and not watch:
        print_json([one.display_dict() for one in reversed(list(query[:limit]))])
        return

    def look() -> View:
        found = list(query[:limit])
        total = query.count() if len(found) == limit else 0
        note = f"the newest {limit} of {counted(total, 'event')}; more with --limit" if total > limit else ""
        return View(_event_table(list(reversed(found))), note)

    show(look, "No events match.", watch=watch, every_sec=every_sec, as_json=as_json)


def _event_filter(jobs: dict[str, Any]) -> dict[str, Any]:
    """The filter of Jobs as one of events."""
    names = {"id": "job_id", "state": "job_state", "last_update_after": "timestamp_after"}
    return {names.get(name, name): value for name, value in jobs.items()}


def _event_table(found: "list[EventLog]") -> str:
    columns = ("Time", "Job", "From", "To", "Attempt", "By", "Message")
    rows = [
        (one.timestamp, one.job_id, one.from_state, one.to_state, one.attempt, one.actor, _said(one.data))
        for one in found
    ]
    return table_text(columns, rows)


def _said(data: dict[str, Any]) -> str:
    rest = {key: value for key, value in data.items() if key not in ("message", "tail")}
    words = [str(data.get("message") or ""), *(f"{key}={value}" for key, value in rest.items())]
    return " ".join(word for word in words if word)


def _each(
    choice: JobChoice,
    limit: int,
    as_json: bool,
    read: "Callable[[Job], Any]",
    write: Callable[[Any, bool], None],
) -> None:
    """Read something of each chosen Job, the newest `limit` of them."""
    from balsam.api import BalsamError, Job

    if choice.is_open:
        raise click.UsageError("say which Jobs: by ids, --tag, --state, --app ...")
    if choice.has_ids_only and len(choice.ids) == 1:
        found = read(Job.objects.get(id=choice.ids[0]))
        if as_json:
            print_json(found)
        else:
            write(found, False)
        return
    scope = choice.scope()
    scope.mention_left_out()
    jobs = list(choice.query(scope).order_by("-id")[: limit + 1])
    told, failed = [], False
    for job in jobs[:limit]:
        try:
            told.append(read(job))
            if not as_json:
                write(told[-1], True)
        except (BalsamError, OSError) as error:  # of one Job; the others are asked all the same
            failed = True
            told.append({"id": job.id, "error": str(error)})
            click.echo(f"Job {job.id}: {plain(str(error))}", err=True)
    if as_json:
        print_json(told)
    elif not jobs:
        click.echo("No Jobs match.", err=True)
    if len(jobs) > limit:
        click.echo(f"Only the newest {counted(limit, 'Job')} of those that match; more with --limit", err=True)
    if failed:
        raise click.exceptions.Exit(PARTLY_DONE)
