"""Bringing a database to the schema of this version: numbered files, forward only, each in one transaction."""

import sqlite3
from importlib.resources import files


class SchemaTooNew(Exception):
    """The database was written by a newer version; the text says what to do."""


def migrate(db: sqlite3.Connection) -> int:
    """Apply what is missing; returns the version that the database has then."""
    scripts = {int(name[:4]): name for name in _names()}
    newest = max(scripts)
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > newest:
        raise SchemaTooNew(f"the database has schema {version}, this version knows {newest}: upgrade the service")
    for number in range(version + 1, newest + 1):
        script = files("balsam.server.store").joinpath("migrations", scripts[number]).read_text()
        db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
    return newest


def _names() -> list[str]:
    folder = files("balsam.server.store").joinpath("migrations")
    return [entry.name for entry in folder.iterdir() if entry.name.endswith(".sql")]
