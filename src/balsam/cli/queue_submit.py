"""`balsam queue submit`."""

from dataclasses import asdict
from typing import Any

import click

from balsam.cli.output import json_option, parse_pairs, print_json
from balsam.cli.selectors import one_site, site_option
from balsam.domain.partitions import parse_partition
from balsam.domain.states import JobMode


@click.command()
@click.option("-n", "--num-nodes", required=True, type=click.IntRange(min=1), help="Nodes to request.")
@click.option("-t", "--wall-time-min", required=True, type=click.IntRange(min=1), help="Minutes to request.")
@click.option("-q", "--queue", default="local", show_default=True, help="One that the Site allows.")
@click.option("-A", "--project", default="local", show_default=True, help="One that the Site allows.")
@click.option(
    "-j",
    "--job-mode",
    type=click.Choice([mode.value for mode in JobMode]),
    default=JobMode.MPI.value,
    show_default=True,
)
@click.option(
    *("-tag", "--tag", "filter_tags"),
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_pairs("--tag"),
    help="Run only Jobs with this tag; repeat.",
)
@click.option("-p", "--part", "parts", multiple=True, help="A partition, MODE:NODES[:KEY=VALUE]...; repeat.")
@click.option(
    *("-x", "--extra-param", "optional_params"),
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_pairs("--extra-param"),
    help="A parameter of job-template.sh; repeat.",
)
@site_option()
@json_option
def submit(site: str | None, parts: tuple[str, ...], as_json: bool, **fields: Any) -> None:
    """Request an allocation on a Site."""
    from balsam.api import BatchJob

    partitions = [_partition(part) for part in parts] or None
    batch_job = BatchJob.objects.create(site_id=one_site(site).id, partitions=partitions, **fields)
    if as_json:
        print_json(batch_job.display_dict())
    else:
        click.echo(f"BatchJob {batch_job.id} is {batch_job.state}; watch it with: balsam queue ls --watch")


def _partition(text: str) -> dict[str, Any]:
    try:
        return asdict(parse_partition(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--part") from None
