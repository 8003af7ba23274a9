"""Where a PostgreSQL database is: `postgresql://user@host:port/name`, read once, and never shown with its password.

Made from the settings of the service and of the commands that work on a database; used by store.postgres.
"""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

_HOST = r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.%]+\])(?::\d{1,5})?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*")
_USER = re.compile(r"[^@:/?#\s]*(?::[^@:/?#\s]*)?")
SCHEMES = ("postgresql", "postgres")


class BadAddress(ValueError):
    """The text is no address of a database. It is not repeated, because it may hold a password."""


class DatabaseAddress:
    """An address in the form that psycopg takes.

    >>> DatabaseAddress("postgresql://ada:secret@db.example/balsam")
    postgresql://ada@db.example/balsam

    Raises BadAddress.
    """

    def __init__(self, text: str) -> None:
        scheme, colon, rest = text.partition("://")
        if not colon or scheme not in SCHEMES:
            raise BadAddress("a database is given as postgresql://USER@HOST:PORT/NAME")
        try:
            parts = urlsplit(text)
        except ValueError:
            raise BadAddress(_HINT) from None
        user, _, hosts = parts.netloc.rpartition("@")
        if not _HOSTS.fullmatch(hosts) or not _USER.fullmatch(user) or re.search(r"\s", rest):
            raise BadAddress(_HINT)
        self.text = text
        name, _, password = user.partition(":")
        asked = parse_qsl(parts.query, keep_blank_values=True)
        self._passwords = [unquote(password), password] if password else []
        self._passwords += [value for key, value in asked if "password" in key]
        shown = "&".join(f"{key}={value}" for key, value in asked if key in ("host", "port"))
        self._shown = f"{scheme}://{name}{'@' if name else ''}{hosts}{parts.path}{'?' if shown else ''}{shown}"

    @property
    def has_password(self) -> bool:
        return bool(self._passwords)

    def without_password(self, text: str) -> str:
        """The text with every occurrence of the password taken out."""
        for password in self._passwords:
            text = text.replace(password, "***") if password else text
        return text

    def __repr__(self) -> str:
        return self._shown


_HINT = (
    "the address of the database can't be read; it has the form postgresql://USER:PASSWORD@HOST:PORT/NAME, and "
    "characters such as @ : / in a password are written %40 %3A %2F"
)
