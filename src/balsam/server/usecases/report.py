"""Reports of a launcher: what started, what ended and how, in the order of its durable outbox; and of the Site's agent:
what came of hooks.

Records that were counted before are skipped (S3). A record whose Job is not this Session's any more changes nothing and
is answered `fenced`, which makes the launcher kill that run (S7). A late result of an unchanged token is still good,
whether it comes from the launcher or from the Site that found its outbox.
"""

from dataclasses import replace
from datetime import datetime

from balsam.domain.lifecycle import AWAITED_HOOKS, Refused, Request
from balsam.domain.roles import Role
from balsam.domain.states import Actor, JobEvent, JobState
from balsam.server.errors import Invalid
from balsam.server.principal import Principal
from balsam.server.store.protocol import Tx
from balsam.server.store.records import HotJob, Json, ResultRow, SessionRow, micros
from balsam.server.usecases.limits import BadJson, json_text
from balsam.server.usecases.notes import tag_noted
from balsam.server.usecases.scope import checked_session
from balsam.server.usecases.transitions import Transitions
from balsam.server.usecases.verdicts import Verdicts
from balsam.wire.base import ErrorDetail
from balsam.wire.results import MAX_STORED_BYTES, JobResult, RunError
from balsam.wire.sessions import LaunchEvent, Report, ReportRecord, ReportReply

_EVENTS = {
    LaunchEvent.STARTED: JobEvent.STARTED,
    LaunchEvent.RUN_DONE: JobEvent.RUN_DONE,
    LaunchEvent.RUN_ERROR: JobEvent.RUN_ERROR,
    LaunchEvent.RUN_TIMEOUT: JobEvent.RUN_TIMEOUT,
    LaunchEvent.NOTED: JobEvent.NOTED,
    LaunchEvent.KILLED: JobEvent.KILLED,
}

_GOING_ON = frozenset({LaunchEvent.STARTED, LaunchEvent.NOTED})


def report(tx: Tx, principal: Principal, session_id: int, message: Report, now: datetime) -> ReportReply:
    """Apply the records. Also for a Session that has ended: its late results are judged by their tokens."""
    job_ids = list({record.job_id: None for record in message.records})
    ending = list({record.job_id: None for record in message.records if record.event not in _GOING_ON})
    basis = tx.report_basis(session_id, job_ids, ending)
    session = checked_session(tx, principal, basis.session, Role.OWNER)
    _check_order(message)
    work = _Work(tx, session, now)
    work.verdicts.make_changes(message.records)
    tag_noted(tx, session, message.records, now)
    if any(record.changes for record in message.records):
        work.steps.load(job_ids)  # as they are now
    else:
        work.steps.add(basis.jobs.values())
    work.steps.add_children(ending, basis.children)
    for record in message.records:
        work.judge(record)
    to_stop = [job_id for job_id in basis.to_stop if work.holds(job_id)]
    work.finish()
    acked = max(session.report_seq, message.records[-1].seq)
    if acked != session.report_seq:
        tx.put(replace(session, report_seq=acked))
    return ReportReply(acked_seq=acked, fenced=list(work.fenced), cancel=to_stop)


def _check_order(message: Report) -> None:
    last = 0
    for index, record in enumerate(message.records):
        if record.seq <= last:
            why = f"{record.seq} after {last}: the numbers of a Session's records only grow"
            raise Invalid([ErrorDetail(where=f"records[{index}].seq", message=why)])
        last = record.seq


