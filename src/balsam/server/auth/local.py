"""Single-user mode: the Unix user who runs the service is logged in by files only that user can read.

`home/service.json` (0600, in a 0700 directory) says where the service is and carries a token; clients of the same user
find it there. It is written when the service is ready and removed at a clean stop. The token itself is kept beside the
data (`local.token`), so that a service that was killed and started again is the same one to clients already running.
"""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from balsam.server.auth import tokens
from balsam.server.settings import SettingsError

SERVICE_FILE = "service.json"
TOKEN_FILE = "local.token"  # noqa: S105  a file name


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """Contents of service.json."""

    url: str
    token: str
    pid: int
    data_dir: str
    instance: str


def private_directory(path: Path) -> Path:
    """Make the directory and those above it that are missing 0700, or refuse one that others own or may enter."""
    for missing in reversed([one for one in (path, *path.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid():
        raise SettingsError(f"{path} belongs to another user (uid {found.st_uid}); choose a directory of your own")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SettingsError(
            f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}); run: chmod 700 {path}"
        )
    return path


def write_private(path: Path, text: str) -> None:
    """Write a 0600 file so that a reader sees the old or the new contents, whatever the umask and whenever we die."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_private(path: Path, remedy: str = "") -> str | None:
    """Contents of a file only its owner can read; None when it is missing; refuses one that others can read or own.

    `remedy` is what to do about a secret that others may have read; by default to have a new file made.
    """
    remedy = remedy or f"remove it and start again: rm {path}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor) as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.getuid():
            raise SettingsError(f"{path} belongs to another user (uid {found.st_uid}); {remedy}")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise SettingsError(
                f"{path} could be read by other users (mode {stat.S_IMODE(found.st_mode):04o}), so what it keeps is "
                f"not secret any more; {remedy}"
            )
        return file.read()


def local_token(data_dir: Path, was_revoked: Callable[[str], bool] = lambda token: False) -> str:
    """The token of the Unix user who runs this service: made at the first start, the same until it is revoked."""
    path = data_dir / TOKEN_FILE
    token = (read_private(path) or "").strip()
    if tokens.is_token(token) and not was_revoked(token):
        return token
    token = tokens.mint("user")
    write_private(path, token + "\n")
    return token


def publish(home: Path, contents: ServiceFile) -> Path:
    """Write service.json."""
    path = private_directory(home) / SERVICE_FILE
    write_private(path, json.dumps(asdict(contents)) + "\n")
    return path


def withdraw(home: Path, instance: str) -> None:
    """Remove service.json, unless another service has written its own since."""
    path = home / SERVICE_FILE
    try:
        if json.loads(path.read_text()).get("instance") == instance:
            path.unlink()
    except (OSError, ValueError):
        return
