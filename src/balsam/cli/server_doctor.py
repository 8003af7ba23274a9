"""`balsam server doctor`: look at a service's installation from the machine it runs on, and say what to do.

It takes the options of `balsam server up` and looks at what a start with them would find, or did find. Nothing is
changed. Here: the directory, its secrets and the files on their way; see server_doctor_database,
server_doctor_network and server_doctor_answer for the rest.
"""

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from balsam.cli.findings import Finding, guarded, show
from balsam.server.command import settings_of
from balsam.server.command import up as start
from balsam.server.settings import ServerSettings, SettingsError

_MIB = 1024**2


def _doctor(*, as_json: bool, log_format: str, log_file: Path | None, **options: Any) -> None:
    settings = settings_of(click.get_current_context(), **options)
    show(list(findings_of(settings)), as_json=as_json)


# The options are those of `balsam server up`, so that what starts a service can be checked word for word.
doctor = click.Command(
    "doctor",
    callback=_doctor,
    help="Check a service's installation on its own machine, while it runs or before it starts.\n\n"
    "Give it the options, the environment and the user that the service is started with. Nothing is changed. Exit "
    "code 1 when something does not work. A SQLite file is read as a whole, which takes a moment for each gigabyte.",
    params=[
        *(one for one in start.params if one.name != "as_json"),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON value instead of text for people."),
    ],
)


def findings_of(settings: ServerSettings) -> Iterator[Finding]:
    """Everything about one service."""
    from balsam.cli import server_doctor_answer as answer
    from balsam.cli import server_doctor_database as database
    from balsam.cli import server_doctor_network as network

    checks = {
        "settings": _settings,
        "data directory": _data_directory,
        "secrets": _secrets,
        "database": database.findings_of,
        "files": _files,
        "certificate": network.certificate,
        "proxy": network.proxy,
        "logins": network.logins,
        "service": answer.service,
    }
    for name, check in checks.items():
        yield from guarded(name, partial(check, settings))


def _settings(settings: ServerSettings) -> Iterator[Finding]:
    try:
        settings.check()
    except SettingsError as error:
        yield Finding("settings", "problem", str(error), "correct the options; the service does not start with them")
        return
    who = "logs in the Unix user who runs it" if settings.is_single_user else "logs nobody in by a file"
    yield Finding("settings", "ok", f"{settings.scheme} on {settings.host} port {settings.port}; {who}")


def _data_directory(settings: ServerSettings) -> Iterator[Finding]:
    path = settings.data_path
    try:
        found = path.stat()
    except FileNotFoundError:
        fix = "name the service's directory with --path; the first start makes it"
        yield Finding("data directory", "problem", f"{path} is not there", fix)
        return
    why = _not_private(path, found)
    if why:
        yield Finding("data directory", "problem", *why)
    elif not stat.S_ISDIR(found.st_mode) or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        fix = "is its file system mounted read-only? It must be a directory of the user who runs the service"
        yield Finding("data directory", "problem", f"{path} can't be written to", fix)
    else:
        yield Finding("data directory", "ok", f"{path}, for its owner only")
    yield _space("disk", path, settings.disk_reserve_mb)


def _space(check: str, path: Path, reserve_mb: int) -> Finding:
    """Whether there is more room than what uploads leave free."""
    free_mb = shutil.disk_usage(path).free / _MIB
    said = f"{free_mb:,.0f} MiB are free in {path}, and uploads leave {reserve_mb:,} MiB (--disk-reserve-mb)"
    if free_mb < reserve_mb:
        return Finding(check, "problem", f"{said}: none is taken any more", "free space on this file system")
    if free_mb < 2 * reserve_mb:
        return Finding(check, "warning", said, "free space on this file system, before uploads are refused")
    return Finding(check, "ok", said)


def _not_private(path: Path, found: os.stat_result) -> tuple[str, str] | None:
    """What is wrong with owner and mode of what only the service's user may read, and what to do."""
    if found.st_uid != os.getuid():
        fix = "run the doctor, and the service, as the user who owns it"
        return f"{path} belongs to {_user(found.st_uid)}, and you are {_user(os.getuid())}", fix
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        said = f"{path} is open to other users (mode {mode:04o})"
        if stat.S_ISDIR(found.st_mode):
            return said, f"chmod 700 {path}"
        return said, f"chmod 600 {path}; change what is in it when others use this machine"
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _secrets(settings: ServerSettings) -> Iterator[Finding]:
    """What holds tokens, passwords, their hashes or keys."""
    looked = 0
    closed = True
    for path in _secret_files(settings):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        looked += 1
        why = _not_private(path, found)
        if path == settings.tls_key and not found.st_mode & 0o007 and os.access(path, os.R_OK):
            continue  # for a group of those who use a certificate, as Debian has it
        if why:
            closed = False
            yield Finding("secrets", "problem", *why)
    if closed:
        yield Finding("secrets", "ok", f"{looked} files, for their owner only" if looked else "none is there yet")


def _secret_files(settings: ServerSettings) -> list[Path]:
    from balsam.cli.server_background import LOG, RECORD
    from balsam.server.auth.local import SERVICE_FILE, TOKEN_FILE

    database = settings.database_file
    files = [settings.data_path / name for name in (TOKEN_FILE, RECORD, LOG)]
    files += [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]
    if settings.is_single_user:
        files.append(settings.home / SERVICE_FILE)
    if settings.database is not None and not settings.database.has_password:
        files.append(Path(os.environ.get("PGPASSFILE") or "~/.pgpass").expanduser())
    return files + [path for path in (settings.login_file, settings.tls_key) if path is not None]


def _files(settings: ServerSettings) -> Iterator[Finding]:
    """Where files on their way are kept: parts always on disk, complete ones in a bucket when there is one."""
    path = settings.blob_path
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        fix = f"make it writable for {_user(os.getuid())}, or name another place with --blob-dir"
        yield Finding("files", "problem", f"{there} can't be written to", fix)
    else:
        yield Finding("files", "ok", f"{path}{'' if there == path else ' (the first start makes it)'}")
    if settings.blob_dir is not None:
        yield _space("disk of files", there, settings.disk_reserve_mb)
    if settings.blob_store:
        yield _bucket(settings.blob_store)


def _bucket(url: str) -> Finding:
    from balsam.server.blobs.s3 import S3Storage

    try:
        S3Storage(url)
    except SettingsError as error:
        fix = "correct --blob-store and the variables AWS_*, as the service has them in its environment"
        return Finding("bucket", "problem", str(error), fix)
    return Finding("bucket", "ok", f"{url} can be listed; whether it can be written to shows the first upload")