class _Work:
    """The records of one report."""

    def __init__(self, tx: Tx, session: SessionRow, now: datetime) -> None:
        self.tx = tx
        self.session = session
        self.steps = Transitions(tx, now)
        self.verdicts = Verdicts(tx, session, now)
        self.fenced: dict[int, None] = {}
        self.unlocked: dict[int, HotJob] = {}
        self.results: list[ResultRow] = []
        self._requests: dict[tuple[object, ...], Request] = {}

    def judge(self, record: ReportRecord) -> None:
        job = self.steps.get(record.job_id)
        current = job is not None and job.site_id == self.session.site_id and job.token == record.token
        if job is None or not current:
            # A run that was given up is no news: there is nothing left to kill.
            if record.event is not LaunchEvent.RELEASED:
                self.fenced[record.job_id] = None
            return
        if record.event is not LaunchEvent.RELEASED:
            # Its newer run, which is not to be killed, was begun only when the older one was gone (S6).
            self.fenced.pop(record.job_id, None)
        if record.seq > self.session.report_seq:
            if record.event is LaunchEvent.RELEASED:
                self._release(job, record)
            elif record.event is LaunchEvent.HOOK_DONE:
                self._conclude(job, record)
            else:
                self._take(job, record)

    def _conclude(self, job: HotJob, record: ReportRecord) -> None:
        """A hook came to its end; its verdict decides, and its Job is not held any longer."""
        facts = self.steps.facts(job.id)
        if facts.state not in AWAITED_HOOKS:
            self._release(job, record)  # cancelled in the middle of the hook
            return
        try:
            request = self.verdicts.request(facts, record)
            self.steps.take(job.id, request, reported_at=micros(record.at), data=_data(record))
        except Refused:
            self.fenced[job.id] = None

    def _take(self, job: HotJob, record: ReportRecord) -> None:
        request = self._request(record)
        reported_at = micros(record.at)
        try:
            update = self.steps.take(job.id, request, reported_at=reported_at, data=_data(record))
        except Refused:
            self.fenced[job.id] = None
            return
        if update is None:
            return
        if record.event is LaunchEvent.NOTED:
            return
        if record.event is LaunchEvent.STARTED:
            update.started_at, update.ended_at, update.return_code = reported_at, None, None
            update.batch_job_id = self.session.batch_job_id
        else:
            update.ended_at, update.return_code = reported_at, record.return_code
            if record.result is not None:
                self.results.append(ResultRow(job.id, update.after.attempt, _stored(record.result)))

    def _request(self, record: ReportRecord) -> Request:
        """One object for records that say the same."""
        same = (record.event, record.token, record.message, record.failure, record.restarts)
        request = self._requests.get(same)
        if request is None:
            request = self._requests[same] = Request(
                _EVENTS[record.event],
                Actor.LAUNCHER,
                token=record.token,
                session_id=self.session.id,
                message=record.message,
                failure=record.failure,
                restarts=record.restarts,
            )
        return request

    def _release(self, job: HotJob, record: ReportRecord) -> None:
        """Handed back: the Session holds the Job no longer."""
        facts = self.steps.facts(job.id)
        if facts.session_id != self.session.id or job.id in self.unlocked:
            return
        if facts.state is JobState.RUNNING:
            # Started after all, and given up: the attempt is over.
            request = Request(JobEvent.LEASE_ENDED, Actor.LAUNCHER, message=record.message or "handed back")
            self.steps.take(job.id, request, reported_at=micros(record.at), data=_data(record))
        else:
            self.unlocked[job.id] = job

    def holds(self, job_id: int) -> bool:
        """Whether the Session, which held the Job before, does so after this."""
        if job_id in self.unlocked:
            return False
        return self.steps.get(job_id) is None or self.steps.facts(job_id).session_id == self.session.id

    def finish(self) -> None:
        self.tx.unlock(self.session.id, list(self.unlocked.values()))
        self.steps.released(self.unlocked.values())
        self.steps.flush()
        for row in self.results:
            self.tx.put(row)


def _stored(result: JobResult) -> str:
    """A result as it is kept. A report is never refused for it: its outbox could not go on."""
    try:
        return json_text(result.model_dump(exclude_unset=True), "the result", MAX_STORED_BYTES)
    except BadJson as error:
        refused = RunError(type="ResultRefused", message=f"{error}; write it to a file in the workdir")
        return JobResult(error=refused).model_dump_json(exclude_unset=True)


def _data(record: ReportRecord) -> Json:
    """What the EventLog keeps of a record. A report is never refused for it: its outbox could not go on."""
    data: Json = {} if record.return_code is None else {"return_code": record.return_code}
    if not record.data:
        return data
    try:
        json_text(record.data, "data")
    except BadJson as error:
        return {**data, "dropped": str(error)}
    return {**data, **record.data}
