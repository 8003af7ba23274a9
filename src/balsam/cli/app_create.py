"""`balsam app create`: an App whose Jobs run a command, without any Python. `MyApp.sync()` is the same for a class."""

from typing import TYPE_CHECKING, Any, cast

import click

from balsam.cli.job_fields import pairs_option
from balsam.cli.output import json_option, plain, print_json
from balsam.cli.selectors import one_site, site_option

if TYPE_CHECKING:
    from balsam.api import App, Site


@click.command()
@click.argument("name")
@click.argument("template", metavar="COMMAND")
@pairs_option("-d", "--default", "defaults", text="What a parameter is when a Job does not say; repeat.")
@pairs_option("-e", "--env", "environment", text="An environment variable of its Jobs; repeat.")
@pairs_option("--input", "inputs", text="A file that each Job takes in: SLOT=PATH in the workdir; repeat.")
@pairs_option("--output", "outputs", text="A file that a Job may send home: SLOT=PATH in the workdir; repeat.")
@click.option("--cleanup", multiple=True, metavar="PATTERN", help="Files to remove once a Job is finished; repeat.")
@click.option("--description", default="", help="For people.")
@click.option("--replace", is_flag=True, help="Replace another definition of this name; its Jobs stay.")
@site_option("-s")
@json_option
def create(
    name: str,
    template: str,
    defaults: dict[str, str],
    environment: dict[str, str],
    inputs: dict[str, str],
    outputs: dict[str, str],
    cleanup: tuple[str, ...],
    description: str,
    replace: bool,
    site: str | None,
    as_json: bool,
) -> None:
    """Register an App whose Jobs run COMMAND in a shell.

    Each {{ word }} in it is a parameter: its value becomes one word of the shell, whatever it contains. A path of a
    slot that ends with / is a directory.

    \b
    balsam app create hello 'echo Hello, {{ name }}' --default name=World
    balsam job create -a hello -w hello/1 -p name=you
    """
    from balsam.api import ApplicationDefinition

    place = one_site(site)
    fields = {
        "__doc__": description,
        "site": place.id,
        "command_template": template,
        "parameters": {key: {"default": value} for key, value in defaults.items()},
        "environment_variables": environment,
        "transfers": _slots(inputs, "in") | _slots(outputs, "out"),
        "cleanup_files": list(cleanup),
    }
    definition = cast("type[ApplicationDefinition]", type(name, (ApplicationDefinition,), fields))
    before = _registered(name, place)
    if before is not None and not replace and _differ(before.display_dict(), definition.to_dict()):
        raise click.UsageError(
            f"there is another App {name!r} at {place.name}, see: balsam app show {name}; --replace puts this one "
            "in its place, and its Jobs stay with it"
        )
    definition.sync()
    made = _registered(name, place)
    if as_json:
        print_json(None if made is None else made.display_dict())
        return
    takes = "".join(f" -p {key}=..." for key in definition.to_dict()["parameters"] if key not in defaults)
    click.echo(f"App {name} is registered at {plain(str(place.name))}; run it with:")
    click.echo(f"  balsam job create -a {name} -w {name}/1{takes}")


def _registered(name: str, place: "Site") -> "App | None":
    from balsam.api import App

    return next(iter(App.objects.filter(name=name, site_id=place.id)), None)


def _differ(known: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether what runs, or what is told of it, would change; the source of a class does not count."""
    return any(known[key] != value for key, value in new.items() if key != "source_code")


def _slots(given: dict[str, str], direction: str) -> dict[str, dict[str, Any]]:
    return {
        slot: {
            "required": direction == "in",
            "direction": direction,
            "local_path": path.rstrip("/") or path,
            "recursive": path.endswith("/"),
        }
        for slot, path in given.items()
    }
