"""Where things are in a Site directory, and finding the one you stand in.

Used by everything at the Site and, for `current_site_id`, by the command line; quick to import. A directory is a Site
once `.balsam-site` is in it; that file is written last of all, so a half-made Site is never taken for one.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balsam.client.errors import BalsamError

MARKER = ".balsam-site"
SITE_PATH_VARIABLE = "BALSAM_SITE_PATH"


class SiteError(BalsamError):
    """Something about a Site directory or its agent is wrong; the text says what and what to do."""


@dataclass(frozen=True, slots=True)
class SiteIdentity:
    """What `.balsam-site` says: which Site of which service this directory is."""

    id: int
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class SiteDirectory:
    """The files of a Site. `root` is absolute."""

    root: Path

    @property
    def marker(self) -> Path:
        return self.root / MARKER

    @property
    def intent(self) -> Path:
        """Left by `init` until it is complete: with it an interrupted init can go on (S11)."""
        return self.root / ".balsam-init.json"

    @property
    def settings(self) -> Path:
        return self.root / "settings.yml"

    @property
    def credentials(self) -> Path:
        """Address of the service and the Site's own token, 0600."""
        return self.root / "credentials.json"

    @property
    def data(self) -> Path:
        """Work directories of Jobs are in here."""
        return self.root / "data"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def qsubmit(self) -> Path:
        """Batch scripts and what belongs to each allocation."""
        return self.root / "qsubmit"

    @property
    def processing(self) -> Path:
        """What the agent knows of hooks until the service knows it too."""
        return self.root / "processing"

    @property
    def spool(self) -> Path:
        """What travels by programs such as rsync, as long as it is on its way; a directory for each location."""
        return self.root / "spool"

    @property
    def scaling(self) -> Path:
        """What the services that ask for allocations have asked for."""
        return self.root / "scaling"

    @property
    def globus_tokens(self) -> Path:
        """The Site's login at Globus, 0600."""
        return self.root / "globus.json"

    @property
    def agent_lock(self) -> Path:
        return self.root / "agent.lock"

    @property
    def agent_status(self) -> Path:
        """What the agent says of itself; a hint, the lock decides."""
        return self.root / "agent.json"

    def identity(self) -> SiteIdentity:
        """Raises SiteError when the directory is no Site or its marker can't be understood."""
        try:
            found = json.loads(self.marker.read_text(encoding="utf-8"))
            return SiteIdentity(id=int(found["id"]), name=str(found["name"]), url=str(found["url"]))
        except FileNotFoundError as error:
            raise SiteError(f"{self.root} is not a Site directory; create one with: balsam site init PATH") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SiteError(
                f"{self.marker} can't be understood ({error}); if the Site exists at the service, run "
                f"`balsam site init {self.root}` again after removing that file"
            ) from error


def find_site(start: Path | None = None) -> SiteDirectory | None:
    """The Site that contains `start` (default: the working directory), else the one BALSAM_SITE_PATH names, else None.

    Raises SiteError when `start` was given, or BALSAM_SITE_PATH is set, and there is no Site.
    """
    named = os.environ.get(SITE_PATH_VARIABLE)
    if start is None and named:
        site = SiteDirectory(Path(named).expanduser().resolve())
        if not site.marker.is_file():
            raise SiteError(f"{SITE_PATH_VARIABLE} is {named}, which is not a Site directory; unset it or correct it")
        return site
    begin = (start or Path.cwd()).expanduser().resolve()
    for directory in (begin, *begin.parents):
        if (directory / MARKER).is_file():
            return SiteDirectory(directory)
    if start is not None:
        raise SiteError(f"{begin} is not in a Site directory; create one with: balsam site init {begin}")
    return None


def require_site(start: Path | None = None) -> SiteDirectory:
    """As `find_site`, but it is an error to be in no Site. Raises SiteError."""
    site = find_site(start)
    if site is None:
        raise SiteError(
            "you are not in a Site directory; cd into one, name its path, set BALSAM_SITE_PATH, "
            "or create one with: balsam site init PATH"
        )
    return site


def current_site_id() -> int | None:
    """Number of the Site you stand in or that BALSAM_SITE_PATH names; None when there is none."""
    site = find_site()
    return site.identity().id if site else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file whole and durably, mode 0600; after a crash it holds the old content or the new. OSError."""
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """As `write_json`, for any text."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - one system call, and a failure keeps the old file
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make created, renamed and removed names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
