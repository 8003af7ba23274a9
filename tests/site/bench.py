"""The agent's duty without its process: passes over BatchJobs with a scripted scheduler and a clock that is moved."""

from __future__ import annotations

import json
from dataclasses import dataclass

from balsam.domain.batch_job import status_reason
from balsam.domain.states import BatchJobState
from balsam.site.directory import SiteDirectory
from balsam.site.launcher_config import launcher_config_maker
from balsam.site.ledger import Ledger
from balsam.site.service import ServiceLink
from balsam.site.services.allocations import Allocations
from balsam.site.services.batch_jobs import BatchJobs
from balsam.site.services.breaker import Breaker
from balsam.site.services.budget import Budget
from balsam.site.services.delivery import Delivery
from balsam.site.services.last_words import last_words
from balsam.site.services.script import JobTemplate
from balsam.site.services.submission import Submission
from balsam.site.settings import Settings
from balsam.testing.clock import FakeClock
from balsam.wire.batch_jobs import BatchJobView
from tests.site.fake_service import FakeService
from tests.site.scripted_scheduler import ScriptedScheduler


@dataclass
class Bench:
    """The agent's duty without its process: `go` is one pass, `restart` a new agent's memory."""

    site: SiteDirectory
    service: FakeService
    scheduler: ScriptedScheduler
    clock: FakeClock
    settings: Settings

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.link = ServiceLink.connect(self.site, 1)
        self.ledger = Ledger(self.site.qsubmit, 1)
        breaker = Breaker(self.clock)
        self.allocations = Allocations(
            self.ledger,
            self.scheduler,
            self.clock,
            breaker.lives,
            breaker.ended,
            lambda entry: last_words(self.ledger.output(entry)),
        )
        template = JobTemplate.read(self.site.root / "job-template.sh")
        make = launcher_config_maker(self.site, self.settings, 1)
        submission = Submission(
            self.site,
            self.settings,
            template,
            self.ledger,
            self.scheduler,
            self.link,
            lambda: self.link.url,
            make,
            self.clock,
            breaker,
            Budget(self.settings.budget, self.ledger.all_records),
        )
        deliver = Delivery(self.link, self.ledger.directory).deliver
        self.batch_jobs = BatchJobs(self.ledger, self.allocations, self.link, submission, deliver, self.clock)

    def go(self, *, listing: bool = True, polling: bool = True) -> bool:
        return self.batch_jobs.run_once(listing=listing, polling=polling)

    def state(self, number: int = 1) -> BatchJobState:
        return self.service.batch_jobs[number].state

    def name(self, number: int = 1) -> str:
        """What the scheduler knows the BatchJob by."""
        return self.ledger.allocation_name(self.service.batch_jobs[number])

    def record(self, number: int = 1) -> dict[str, object]:
        return json.loads((self.site.qsubmit / f"balsam-1-{number}" / "batch_job.json").read_text())

    def is_closed(self, number: int = 1) -> bool:
        directory = self.site.qsubmit / f"balsam-1-{number}"
        return (directory / "batch_job.closed.json").exists() and not (directory / "batch_job.json").exists()

    def view(self, number: int = 1) -> BatchJobView:
        return self.service.batch_jobs[number]

    def told(self, number: int = 1) -> str:
        """What people read."""
        return status_reason(self.view(number).status_info)
