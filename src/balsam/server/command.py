"""The one command line of the service: `balsam server up` and `python -m balsam.server` are both this.

Its options are those of ServerSettings that a person may want to set; the settings check them.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from balsam.server import logs
from balsam.server.database_address import BadAddress, DatabaseAddress
from balsam.server.logs import LogFormat
from balsam.server.settings import DEFAULT_PORT, ServerSettings, SettingsError

if TYPE_CHECKING:
    from balsam.server.run import Ready

_PATH = click.Path(path_type=Path)
_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65_535), help="0 takes a free port."
)
@click.option(
    *("-p", "--path", "--data-dir", "data_dir"), type=_PATH, help="Where state lives. [default: BALSAM_HOME/service]"
)
@click.option(
    "--database",
    envvar="BALSAM_DATABASE",
    help="postgresql://USER@HOST/NAME instead of a SQLite file; with a password only in the environment variable"
    " BALSAM_DATABASE. PostgreSQL's own ~/.pgpass works too.",
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes; needs --database.")
@click.option("--tls-cert", type=_PATH, help="Certificate chain, for https.")
@click.option("--tls-key", type=_PATH, help="Private key of --tls-cert.")
@click.option("--behind-proxy", is_flag=True, help="A reverse proxy on this machine terminates https.")
@click.option("--login-file", type=_PATH, help="OpenID providers at which people log in (YAML, 0600).")
@click.option("--multi-user", is_flag=True, help="Log nobody in by a file, not even on a loopback address.")
@click.option(
    "--synchronous",
    type=click.Choice(["FULL", "NORMAL"]),
    default="FULL",
    show_default=True,
    help="NORMAL is quicker and may lose the last writes when the power fails.",
)
@click.option("--blob-dir", type=_PATH, help="Where files on their way are kept. [default: DATA_DIR/blobs]")
@click.option("--blob-store", default="", metavar="URL", help="Keep complete ones in s3://BUCKET/PREFIX instead.")
@click.option("--quota-gb", default=200.0, show_default=True, type=_POSITIVE, help="Of files on their way, per user.")
@click.option("--max-file-gb", default=100.0, show_default=True, type=_POSITIVE, help="Largest file on its way.")
@click.option(
    "--keep-days", default=30, show_default=True, type=click.IntRange(1), help="For results that nobody collects."
)
@click.option(
    "--keep-jobs-days", type=click.IntRange(1), help="Remove Jobs that ended so long ago. [default: keep all]"
)
@click.option(
    "--disk-reserve-mb", default=256, show_default=True, type=click.IntRange(0), help="What uploads leave free."
)
@click.option(
    "--read-limit-sec",
    default=10.0,
    show_default=True,
    type=_POSITIVE,
    help="A list or a count that takes longer is refused.",
)
@click.option(
    "--streams-per-user", default=200, show_default=True, type=click.IntRange(1), help="Open streams of one user."
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of the log on stderr."
)
@click.option("--log-file", type=_PATH, help="Write the log there, rotated at 10 MB; one process only.")
@click.option("--access-log", is_flag=True, help="Log each request: path, status, duration, who, from where.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when the service is ready.")
@click.pass_context
def up(
    ctx: click.Context,
    /,
    as_json: bool,
    multi_user: bool,
    database: str | None,
    log_format: LogFormat,
    log_file: Path | None,
    **settings: Any,
) -> None:
    """Run a service in this terminal until Ctrl-C.

    On a loopback address your own Unix user is logged in without a password, and nobody else is.
    """
    made = settings_of(ctx, multi_user=multi_user, database=database, **settings)
    if log_file is not None and made.workers > 1:
        raise click.BadParameter(
            "several processes can't rotate one file; leave it to what reads stderr", ctx, param_hint="'--log-file'"
        )
    try:
        logs.configure(log_format, log_file)
    except OSError as error:
        raise click.BadParameter(str(error), ctx, param_hint="'--log-file'") from None
    sys.exit(_run_here(made, as_json=as_json))


def settings_of(ctx: click.Context, *, multi_user: bool, database: str | None, **settings: Any) -> ServerSettings:
    """What the options of `up` mean. They are not checked yet: see ServerSettings.check."""
    address = database_of(ctx, database)
    return ServerSettings(single_user=False if multi_user else None, database=address, **settings)


def database_of(ctx: click.Context, text: str | None) -> DatabaseAddress | None:
    """The option `database`. A password among the arguments could be read by every user of this machine."""
    try:
        address = DatabaseAddress(text) if text else None
    except BadAddress as error:
        raise click.BadParameter(str(error), ctx, param_hint="'--database'") from None
    contexts = (ctx, ctx.parent or ctx)  # `balsam server up` calls this command from its own
    given_here = any(one.get_parameter_source("database") is ParameterSource.COMMANDLINE for one in contexts)
    if address is not None and address.has_password and given_here:
        raise click.BadParameter(
            "a password among the arguments can be read by others; put the whole address into the environment variable "
            "BALSAM_DATABASE, or the password into ~/.pgpass",
            ctx,
            param_hint="'--database'",
        )
    return address


def _run_here(settings: ServerSettings, *, as_json: bool) -> int:
    """0 after a clean stop, 2 when the service refuses to start. Its log goes to stderr."""
    from balsam.server.run import serve  # here: `--help` must not wait for the web framework

    def ready(state: "Ready") -> None:
        line = json.dumps(state.as_dict()) if as_json else f"Balsam service at {state.url}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        serve(settings, ready)
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"balsam service: {error}\n")
        return 2
    return 0
