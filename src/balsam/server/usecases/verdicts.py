"""What hooks said of their Jobs: the state that each asked for, and the fields that it set.

Used by report.py for the records of a Session for processing. A report is never refused for what a hook said, or the
agent's outbox could not go on: a state or a value that can't be is the end of its Job, with the reason.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from balsam.domain.failure import Failure
from balsam.domain.lifecycle import AWAITED_HOOKS, JobFacts, Request
from balsam.domain.states import Actor, JobEvent
from balsam.domain.verdict import BadVerdict, verdict_event
from balsam.server.store.protocol import Tx
from balsam.server.store.records import AppRow, JobRow, SessionRow, micros
from balsam.server.usecases.change import fields_of, problems_of
from balsam.server.usecases.wishes import OF_STATE
from balsam.wire.jobs import JobPatch
from balsam.wire.sessions import LaunchEvent, ReportRecord

_SHOWN_PROBLEMS = 5


class Verdicts:
    """The verdicts of one report."""

    def __init__(self, tx: Tx, session: SessionRow, now: datetime) -> None:
        self._tx = tx
        self._session = session
        self._at = micros(now)
        self._refused: dict[int, str] = {}

    def make_changes(self, records: Iterable[ReportRecord]) -> None:
        """Set the fields that hooks set. To be called before the Jobs are read: `max_attempts` decides with them."""
        wanted: dict[int, ReportRecord] = {}
        for record in records:
            if record.event is LaunchEvent.HOOK_DONE and record.changes and record.seq > self._session.report_seq:
                wanted.setdefault(record.job_id, record)
        if not wanted:
            return
        jobs = [job for job in self._tx.jobs(wanted) if self._holds(job, wanted[job.id])]
        apps = {app.id: app for app in self._tx.find(AppRow, id=tuple({job.app_id for job in jobs}))}
        changes: dict[int, dict[str, Any]] = {}
        for job in jobs:
            given, problems = _checked(job, apps[job.app_id], wanted[job.id].changes)
            if problems:
                hook = AWAITED_HOOKS[job.state]
                self._refused[job.id] = f"{hook} set what a Job can't have: {'; '.join(problems[:_SHOWN_PROBLEMS])}"
            else:
                changes[job.id] = given
        self._tx.change_jobs(changes, self._at)

    def request(self, facts: JobFacts, record: ReportRecord) -> Request:
        """What to ask of `decide()` for a verdict on a Job that waits for a hook."""
        event, message, failure = JobEvent.GIVE_UP, record.message, record.failure
        try:
            if record.job_id in self._refused:
                raise BadVerdict(self._refused[record.job_id])
            event = verdict_event(facts, record.verdict)
        except BadVerdict as error:
            message, failure = "; ".join(filter(None, (message, str(error)))), Failure.HOOK
        return Request(event, Actor.SITE, record.token, self._session.id, message, failure=failure)

    def _holds(self, job: JobRow, record: ReportRecord) -> bool:
        return job.session_id == self._session.id and job.token == record.token and job.state in AWAITED_HOOKS


def _checked(job: JobRow, app: AppRow, changes: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields to set, and what is wrong with them. The state is the verdict's own, not one of them."""
    if not OF_STATE.isdisjoint(changes):
        return {}, [f"{name}: it is no field to set" for name in sorted(OF_STATE & changes.keys())]
    try:
        given = fields_of(JobPatch.model_validate(changes), job)
    except ValidationError as error:
        return {}, [f"{'.'.join(map(str, it['loc']))}: {it['msg']}" for it in error.errors(include_url=False)]
    return given, [f"{where}: {why}" for where, why in problems_of(job, app, given)]
