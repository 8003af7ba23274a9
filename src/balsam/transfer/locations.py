"""Locations: from what a Site's settings say to the back end that carries files there.

A location is an alias and a URL, whose scheme chooses the back end. `client` is not among them: it is the service.
"""

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from balsam.transfer.base import TransferBackend
from balsam.transfer.local import LocalBackend

SCHEMES = ("file",)
# Schemes of Balsam 0.7, and others that one would try.
_LATER = frozenset({"globus", "rsync", "ssh", "scp", "sftp", "s3", "http", "https", "webdav", "rclone"})
_LINKS = {"": False, "hard": True}


def location_problem(url: str) -> str:
    """What is wrong with the URL of a location; empty when nothing is.

    >>> location_problem("file:///scratch/me?link=hard")
    ''
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        if parts.scheme in _LATER:
            return f"{parts.scheme}: locations come in a later version; use client: or a file: location"
        return f"{url!r} must be a URL whose scheme is one of: {', '.join(SCHEMES)}; for example file:///scratch/me"
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        return f"{url!r} must have the form file:///absolute/path"
    options = parse_qs(parts.query, keep_blank_values=True)
    if set(options) - {"link"} or options.get("link", [""])[0] not in _LINKS or parts.fragment:
        return f"{url!r} takes one option, ?link=hard"
    return ""


def open_location(url: str, data: Path) -> TransferBackend:
    """The back end of a location; `data` is the directory of the workdirs. Raises ValueError."""
    if why := location_problem(url):
        raise ValueError(why)
    parts = urlsplit(url)
    link = _LINKS[parse_qs(parts.query).get("link", [""])[0]]
    return LocalBackend(data, Path(unquote(parts.path)), link=link)
