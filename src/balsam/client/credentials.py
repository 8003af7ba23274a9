"""Files that hold a token: read with an owner and mode check, written atomically with mode 0600.

Used by `client.settings`, by `balsam login` and by those who leave a token for their own child (agent, launcher). A
file that others can read is refused, never repaired in silence: the token in it must be taken for known.
"""

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balsam.client.errors import CredentialsError

if TYPE_CHECKING:
    from balsam.wire.auth import Login

CLIENT_FILE = "client.yml"
SERVICE_FILE = "service.json"


def balsam_home(environ: Mapping[str, str] | None = None) -> Path:
    """`$BALSAM_HOME`, default `~/.balsam`. It need not exist.

    >>> balsam_home({"BALSAM_HOME": "/srv/balsam"})
    PosixPath('/srv/balsam')
    """
    environ = os.environ if environ is None else environ
    return Path(environ.get("BALSAM_HOME") or "~/.balsam").expanduser()


def read_secret_file(path: Path) -> str | None:
    """Text of a file that only its owner, this user, can read; None when there is no such file.

    Raises CredentialsError, with the command that repairs it, when it belongs to somebody else or is wider than 0600.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CredentialsError(f"{path} can't be read: {error.strerror or error}") from error
    with os.fdopen(descriptor, encoding="utf-8") as file:
        about = os.fstat(descriptor)  # of the open file: the name could be pointed elsewhere between look and read
        if about.st_uid != os.geteuid():
            raise CredentialsError(
                f"{path} belongs to user {about.st_uid}, not to you ({os.geteuid()}); its token is not used. "
                f"Remove it, or set BALSAM_HOME to a directory of your own"
            )
        if about.st_mode & 0o077:
            raise CredentialsError(
                f"{path} can be read by others (mode {stat.S_IMODE(about.st_mode):04o}); its token is not used. "
                f"Run: chmod 600 {path}   (and log in again if somebody may have read it)"
            )
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise CredentialsError(f"{path} is not text: {error}; remove it and log in again") from error


def write_secret_file(path: Path, text: str) -> None:
    """Replace a file by one of mode 0600, whatever the umask; readers see the old text or the new, never a part.

    The directory is made with mode 0700 when it is missing. Raises CredentialsError when it can't be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    except OSError as error:
        raise CredentialsError(f"{path} can't be written: {error.strerror or error}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise CredentialsError(f"{path} can't be written: {error.strerror or error}") from error


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The mapping in a YAML or JSON credentials file; None when there is no such file."""
    text = read_secret_file(path)
    if text is None:
        return None
    try:
        content = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except ValueError as error:
        raise CredentialsError(f"{path} can't be understood: {error}; remove it and log in again") from error
    if not isinstance(content, dict):
        raise CredentialsError(f"{path} holds no mapping; remove it and log in again")
    return content


def _yaml(text: str) -> Any:
    import yaml  # here: only people who logged in elsewhere pay for it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def log_in(url: str, username: str, password: str) -> "Login":
    """See `client.login.log_in`; here so that reading credentials does not load the transport."""
    from balsam.client.login import log_in

    return log_in(url, username, password)


def log_out() -> str:
    """See `client.login.log_out`."""
    from balsam.client.login import log_out

    return log_out()
