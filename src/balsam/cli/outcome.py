"""What verbs on many things tell when they are through, and their exit code."""

from collections.abc import Mapping

import click

from balsam.cli.output import counted, plain, print_json

PARTLY_DONE = 3
MAX_REFUSED = 100  # as many as the service names


def report(done: str, changed: int, refused: Mapping[int, str], *, as_json: bool, noun: str = "Job") -> None:
    """Tell what a verb did. Exits with 3 when it left some as they were."""
    if as_json:
        print_json({done: changed, "refused": refused})
    else:
        click.echo(f"{done.capitalize()} {counted(changed, noun)}.")
        for number, why in list(refused.items())[:MAX_REFUSED]:
            click.echo(f"  {noun} {number} is left: {plain(why)}", err=True)
        if len(refused) >= MAX_REFUSED:
            click.echo(f"  Only the first {MAX_REFUSED} that are left are named.", err=True)
    if refused:
        raise click.exceptions.Exit(PARTLY_DONE)
