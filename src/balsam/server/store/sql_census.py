"""Counting over the whole service, for its metrics: what `ReadTx.census` answers, by kept numbers and by index."""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from balsam.domain.states import DONE_STATES
from balsam.server.store.codec import STATE_NUMBERS, STATES
from balsam.server.store.selections import Backlog, Census
from balsam.server.store.sql_database import Database

_OPEN = ", ".join(str(number) for state, number in STATE_NUMBERS.items() if state not in DONE_STATES)
_COUNTS = "SELECT state, CAST(sum(n) AS BIGINT) FROM state_counts WHERE state > 0 GROUP BY state HAVING sum(n) > 0"
# The lowest id of each Site and state stands first in its part of the index, however many there are. By an order that
# only this index has: for the lowest id alone PostgreSQL may walk all Jobs by id until it meets one of that state.
_OLDEST = (
    "SELECT first.state, min(jobs.created_at) FROM ("
    " SELECT c.state AS state, (SELECT j.id FROM jobs j INDEXED BY jobs_by_state"
    " WHERE j.site_id = c.site_id AND j.state BETWEEN c.state AND c.state ORDER BY j.state, j.id LIMIT 1) AS job_id"
    f" FROM (SELECT site_id, state FROM state_counts WHERE state IN ({_OPEN})"
    " GROUP BY site_id, state HAVING sum(n) > 0) AS c"
    ") AS first CROSS JOIN jobs ON jobs.id = first.job_id GROUP BY first.state"
)
_BACKLOG = (
    "SELECT t.direction, t.state, count(*), min(t.created_at) FROM sites s"
    " CROSS JOIN transfer_items t INDEXED BY transfer_items_due ON t.site_id = s.id"
    " WHERE t.state IN ('pending', 'active', 'inactive') GROUP BY t.direction, t.state"
)


def census(db: Database) -> Census:
    """See the protocol."""
    jobs = {STATES[state]: n for state, n in db.execute(_COUNTS, ())}
    oldest = {STATES[state]: at for state, at in db.execute(_OLDEST, ())}
    backlog = {(direction, state): Backlog(n, at) for direction, state, n, at in db.execute(_BACKLOG, ())}
    return Census(jobs, oldest, backlog)
