"""`balsam site init`, `start` and `stop`."""

from pathlib import Path

import click

from balsam.cli.output import json_option, plain, print_json


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-n", "--name", help="Name at the service. [default: the directory's name]")
@json_option
def init(path: Path, name: str | None, as_json: bool) -> None:
    """Create a Site in the directory PATH and register it at the service."""
    from balsam.site.control import init_site

    made = init_site(path, name)
    if as_json:
        print_json({"id": made.id, "name": made.name, "path": str(made.path)})
    else:
        click.echo(f"Site {made.name} (id {made.id}) is in {made.path}; start it with: balsam site start {path}")


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--foreground", is_flag=True, help="Stay in this terminal, log to it.")
@json_option
def start(path: Path | None, foreground: bool, as_json: bool) -> None:
    """Start the agent of the Site in PATH (default: the Site you stand in)."""
    from balsam.site.control import start_site

    status = start_site(path, foreground=foreground)
    if as_json:
        print_json(
            {"pid": status.pid, "hostname": status.hostname, "state": status.state, "detail": plain(status.detail)}
        )
    elif not foreground:
        click.echo(f"Agent runs as process {status.pid} on {status.hostname}.")
        if status.state == "waiting":
            click.echo(f"It waits for the service: {plain(status.detail)}", err=True)


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@json_option
def stop(path: Path | None, as_json: bool) -> None:
    """Stop the agent; allocations run on, and a new agent takes them over."""
    from balsam.site.control import stop_site

    stopped = stop_site(path)
    if as_json:
        print_json({"stopped": stopped})
    else:
        click.echo("Agent stopped." if stopped else "No agent was running.")
