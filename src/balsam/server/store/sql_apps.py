"""Transactions over SQL: what every submission asks of its Apps and their Sites. Mixed into SqlReadTx.

It is one statement, because on PostgreSQL the way to the server and back costs more than the rows.
"""

# ruff: noqa: S608 - the texts are put together from names of our own; every value is a parameter

from collections.abc import Sequence
from typing import Any

from balsam.server.store.codec import load, table
from balsam.server.store.records import AppAtSite, AppRow
from balsam.server.store.sql_database import Database, listed

_ANY = "IN (SELECT value FROM json_each(?))"
_APP = table(AppRow)
_AT_SITES = (
    f"SELECT {', '.join(f'a.{name}' for name in _APP.columns)}, s.name, s.transfer_locations, u.max_jobs"
    " FROM apps a CROSS JOIN sites s ON s.id = a.site_id CROSS JOIN users u ON u.id = a.owner_id"
)


class AppsReadTx:
    """The part of ReadTx and Tx about Apps."""

    _db: Database

    def _row_lock(self, kind: type[Any]) -> str:
        """Appended to what reads rows of a small table."""
        return ""

    def apps_at_sites(self, app_ids: Sequence[int]) -> list[AppAtSite]:
        lock = self._row_lock(AppRow)
        sql = f"{_AT_SITES} WHERE a.id {_ANY} ORDER BY a.id{lock and lock + ' OF a'}"
        rows = self._db.execute(sql, (listed(app_ids),))
        return [
            AppAtSite(_APP.decode(app), site_name, load(locations), max_jobs)
            for *app, site_name, locations, max_jobs in rows
        ]
