"""Locations: from what a Site's settings say to the back end that carries files there.

A location is an alias and a URL, whose scheme chooses the back end. `client` is not among them: it is the service.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from balsam.transfer.base import TransferBackend
from balsam.transfer.globus import Collections, GlobusBackend, parse_location
from balsam.transfer.local import LocalBackend
from balsam.transfer.rclone import RcloneBackend
from balsam.transfer.rclone_remote import REMOTES
from balsam.transfer.rsync import RsyncBackend, SshAddress, url_options

GLOBUS = "globus"


@dataclass(frozen=True, slots=True)
class GlobusHere:
    """The Site's own end of Globus transfers: its collection, its directory on that, and the file with its tokens."""

    collection: str = ""
    site_path: str = ""
    tokens: Path = Path("globus.json")


@dataclass(frozen=True, slots=True)
class Place:
    """What a back end is made for: its URL, the directory of the workdirs, and a directory of its own beside it."""

    url: str
    data: Path
    spool: Path
    globus: "GlobusHere"


def _file(place: Place) -> TransferBackend:
    parts = urlsplit(place.url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError(f"{place.url!r} must have the form file:///absolute/path")
    link = url_options(place.url, ("link",)).get("link")
    if link not in (None, "hard"):
        raise ValueError(f"{place.url!r} takes one option, ?link=hard")
    return LocalBackend(place.data, Path(unquote(parts.path)), link=link is not None)


def _rsync(place: Place) -> TransferBackend:
    return RsyncBackend(place.data, place.spool, SshAddress.parse(place.url))


def _rclone(place: Place) -> TransferBackend:
    return RcloneBackend(place.data, place.spool, REMOTES[urlsplit(place.url).scheme](place.url))


def _globus(place: Place) -> TransferBackend:
    theirs, base = parse_location(place.url)
    here = place.globus
    site_path = f"{here.site_path.rstrip('/')}/{place.spool.parent.name}/{place.spool.name}"
    return GlobusBackend(place.data, place.spool, Collections(here.collection, site_path, theirs, base, here.tokens))


SCHEMES: Mapping[str, Callable[[Place], TransferBackend]] = {
    "file": _file,
    "rsync": _rsync,
    **dict.fromkeys(REMOTES, _rclone),
    GLOBUS: _globus,
}


def open_location(url: str, data: Path, spool: Path, globus: GlobusHere | None = None) -> TransferBackend:
    """The back end of a location; `data` is the directory of the workdirs, `spool` one of its own on the same file
    system. `globus` is what `globus:` locations need. Raises ValueError.
    """
    make = SCHEMES.get(urlsplit(url).scheme)
    if make is None:
        known = ", ".join(SCHEMES)
        raise ValueError(f"{url!r} must be a URL whose scheme is one of: {known}; for example file:///scratch/me")
    return make(Place(url, data, spool, globus or GlobusHere()))


def location_problem(url: str) -> str:
    """What is wrong with the URL of a location; empty when nothing is.

    >>> location_problem("file:///scratch/me?link=hard")
    ''
    """
    nowhere = Path("/nonexistent")
    try:
        open_location(url, nowhere, nowhere)
    except ValueError as error:
        return str(error)
    return ""
