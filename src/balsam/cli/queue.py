"""`balsam queue`: request, list and end allocations."""

from dataclasses import asdict
from typing import Any

import click

from balsam.cli.output import age, json_option, parse_pairs, plain, print_json, print_table
from balsam.cli.selectors import one_site, site_ids, site_option
from balsam.domain.partitions import parse_partition
from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState, JobMode


@click.group()
def queue() -> None:
    """Request, list and end allocations (BatchJobs)."""


@queue.command()
@click.option("-n", "--num-nodes", required=True, type=click.IntRange(min=1), help="Nodes to request.")
@click.option("-t", "--wall-time-min", required=True, type=click.IntRange(min=1), help="Minutes to request.")
@click.option("-q", "--queue", "queue_name", default="local", show_default=True)
@click.option("-A", "--project", default="local", show_default=True)
@click.option("-j", "--job-mode", required=True, type=click.Choice([mode.value for mode in JobMode]))
@click.option(
    "-tag", "--tag", "tags", multiple=True, callback=parse_pairs("--tag"), help="Run only Jobs with KEY=VALUE."
)
@click.option("-p", "--part", "parts", multiple=True, help="A partition, MODE:NODES[:KEY=VALUE]...; repeat.")
@click.option("-x", "--extra-param", multiple=True, callback=parse_pairs("--extra-param"), help="For job-template.sh.")
@site_option
@json_option
def submit(
    num_nodes: int,
    wall_time_min: int,
    queue_name: str,
    project: str,
    job_mode: str,
    tags: dict[str, str],
    parts: tuple[str, ...],
    extra_param: dict[str, str],
    site: str | None,
    as_json: bool,
) -> None:
    """Request an allocation on a Site."""
    from balsam.api import BatchJob

    batch_job = BatchJob.objects.create(
        site_id=one_site(site),
        num_nodes=num_nodes,
        wall_time_min=wall_time_min,
        queue=queue_name,
        project=project,
        job_mode=job_mode,
        filter_tags=tags,
        optional_params=extra_param,
        partitions=[_partition(part) for part in parts] or None,
    )
    if as_json:
        print_json(batch_job.display_dict())
    else:
        click.echo(f"BatchJob {batch_job.id} is {batch_job.state}; watch it with: balsam queue ls")


@queue.command("ls")
@click.option("--history", is_flag=True, help="Also those that ended.")
@site_option
@json_option
def list_batch_jobs(history: bool, site: str | None, as_json: bool) -> None:
    """List allocations, newest first, with the scheduler's reason."""
    from balsam.api import BatchJob, Site

    wanted: dict[str, Any] = {}
    if not history:
        wanted["state"] = [state for state in BatchJobState if state not in BATCH_JOB_ENDED]
    chosen = site_ids(site)
    if chosen is not None:
        wanted["site_id"] = chosen
    query = BatchJob.objects.filter(**wanted) if wanted else BatchJob.objects.all()
    found = list(query.order_by("-id"))
    if as_json:
        print_json([one.display_dict() for one in found])
        return
    sites = {one.id: one.name for one in Site.objects.all()}
    columns = (
        "ID",
        "Site",
        "Scheduler ID",
        "State",
        "Mode",
        "Nodes",
        "Minutes",
        "Queue",
        "Project",
        "Started",
        "Reason",
    )
    rows = []
    for one in found:
        asked = (one.job_mode, one.num_nodes, one.wall_time_min, one.queue, one.project)
        rows.append(
            (one.id, sites.get(one.site_id), one.scheduler_id, one.state, *asked, age(one.start_time), _reason(one))
        )
    print_table(columns, rows, "No allocations; request one with: balsam queue submit")


@queue.command("rm")
@click.argument("batch_job_ids", type=int, nargs=-1, required=True)
@json_option
def remove(batch_job_ids: tuple[int, ...], as_json: bool) -> None:
    """End allocations: running Jobs are stopped and run again in the next one."""
    from balsam.api import BatchJob

    ended = []
    for batch_job_id in batch_job_ids:
        batch_job = BatchJob.objects.get(id=batch_job_id)
        batch_job.cancel()
        ended.append(batch_job)
    if as_json:
        print_json([one.display_dict() for one in ended])
    for one in ended if not as_json else ():
        click.echo(f"BatchJob {one.id} is {one.state}.")


def _partition(text: str) -> dict[str, Any]:
    try:
        return asdict(parse_partition(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--part") from None


def _reason(batch_job: Any) -> str:
    from balsam.wire.batch_jobs import status_reason

    return plain(status_reason(batch_job.status_info or {}))
