"""`balsam site init`, `start`, `stop` and `sync`."""

from pathlib import Path

import click

from balsam.cli.machine_choice import chosen_machine
from balsam.cli.output import json_option, plain, print_json
from balsam.cli.param_types import MachineName


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-n", "--name", help="Name at the service. [default: the directory's name]")
@click.option(
    "-m",
    "--machine",
    type=MachineName(),
    help="Whose settings to begin with. [default: asked at a terminal, else local]",
)
@json_option
def init(path: Path, name: str | None, machine: str | None, as_json: bool) -> None:
    """Create a Site in the directory PATH and register it at the service."""
    from balsam.site.control import init_site

    made = init_site(path, name, machine or chosen_machine(path, as_json=as_json))
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


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@json_option
def sync(path: Path | None, as_json: bool) -> None:
    """Have changes of settings.yml and job-template.sh take effect, without touching what is queued or runs.

    A running agent begins anew with them; without one, the service is told what the Site offers. Faults in the files
    are named with their lines, and nothing is changed then.
    """
    from balsam.site.control import sync_site

    synced = sync_site(path)
    agent = synced.agent
    if as_json:
        offer = synced.offer.model_dump(mode="json", exclude_none=True)
        print_json({"offer": offer, "agent": None if agent is None else {"pid": agent.pid, "state": agent.state}})
        return
    queues = ", ".join(synced.offer.allowed_queues or {}) or "none"
    click.echo(f"Queues: {plain(queues)}. Projects: {plain(', '.join(synced.offer.allowed_projects or []) or 'none')}.")
    if agent is None:
        click.echo("The service knows. No agent runs: balsam site start", err=True)
    elif agent.state == "waiting":
        click.echo(f"The agent has taken them up and waits for the service: {plain(agent.detail)}", err=True)
    else:
        click.echo(f"The agent (process {agent.pid} on {agent.hostname}) has taken them up.")
