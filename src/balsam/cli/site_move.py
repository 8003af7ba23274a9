"""`balsam site mv` and `rename`."""

from pathlib import Path

import click

from balsam.cli.outcome import PARTLY_DONE
from balsam.cli.output import json_option, plain, print_json


@click.command("mv")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("-f", "--force", is_flag=True, help="Also where a running Job could miss the directory for a moment.")
@json_option
def move(source: Path, dest: Path, force: bool, as_json: bool) -> None:
    """Move the Site in the directory SOURCE to DEST, which must not exist.

    Jobs, allocations and the agent go on. As long as allocations need it, SOURCE stays as a link to DEST; the agent
    removes it after their end. When the service can't be told, nothing is moved.
    """
    from balsam.cli.up import follow_site
    from balsam.site.move import move_site

    old = source.expanduser().resolve()
    moved = move_site(source, dest, force=force)
    follow_site(old, moved.path)
    if as_json:
        print_json({"path": str(moved.path), "link": moved.link, "trouble": plain(moved.trouble)})
    else:
        click.echo(f"The Site is in {moved.path}.")
        if moved.link:
            click.echo(f"{old} is a link to it until what was started from there has ended.")
    if moved.trouble:
        click.echo(f"The agent still works through the link: {plain(moved.trouble)}", err=True)
        raise click.exceptions.Exit(PARTLY_DONE)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("name")
@json_option
def rename(path: Path, name: str, as_json: bool) -> None:
    """Give the Site in the directory PATH the name NAME; its Jobs and allocations go on."""
    from balsam.site.move import rename_site

    old = rename_site(path, name)
    if as_json:
        print_json({"name": name, "was": old})
    else:
        click.echo(f"Site {plain(old)} is {plain(name)} now; scripts with `site = {old!r}` must say so too.")
