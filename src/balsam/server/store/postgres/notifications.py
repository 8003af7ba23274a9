"""Wakes between the processes of a service: one NOTIFY per commit, heard by all, also by the sender.

A payload may have 8,000 bytes; what is larger waits in the table `notes` for those who hear of it. That table is not
logged: after a crash of the server it is empty, as are the notifications that would have led to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from balsam.server.store.postgres.connection import PostgresDatabase
from balsam.server.store.protocol import Topic, Wake

CHANNEL = "balsam_wakes"
NOTIFY = f"pg_notify('{CHANNEL}', ?)"
MAX_PAYLOAD_BYTES = 7_900
NOTES_KEPT_FOR_SEC = 60


@dataclass(frozen=True, slots=True)
class Heard:
    """What a payload says: its wakes, or the note that has them."""

    wakes: Sequence[Wake] = ()
    note_id: int | None = None


def send(database: PostgresDatabase, origin: str, wakes: Sequence[Wake]) -> None:
    """Tell all processes, once the transaction is committed."""
    database.execute(f"SELECT {NOTIFY}", (payload(database, origin, wakes),))


def payload(database: PostgresDatabase, origin: str, wakes: Sequence[Wake]) -> str:
    """What NOTIFY takes; a note is left where it would be too long."""
    body = to_json([[wake.topic, wake.key, wake.event, wake.data] for wake in wakes])
    content = b'["%s",%s]' % (origin.encode(), body)
    if len(content) > MAX_PAYLOAD_BYTES:
        sql = "INSERT INTO notes (body) VALUES (?) RETURNING id"
        note_id = next(iter(database.execute(sql, (body.decode(),))))[0]
        content = to_json([origin, note_id])
    return content.decode()


def is_from(origin: str, said: str) -> bool:
    """Whether this process sent it. It hears of each of its commits, and need not read them."""
    return said.startswith(f'["{origin}",')


def read(said: str) -> Heard:
    """What was sent."""
    _, content = from_json(said)
    if isinstance(content, int):
        return Heard(note_id=content)
    return Heard(_wakes(content))


def note(database: PostgresDatabase, note_id: int) -> list[Wake]:
    """The wakes of a note; none when it is gone."""
    found = database.execute("SELECT body FROM notes WHERE id = ?", (note_id,)).fetchone()
    return [] if found is None else _wakes(from_json(found[0]))


def remove_old_notes(database: PostgresDatabase) -> None:
    sql = "DELETE FROM notes WHERE created_at < now() - make_interval(secs => ?::float8)"
    database.execute(sql, (NOTES_KEPT_FOR_SEC,))


def _wakes(rows: Sequence[tuple[Topic, int, str, dict[str, Any]]]) -> list[Wake]:
    return [Wake(*row) for row in rows]
