"""One submission: the Site's limits, the intent, the launcher's files, the batch script, the scheduler.

The order is the point (S11): the intent is on disk before anything is asked, the scheduler is searched for the name
before it is asked again, and the launcher's files are complete before the script that reads them can run.
"""

import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balsam.client.credentials import read_mapping, write_secret_file
from balsam.client.errors import CredentialsError
from balsam.domain.clock import Clock
from balsam.platform.scheduler.base import (
    QueueLimits,
    Scheduler,
    SchedulerUnavailable,
    SubmitInDoubt,
    SubmitRefused,
    SubmitRequest,
)
from balsam.site.crash_points import crash_point
from balsam.site.directory import SiteDirectory, SiteError
from balsam.site.ledger import Entry, Ledger, Phase
from balsam.site.service import ServiceAway, SiteService, write_credentials
from balsam.site.services.breaker import Breaker
from balsam.site.services.budget import Budget
from balsam.site.services.limits import queue_refusal, refusal
from balsam.site.services.script import JobTemplate, ScriptError, script_values
from balsam.site.settings import Settings
from balsam.wire.batch_jobs import BatchJobView

log = logging.getLogger(__name__)

SCRIPT = "script.sh"
CREDENTIALS = "credentials.json"
JOB_CREDENTIALS = "job-credentials.json"
_CREDENTIAL_FILES = (CREDENTIALS, JOB_CREDENTIALS)
LAUNCHER_CONFIG = "launcher.json"
# For so long the scheduler's limits are not asked for again.
LIMITS_SEC = 600.0


class GiveUp(Exception):
    """This BatchJob will never be submitted; the text says why."""


class NotNow(Exception):
    """It could not be submitted this time; the text says why."""


class SchedulerAway(NotNow):
    """The scheduler does not answer; it need not be asked for others either, for now."""


