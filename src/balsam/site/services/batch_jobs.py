"""BatchJobs: from the service's request to the scheduler's end of it, exactly one submission each.

`run_once` is one pass of the agent and may be called as often as one likes; it never sleeps. All that must survive the
agent is in the ledger before it is acted upon, and the scheduler is searched for the name before it is asked (S11).
`finished` is told only after a dead launcher's results were delivered (L3).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from balsam.domain.clock import Clock
from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState
from balsam.platform.scheduler.base import SchedulerUnavailable, SubmitInDoubt
from balsam.site.crash_points import crash_point
from balsam.site.ledger import Entry, Ledger, Phase
from balsam.site.service import MAX_PATCHES, ServiceAway, SiteService
from balsam.site.services.allocations import Allocations
from balsam.site.services.submission import GiveUp, NotNow, SchedulerAway, Submission
from balsam.wire.batch_jobs import BatchJobView

log = logging.getLogger(__name__)


class BatchJobs:
    """The Site's BatchJobs. `deliver` hands in what a dead launcher left and tells whether all of it is. One thread
    calls this object.
    """

    def __init__(
        self,
        ledger: Ledger,
        allocations: Allocations,
        service: SiteService,
        submission: Submission,
        deliver: Callable[[Entry], bool],
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._allocations = allocations
        self._service = service
        self._submission = submission
        self._deliver = deliver
        self._clock = clock
        self._look_again = False
        # Why the scheduler did not answer in this pass, and for which BatchJob it was asked last when it did not.
        self._away = ""
        self._asked_in_vain: int | None = None

    @property
    def has_unfinished_business(self) -> bool:
        """Whether something waits for service or disk: come back soon, not only with the next period."""
        return self._look_again or any(
            entry.unreported or entry.phase in (Phase.ENDED, Phase.DELIVERED) for entry in self._ledger
        )

    def run_once(self, *, listing: bool, polling: bool) -> bool:
        """One pass: take the service's requests, look at the scheduler, deliver, report.

        `listing`: ask the service for BatchJobs; `polling`: ask the scheduler for states. False when the service did
        not answer.
        """
        self._ledger.flush()
        heard = True
        try:
            if listing:
                self._take_requests(self._service.open_batch_jobs())
        except ServiceAway:
            heard = False
        if polling or self._look_again:
            self._look_again = not self._allocations.poll()
        try:
            self._deliver_ended()
            self._report()
        except ServiceAway:
            heard = False
        self._close_reported()
        return heard

    def _take_requests(self, views: list[BatchJobView]) -> None:
        """A scheduler that does not answer is asked once in a pass: each question may last a minute, and others wait.

        What it was asked for in vain goes last in the next pass, as that alone may be what it has no answer to.
        """
        self._away = ""
        for view in sorted(views, key=lambda view: view.id == self._asked_in_vain):
            with self._bearing(view.id):
                self._take_request(view)
        listed = {view.id for view in views}
        unlisted = [entry for entry in self._ledger if entry.batch_job_id not in listed]
        known = self._service.batch_jobs(entry.batch_job_id for entry in unlisted) if unlisted else {}
        for entry in unlisted:
            found = known.get(entry.batch_job_id)
            if found is None or found.state in BATCH_JOB_ENDED:
                with self._bearing(entry.batch_job_id):
                    self._abandon(entry, gone=found is None)

    def _take_request(self, view: BatchJobView) -> None:
        entry = self._ledger.get(view.id)
        if entry is not None and datetime.fromisoformat(entry.created_at) != view.created_at:
            log.error(
                "BatchJob %d of the service is another one than that in %s (was the service restored from a backup?); "
                "move that directory away when its allocation has ended",
                view.id,
                self._ledger.directory(entry),
            )
        elif view.state is BatchJobState.PENDING_DELETION:
            self._end(view, entry)
        elif view.state is BatchJobState.PENDING_SUBMISSION and (entry is None or entry.phase is Phase.INTENT):
            self._submit(view, entry)
        elif entry is None or entry.phase is Phase.INTENT:
            self._believe(view, entry)
        elif not entry.unreported and (entry.state, view.state) == (BatchJobState.QUEUED, BatchJobState.RUNNING):
            self._believe_launcher(entry)
        elif not entry.unreported and entry.phase is not Phase.ENDED and entry.reported_state not in (None, view.state):
            self._ledger.note(entry)

    def _submit(self, view: BatchJobView, entry: Entry | None) -> None:
        crash_point("before-intent")
        entry = entry or self._ledger.open(view)
        entry.filter_tags = dict(view.filter_tags)  # they may be changed until it is submitted
        try:
            if self._away:
                raise NotNow(self._away)
            scheduler_id = self._submission.submit(view, entry, self._active_in(view))
        except GiveUp as refused:
            log.warning("BatchJob %d is not submitted: %s", view.id, refused)
            entry.tell(**self._submission.facts(entry))
            entry.complain(str(refused), self._clock.now())
            entry.over(BatchJobState.SUBMIT_FAILED, Phase.DELIVERED, self._clock.now())
            self._ledger.note(entry)
        except NotNow as trouble:
            if isinstance(trouble, SchedulerAway):
                self._away, self._asked_in_vain = str(trouble), view.id
            log.warning("BatchJob %d is not submitted yet: %s", view.id, trouble)
            if entry.status_info.get("error") != str(trouble):
                entry.complain(str(trouble), self._clock.now())
                self._ledger.note(entry)
        else:
            log.info("BatchJob %d is allocation %s of the scheduler", view.id, scheduler_id)
            self._submitted(entry, scheduler_id)

    def _submitted(self, entry: Entry, scheduler_id: str) -> None:
        crash_point("after-submit-before-record")
        entry.phase, entry.state, entry.scheduler_id = Phase.SUBMITTED, BatchJobState.QUEUED, scheduler_id
        entry.status_info = self._submission.facts(entry) | {"submit_time": self._clock.now().isoformat()}
        self._ledger.note(entry)
        self._look_again = True
        crash_point("after-record-before-report")

    def _active_in(self, view: BatchJobView) -> int:
        others = (entry for entry in self._ledger if entry.batch_job_id != view.id and entry.queue == view.queue)
        return sum(entry.phase in (Phase.INTENT, Phase.SUBMITTED) for entry in others)

    def _believe(self, view: BatchJobView, entry: Entry | None) -> None:
        """The service knows of a submission and we have no record: believe it until the scheduler decides (S12).

        With `entry` ours was cut off, and its launcher was quicker than our search for its name.
        """
        info = dict(view.status_info) if entry is None else self._submission.facts(entry)
        entry = entry or self._ledger.open(view)
        entry.phase, entry.state, entry.status_info = Phase.SUBMITTED, view.state, info
        entry.start_time = view.start_time.isoformat() if view.start_time else None
        entry.scheduler_id = self._find(entry)  # not the service's word: it would be cancelled by it
        self._ledger.save(entry)

    def _believe_launcher(self, entry: Entry) -> None:
        """A Session of its launcher made it running at the service: it is, until the scheduler, asked now, decides.

        `queued` is told again only when the scheduler says so anew: it was requeued meanwhile.
        """
        entry.state = BatchJobState.RUNNING
        self._ledger.save(entry)
        self._look_again = True

    def _end(self, view: BatchJobView, entry: Entry | None) -> None:
        """pending_deletion: what the scheduler has under the name must go; what it never had is finished already."""
        entry = entry or self._ledger.open(view)
        if not entry.deleting:
            entry.deleting = True
            self._ledger.save(entry)
        self._leave_intent(entry)
        if entry.phase is Phase.SUBMITTED:
            self._cancel(entry)
        elif entry.phase is Phase.DELIVERED and not entry.unreported:
            self._ledger.note(entry)

    def _abandon(self, entry: Entry, *, gone: bool) -> None:
        """The service holds it for ended, or does not know it any more (`gone`): its allocation has to go."""
        if entry.phase is Phase.DELIVERED:
            entry.unreported = entry.unreported and not gone
            return
        if not entry.orphan:
            log.warning("BatchJob %d has ended at the service; ending its allocation", entry.batch_job_id)
            entry.orphan = entry.deleting = True
            entry.unreported = False
            self._ledger.save(entry)
        self._leave_intent(entry)
        if entry.phase is Phase.SUBMITTED:
            self._cancel(entry)

    def _leave_intent(self, entry: Entry) -> None:
        """An entry that is to end: was it submitted? A crash may have come between submission and record (S11)."""
        if entry.phase is not Phase.INTENT:
            return
        entry.scheduler_id = self._find(entry)
        if entry.scheduler_id is None:
            entry.over(BatchJobState.FINISHED, Phase.DELIVERED, self._clock.now(), "ended before it was submitted")
            self._ledger.note(entry)
        else:
            entry.phase = Phase.SUBMITTED
            self._ledger.save(entry)

    def _find(self, entry: Entry) -> str | None:
        if self._away:
            raise SchedulerUnavailable(self._away)
        return self._submission.find(entry)

    def _cancel(self, entry: Entry) -> None:
        if self._away:
            raise SchedulerUnavailable(self._away)
        self._look_again |= self._allocations.cancel(entry)

    def _deliver_ended(self) -> None:
        for entry in self._ledger:
            if entry.phase is not Phase.ENDED:
                continue
            crash_point("after-end-before-delivery")
            with self._bearing(entry.batch_job_id):
                if self._deliver(entry):
                    crash_point("after-delivery-before-finished")
                    entry.phase = Phase.DELIVERED
                    self._ledger.note(entry)

    def _report(self) -> None:
        # An ended allocation is told once its results are in: the service ends the Sessions with that word.
        unreported = [entry for entry in self._ledger if entry.unreported and entry.phase is not Phase.ENDED]
        for start in range(0, len(unreported), MAX_PATCHES):
            told = unreported[start : start + MAX_PATCHES]
            reply = self._service.report_batch_jobs({entry.batch_job_id: entry.patch() for entry in told})
            crash_point("after-report-before-mark")
            for entry in told:
                refusal = reply.refused.get(entry.batch_job_id)
                entry.unreported = refusal is not None and self._has_other_word(entry, refusal)
                self._ledger.save(entry)

    def _has_other_word(self, entry: Entry, refusal: str) -> bool:
        """The service did not take a state: whether there is another to tell. The next listing sets right the rest."""
        log.info("BatchJob %d: the service did not take %s: %s", entry.batch_job_id, entry.reported_state, refusal)
        if entry.reported_state is BatchJobState.SUBMIT_FAILED:
            entry.deleting = True  # the user asked for its end meanwhile, which takes `finished` only
            return True
        return False

    def _close_reported(self) -> None:
        for entry in self._ledger:
            if entry.phase is not Phase.DELIVERED or entry.unreported:
                continue
            crash_point("after-finished-before-close")
            try:
                self._submission.forget(entry)
                self._ledger.close(entry)
            except OSError as error:
                log.error("%s can't be tidied up (%s); trying again", self._ledger.directory(entry), error)

    @contextmanager
    def _bearing(self, batch_job_id: int) -> Iterator[None]:
        """One BatchJob's trouble is not the others'; the next pass tries again."""
        try:
            yield
        except SchedulerUnavailable as error:
            if not self._away and not isinstance(error, SubmitInDoubt):
                self._away, self._asked_in_vain = f"the scheduler does not answer: {error}", batch_job_id
            log.warning("BatchJob %d: %s; trying again", batch_job_id, self._away or error)
        except OSError as error:
            log.error("BatchJob %d: %s; trying again", batch_job_id, error)
