"""`balsam server deploy`, `up`, `restart` and `down`."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from balsam.cli.output import json_option, print_json
from balsam.server.command import database_of
from balsam.server.command import up as in_foreground

PATH = click.Path(path_type=Path)
_NOT_FOR_CHILD = {"data_dir", "as_json"}


def _up(background: bool, **options: Any) -> None:
    if not background:
        # Not through `invoke`, which would hide from it what stood on the command line and what in a variable.
        if in_foreground.callback is not None:
            in_foreground.callback(**options)
        return
    database_of(click.get_current_context(), options["database"])
    _start(_private(options["data_dir"]), as_json=options["as_json"])


# The options are those of the service's own command line, and none is written down twice.
up = click.Command(
    "up",
    callback=_up,
    help=in_foreground.help,
    params=[
        *in_foreground.params,
        click.Option(["--background"], is_flag=True, help="Return once it answers; end it with: balsam server down"),
        click.Option(["--log/--no-log"], hidden=True, expose_value=False, help="Of Balsam 0.7; there is always a log."),
    ],
)


def _deploy(**options: Any) -> None:
    database_of(click.get_current_context(), options["database"])
    path: Path = options["data_dir"]
    if path.exists() and any(path.iterdir()):
        raise click.ClickException(
            f"{path} is not empty; name a new directory. A service that is there is started by: balsam server up "
            f"--background --path {path}"
        )
    made = not path.exists()
    data_dir = _private(path)
    try:
        _start(data_dir, as_json=options["as_json"])
    except BaseException:
        _remove_empty(data_dir, made)
        raise


deploy = click.Command(
    "deploy",
    callback=_deploy,
    help="Make a new directory for a service and start the service in the background.\n\n"
    "Nothing else has to be installed: the data are in one SQLite file.",
    params=[
        click.Option(["-p", "--path", "--data-dir", "data_dir"], type=PATH, required=True, help="A new directory."),
        *(one for one in in_foreground.params if one.name != "data_dir"),
    ],
)


@click.command()
@click.option("-p", "--path", "--data-dir", "data_dir", type=PATH, help="Its data. [default: BALSAM_HOME/service]")
@json_option
def down(data_dir: Path | None, as_json: bool) -> None:
    """Stop a service that runs in the background; Sites, launchers and Jobs go on and wait for the next start."""
    from balsam.cli.server_background import stop_service

    path = _where(data_dir)
    if not path.is_dir():
        raise click.ClickException(f"there is no service in {path}; name its directory with --path")
    stopped = stop_service(path)
    if as_json:
        print_json({"stopped": stopped, "data_dir": str(path)})
    else:
        click.echo("Service stopped." if stopped else f"No service runs in the background with its data in {path}.")


@click.command()
@click.option("-p", "--path", "--data-dir", "data_dir", type=PATH, help="Its data. [default: BALSAM_HOME/service]")
@json_option
def restart(data_dir: Path | None, as_json: bool) -> None:
    """Start a service that runs in the background anew, with what is installed now and its options of before.

    No request fails meanwhile: those that are being answered come to their end, new ones wait for a moment.
    """
    from balsam.cli.server_background import find_service, start_anew

    path = _where(data_dir)
    service = find_service(path)
    if service is None or not service.is_alive:
        raise click.ClickException(f"no service runs in the background on this machine with its data in {path}")
    start_anew(service)
    if as_json:
        print_json({"url": service.url, "pid": service.pid, "data_dir": str(path)})
    else:
        click.echo(f"Balsam service at {service.url} (process {service.pid}) started anew.")


def _where(data_dir: Path | None) -> Path:
    from balsam.server.settings import ServerSettings

    return ServerSettings(data_dir=data_dir).data_path


def _private(data_dir: Path | None) -> Path:
    from balsam.server.auth.local import private_directory
    from balsam.server.settings import SettingsError

    try:
        return private_directory(_where(data_dir))
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _start(data_dir: Path, *, as_json: bool) -> None:
    from balsam.cli.server_background import LOG, start_service

    service = start_service(data_dir, _words())
    if as_json:
        print_json({"url": service.url, "pid": service.pid, "data_dir": str(data_dir)})
        return
    click.echo(f"Balsam service at {service.url} (process {service.pid}), data and {LOG} in {data_dir}.")
    click.echo(f"Stop it with: balsam server down --path {data_dir}")


def _words() -> list[str]:
    """What was given on this command line, for the command line of the service."""
    context = click.get_current_context()
    words = []
    for param in in_foreground.params:
        name = param.name or ""
        if name in _NOT_FOR_CHILD or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        words.append(param.opts[-1])
        if not (isinstance(param, click.Option) and param.is_flag):
            words.append(str(value.absolute() if isinstance(value, Path) else value))
    return words


def _remove_empty(data_dir: Path, made: bool) -> None:
    """What a start that failed has left in a directory that was empty."""
    import shutil

    for path in data_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if made:
        data_dir.rmdir()