class Submission:
    """Submits BatchJobs of one Site. `launcher_config` makes the content of launcher.json."""

    def __init__(
        self,
        site: SiteDirectory,
        settings: Settings,
        template: JobTemplate,
        ledger: Ledger,
        scheduler: Scheduler,
        service: SiteService,
        service_url: Callable[[], str],
        launcher_config: Callable[[BatchJobView, Path], str],
        clock: Clock,
        breaker: Breaker,
        budget: Budget,
    ) -> None:
        self._site = site
        self._settings = settings
        self._template = template
        self._ledger = ledger
        self._scheduler = scheduler
        self._service = service
        self._service_url = service_url
        self._launcher_config = launcher_config
        self._clock = clock
        self._breaker = breaker
        self._budget = budget
        self._limits: dict[str, QueueLimits] = {}
        self._limits_until = 0.0
        # An agent before this one may have died with a submission under way: until when it may still be taken (S11).
        until = clock.monotonic() + scheduler.doubt_sec
        self._doubts = {entry.batch_job_id: until for entry in ledger if entry.phase is Phase.INTENT}

    def submit(self, job: BatchJobView, entry: Entry, active_in_queue: int) -> str:
        """The scheduler's id of the one submission of this BatchJob, made now or earlier.

        Raises GiveUp, NotNow.
        """
        try:
            self._ledger.save_durably(entry)  # S11: the intent first
            crash_point("after-intent")
            known = self.find(entry) if entry.batch_job_id in self._doubts else None
            if known is not None:
                log.info("BatchJob %d was submitted before as %s; taking it on", job.id, known)
                return known
            return self._submit_new(job, entry, active_in_queue)
        except SubmitInDoubt as error:
            raise NotNow(str(error)) from error
        except SchedulerUnavailable as error:
            raise SchedulerAway(f"the scheduler does not answer: {error}") from error
        except ServiceAway as error:
            raise NotNow(f"no token for its launcher: {error}") from error
        except (CredentialsError, SiteError) as error:
            raise NotNow(str(error)) from error
        except OSError as error:
            raise NotNow(f"{error.filename or self._site.qsubmit}: {error.strerror or error}") from error

    def find(self, entry: Entry) -> str | None:
        """The scheduler's id of what was submitted under the entry's name; None when surely nothing was (S11).

        Raises SchedulerUnavailable, and SubmitInDoubt while a submission that was cut off may still be taken.
        """
        known = self._scheduler.find(entry.allocation_name)
        until = self._doubts.get(entry.batch_job_id)
        if known is None and until is not None and self._clock.monotonic() < until:
            raise SubmitInDoubt(
                "the last submission was cut off and the scheduler may still take it; it is looked for under the name "
                f"{entry.allocation_name}, and asked for again when {self._scheduler.doubt_sec:g} s have passed"
            )
        self._doubts.pop(entry.batch_job_id, None)
        return known

    def facts(self, entry: Entry) -> dict[str, Any]:
        """What people may want to know of a submission."""
        script = self._ledger.directory(entry) / SCRIPT
        return {"submit_script": str(script)} if script.exists() else {}

    def forget(self, entry: Entry) -> None:
        """The BatchJob ended: the tokens of its launcher and its Jobs are dead, remove them. Raises OSError."""
        for name in _CREDENTIAL_FILES:
            (self._ledger.directory(entry) / name).unlink(missing_ok=True)

    def move_service(self, url: str) -> None:
        """The local service has another address: tell the launchers and Jobs of open BatchJobs in their credentials."""
        for path in (self._ledger.directory(entry) / name for entry in self._ledger for name in _CREDENTIAL_FILES):
            try:
                known = read_mapping(path)
                if known and known.get("url") != url:
                    write_credentials(path, url, str(known.get("token", "")))
            except CredentialsError as error:
                log.error("%s", error)

    def _submit_new(self, job: BatchJobView, entry: Entry, active_in_queue: int) -> str:
        reason = refusal(job, self._settings, active_in_queue) or queue_refusal(job, self._queues())
        reason = reason or self._budget.refusal(job.num_nodes, job.wall_time_min, job.filter_tags, besides=job.id)
        hold = None if reason else self._breaker.hold(entry)
        if reason or hold:
            known = self._scheduler.find(entry.allocation_name)  # its record may have been lost
            if known is not None:
                return known
            raise GiveUp(reason) if reason else NotNow(str(hold))
        directory = self._ledger.directory(entry)
        script = self._write_script(job, directory)
        write_secret_file(directory / LAUNCHER_CONFIG, self._launcher_config(job, directory))
        token = self._service.launcher_token(job.id)
        write_credentials(directory / CREDENTIALS, self._service_url(), token.token)
        # Where only approved Apps run, code of Jobs has no business to register others.
        token = self._service.job_token(job.id, may_sync_apps=self._settings.apps.accept == "owner")
        write_credentials(directory / JOB_CREDENTIALS, self._service_url(), token.token)
        crash_point("after-launcher-files")
        request = SubmitRequest(
            num_nodes=job.num_nodes,
            wall_time_min=job.wall_time_min,
            queue=job.queue,
            project=job.project,
            optional_params={**self._settings.scheduler.optional_batch_job_params, **job.optional_params},
        )
        try:
            return self._scheduler.submit(script, entry.allocation_name, request)
        except SubmitRefused as error:
            self._breaker.failed(entry, f"was refused by the scheduler ({error})")
            raise GiveUp(f"the scheduler refused it: {error}") from error
        except SubmitInDoubt:
            self._doubts[entry.batch_job_id] = self._clock.monotonic() + self._scheduler.doubt_sec
            raise

    def _queues(self) -> dict[str, QueueLimits]:
        """The limits that the scheduler tells; the last ones while it does not answer."""
        now = self._clock.monotonic()
        if now >= self._limits_until:
            try:
                self._limits = self._scheduler.queues()
                self._limits_until = now + LIMITS_SEC
            except SchedulerUnavailable as error:
                log.warning("the limits of the scheduler's queues are not known: %s", error)
        return self._limits

    def _write_script(self, job: BatchJobView, directory: Path) -> Path:
        command = shlex.join([sys.executable, "-m", "balsam.launcher", "--config", str(directory / LAUNCHER_CONFIG)])
        default_params = self._settings.scheduler.optional_batch_job_params
        try:
            text = self._template.render(script_values(job, self._site.root, command, default_params))
        except ScriptError as error:
            raise GiveUp(str(error)) from error
        path = directory / SCRIPT
        write_secret_file(path, text)
        path.chmod(0o700)
        return path
