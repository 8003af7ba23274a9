"""Ending Sessions whose holder is gone, so that their Jobs run again (L1, L6).

Run about once a second by the service's timer. Time in which the service itself could not hear renewals is not held
against anybody (L2). After a jump of the clock what agents claim is counted anew as well (S13).
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from balsam.domain.lease import LeaseKind, SessionPurpose, is_expired
from balsam.domain.states import BATCH_JOB_ENDED, Actor
from balsam.server.errors import Unavailable
from balsam.server.store.protocol import ReadTx, Store, Tx
from balsam.server.store.records import BatchJobRow, SessionRow, SiteRow, micros, moment
from balsam.server.usecases.sessions import end_session
from balsam.server.usecases.sites import is_online

# A longer pause between two runs means that the whole process was stopped: a laptop was closed, a machine was frozen.
MAX_PAUSE = timedelta(seconds=30)
_HOLDERS = {SessionPurpose.RUN: "the launcher", SessionPurpose.PROCESSING: "the agent"}


@dataclass(slots=True)
class SessionExpiry:
    """The sweep, with its note of since when the service has been able to hear renewals."""

    up_since: datetime
    _last_run: datetime | None = field(default=None)
    _leads: bool = True

    def run_once(self, store: Store, now: datetime) -> int:
        """End every Session that is expired; returns how many. One process of a service does it (L6)."""
        led, self._leads = self._leads, store.leads()
        if not self._leads:
            return 0
        if not led:
            # Whether the service could hear renewals before is not known here: count from now.
            self.up_since, self._last_run = now, None
        before, self._last_run = self._last_run, now
        missed = before is not None and not timedelta(0) <= now - before <= MAX_PAUSE
        if missed:
            self.up_since = now
        try:
            if missed or before is None:
                store.write_sync(partial(_count_claims_anew, before=before, now=now))
            expired = store.read_sync(lambda tx: _expired(tx, self.up_since, now))
            ended = [store.write_sync(partial(self._end, session_id=session_id, now=now)) for session_id in expired]
            return sum(ended)
        except Unavailable:
            # Renewals could not be written either; count from when they can be again.
            self._last_run = now - 2 * MAX_PAUSE
            raise

    def _end(self, tx: Tx, session_id: int, now: datetime) -> bool:
        session = tx.get(SessionRow, session_id)
        reason = None if session is None else _reason(tx, session, self.up_since, now)
        if session is None or reason is None:
            return False
        end_session(tx, session, Actor.SWEEP, lost=True, reason=reason, now=now)
        return True


def _expired(tx: ReadTx, up_since: datetime, now: datetime) -> list[int]:
    open_sessions = tx.find(SessionRow, ended_at=None)
    return [session.id for session in open_sessions if _reason(tx, session, up_since, now) is not None]


def _reason(tx: ReadTx, session: SessionRow, up_since: datetime, now: datetime) -> str | None:
    """Why the Session is over, or None."""
    if session.ended_at is not None:
        return None
    renewed_at = _past(moment(session.renewed_at), up_since, now)
    ended_at = _allocation_end(tx, session, up_since, now)
    # An end that the scheduler told of is an end for both kinds; silence is one for heartbeat leases only.
    for kind, why in (
        (LeaseKind.ALLOCATION, "the allocation ended"),
        (session.kind, f"{_HOLDERS[session.purpose]} was not heard of for the time of its lease"),
    ):
        if is_expired(kind, renewed_at=renewed_at, allocation_ended_at=ended_at, service_up_since=up_since, now=now):
            return why
    return None


def _allocation_end(tx: ReadTx, session: SessionRow, up_since: datetime, now: datetime) -> datetime | None:
    if session.batch_job_id is None:
        return None
    batch_job = tx.get(BatchJobRow, session.batch_job_id)
    if batch_job is None:
        return up_since
    if batch_job.state not in BATCH_JOB_ENDED:
        return None
    return _past(moment(batch_job.ended_at or 0), up_since, now)


def _count_claims_anew(tx: Tx, before: datetime | None, now: datetime) -> None:
    """Agents that were heard of, when this was last looked at, have as long as ever to be heard of again. A claim that
    was over then stays so, although a clock that has gone back says that it was made just now."""
    for site in tx.find(SiteRow, deleted_at=None):
        if site.agent_renewed_at is None:
            continue
        is_ahead = site.agent_renewed_at > micros(now)
        if is_online(site, before or now):
            if is_ahead or before is not None:
                tx.put(replace(site, agent_renewed_at=micros(now)))
        elif is_ahead:
            tx.put(replace(site, agent_renewed_at=None))


def _past(noted: datetime, up_since: datetime, now: datetime) -> datetime:
    """What was noted before the clock went back counts from when that was seen (S13)."""
    return noted if noted <= now else up_since
