"""When the server last started, by its own numbers: whether a transaction can have survived that.

Used by groups.py when a COMMIT was not answered. A server that crashed gives the numbers of transactions that were not
in its log yet to others: to ask for the fate of such a number is to ask for somebody else's.
"""

from dataclasses import dataclass

import psycopg

from balsam.server.store.postgres.connection import PostgresDatabase

# The checkpoint with which a server ends its recovery, or was shut down, begins where it stands. A later one does not,
# as it logs who is at work; with wal_level = minimal it logs nothing, and could be taken for a start.
_LAST = """SELECT checkpoint_lsn::text, next_xid FROM pg_control_checkpoint()
    WHERE redo_lsn = checkpoint_lsn AND current_setting('wal_level') <> 'minimal'"""


@dataclass(frozen=True, slots=True)
class Start:
    """`place` tells it from others; `next_number` is the first transaction's after it."""

    place: str
    next_number: int


def last_start(database: PostgresDatabase) -> Start | None:
    """None when the server has had a checkpoint since, or does not let us know."""
    try:
        row = database.execute(_LAST).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    if row is None:
        return None
    epoch, _, number = row[1].partition(":")
    return Start(row[0], int(epoch) << 32 | int(number))


def is_forgotten(number: str, before: Start | None, now: Start | None) -> bool:
    """Whether the server started anew since `before` and knows nothing of this transaction: its number is given out
    again."""
    return now is not None and now != before and int(number) >= now.next_number
