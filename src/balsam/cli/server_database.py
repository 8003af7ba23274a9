"""`balsam server migrate`, `backup`, `restore` and `copy`: work on a database, on the machine of the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from balsam.cli.output import counted, json_option, print_json
from balsam.server.command import database_of
from balsam.server.database_address import DatabaseAddress
from balsam.server.settings import ServerSettings

_PATH = click.Path(path_type=Path)
_database = click.option(
    "--database",
    envvar="BALSAM_DATABASE",
    help="postgresql://USER@HOST/NAME; with a password only in the environment variable BALSAM_DATABASE.",
)
_data_dir = click.option(
    *("-p", "--path", "--data-dir", "data_dir"),
    type=_PATH,
    help="The service's directory, when its database is a SQLite file. [default: BALSAM_HOME/service]",
)


@click.command()
@_database
@json_option
@click.pass_context
def migrate(ctx: click.Context, database: str | None, as_json: bool) -> None:
    """Bring a PostgreSQL database to the schema of this version, while services of the version before go on.

    A SQLite file needs no such step: a service brings it up when it starts.
    """
    address = _needed(ctx, database)
    with _refusals():
        from balsam.server.store.postgres.migrate import migrate as work

        before, after = work(address)
    if as_json:
        print_json({"before": before, "after": after})
    else:
        click.echo(f"Schema {before} -> {after}." if after > before else f"Nothing to do: schema {after}.")


@click.command()
@click.argument("file", type=_PATH)
@_database
@_data_dir
@json_option
@click.pass_context
def backup(ctx: click.Context, file: Path, database: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Save one state of a service's database in FILE, also while it runs.

    FILE is a SQLite file, whichever the database. Files on their way (DATA_DIR/blobs) are not in it.
    """
    address = _one_of(ctx, database, data_dir)
    with _refusals():
        from balsam.server.store import backups

        if address is None:
            copied = backups.back_up_file(_file(data_dir), file)
        else:
            copied = backups.back_up_database(address, file)
    _report("Saved", copied.rows, as_json)


@click.command()
@click.argument("file", type=_PATH)
@_database
@_data_dir
@json_option
@click.pass_context
def restore(ctx: click.Context, file: Path, database: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Put the backup FILE in the place of a database that is empty or not there; no service may run on it."""
    address = _one_of(ctx, database, data_dir)
    with _refusals():
        from balsam.server.store import backups

        if address is None:
            copied = backups.restore_file(file, _file(data_dir))
        else:
            copied = backups.restore_database(file, address)
    _report("Restored", copied.rows, as_json)


@click.command()
@_database
@_data_dir
@json_option
@click.pass_context
def copy(ctx: click.Context, database: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Move a service from its SQLite file to an empty PostgreSQL database; stop it first.

    The rows are compared when they are there. The file stays; start the service with --database from then on.
    """
    address = _needed(ctx, database)
    with _refusals():
        from balsam.server.store import backups

        copied = backups.copy_to_database(_file(data_dir), address)
    _report("Copied", copied.rows, as_json)


def _needed(ctx: click.Context, database: str | None) -> DatabaseAddress:
    address = database_of(ctx, database)
    if address is None:
        raise click.UsageError("name the PostgreSQL database with --database or BALSAM_DATABASE")
    return address


def _one_of(ctx: click.Context, database: str | None, data_dir: Path | None) -> DatabaseAddress | None:
    address = database_of(ctx, database)
    if address is not None and data_dir is not None:
        raise click.UsageError("give --database or --path, not both (BALSAM_DATABASE counts as --database)")
    return address


def _file(data_dir: Path | None) -> Path:
    return ServerSettings(data_dir=data_dir).database_file


@contextmanager
def _refusals() -> Iterator[None]:
    """What can't be done is said in one line."""
    from balsam.server.errors import ServiceError
    from balsam.server.store.backups import BadBackup
    from balsam.server.store.schema import SchemaTooNew, SchemaTooOld
    from balsam.server.store.sqlite import StoreInUse
    from balsam.server.store.whole import CopyDiffers

    try:
        yield
    except ImportError as error:
        raise click.ClickException(f"this needs psycopg ({error}): pip install 'openbalsam[postgres]'") from None
    except (ServiceError, BadBackup, CopyDiffers, SchemaTooNew, SchemaTooOld, StoreInUse) as error:
        raise click.ClickException(str(error)) from None


def _report(done: str, rows: dict[str, int], as_json: bool) -> None:
    if as_json:
        print_json({"rows": rows})
    else:
        click.echo(f"{done} {counted(rows['jobs'], 'Job')} and {counted(sum(rows.values()), 'row')} in all.")
