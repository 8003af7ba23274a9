"""Numbers over the whole service for `/metrics`: Jobs, queue ages, leases, Sites, transfers; for administrators."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import SessionRow, SiteRow, micros
from balsam.server.store.selections import Census
from balsam.server.usecases.sites import is_online


@dataclass(frozen=True, slots=True)
class Figures:
    """`silence_sec`: how long the open Session that was renewed least lately has been silent, by purpose."""

    at: int
    census: Census
    sessions: Mapping[str, int]
    silence_sec: Mapping[str, float]
    sites: Mapping[bool, int]  # by whether the agent is heard of

    def age_sec(self, since: int) -> float:
        """From a time in microseconds to when these were taken; never negative, whatever a clock did."""
        return max(0.0, (self.at - since) / 1e6)


def figures(tx: ReadTx, now: datetime) -> Figures:
    """What is true now, of all owners."""
    sessions = tx.find(SessionRow, ended_at=None)
    at = micros(now)
    silence: dict[str, float] = {}
    for row in sessions:
        purpose = row.purpose.value
        silence[purpose] = max(silence.get(purpose, 0.0), (at - row.renewed_at) / 1e6)
    sites = Counter(is_online(site, now) for site in tx.find(SiteRow, deleted_at=None))
    return Figures(at, tx.census(), Counter(row.purpose.value for row in sessions), silence, sites)
