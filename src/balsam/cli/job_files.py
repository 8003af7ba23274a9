"""`balsam job ls-files` and `get`: what is in a Job's workdir at its Site, and a copy of it here."""

import os
import shutil
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

import click

from balsam.cli.output import json_option, plain, print_json
from balsam.cli.table import table_text

if TYPE_CHECKING:
    from balsam.wire.sites import FileEntry

COPY_BYTES = 1024 * 1024


@click.command("ls-files")
@click.argument("number", type=click.IntRange(min=1), metavar="ID")
@click.argument("path", default="")
@json_option
def list_files(number: int, path: str, as_json: bool) -> None:
    """List a Job's workdir, or a directory PATH below it."""
    from balsam.api import Job

    entries = Job.objects.get(id=number).files(path)
    if as_json:
        print_json(entries)
    elif entries:
        click.echo(table_text(("Name", "Bytes", "Changed"), [_row(entry) for entry in entries]))
    else:
        click.echo("No files.", err=True)


def _row(entry: "FileEntry") -> tuple[object, ...]:
    name = f"{entry.path}/" if entry.is_dir else entry.path
    return name, "" if entry.is_dir else entry.size_bytes, entry.modified_at


@click.command()
@click.argument("number", type=click.IntRange(min=1), metavar="ID")
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File or directory. [default: its name, here]")
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_option
def get(number: int, name: str, output: Path | None, force: bool, as_json: bool) -> None:
    """Copy the file NAME of a Job's workdir to this machine; with `-o -` to stdout.

    For files to look at, while a Job runs or after. What a Job is to bring home belongs into its transfers.
    """
    from balsam.api import Job

    with Job.objects.get(id=number).open(name, "rb") as source:
        if output == Path("-"):
            if as_json:
                raise click.UsageError("--json and `-o -` both want stdout")
            shutil.copyfileobj(source, sys.stdout.buffer, COPY_BYTES)
            return
        target = Path(PurePosixPath(name).name) if output is None else output
        if target.is_dir():
            target /= PurePosixPath(name).name
        if target.exists() and not force:
            raise click.UsageError(f"{plain(str(target))} exists; --force replaces it")
        size_bytes = _copy(source, target)
    if as_json:
        print_json({"id": number, "file": name, "path": target, "size_bytes": size_bytes})
    else:
        click.echo(f"{plain(str(target))}, {size_bytes} bytes")


def _copy(source: IO[bytes], target: Path) -> int:
    """Write it beside its place and rename: nothing half-written is ever seen."""
    umask = os.umask(0)
    os.umask(umask)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".balsam-", delete=False) as file:
        try:
            shutil.copyfileobj(source, file, COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o666 & ~umask)
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink()
            raise
        return file.tell()
