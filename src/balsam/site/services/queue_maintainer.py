"""The queue maintainer: keeps so many allocations waiting or running, whether anything waits for them or not.

One is asked for per period, so that a Site that comes back after hours does not flood its queue. What it did, or why it
did nothing, is in `said`.
"""

import logging
from collections.abc import Collection
from typing import Any

from balsam.domain.states import BATCH_JOB_ENDED, JobMode
from balsam.site.services.asked import AskedBatchJobs, RequestRefused, ScalingService
from balsam.site.services.elastic_queue import HeldBack, Request
from balsam.site.settings import QueueMaintainerSettings
from balsam.wire.batch_jobs import BatchJobCreate

log = logging.getLogger(__name__)


class QueueMaintainer:
    """The service `queue_maintainer` of settings.yml."""

    name = "queue_maintainer"

    def __init__(
        self,
        site_id: int,
        filter_tags: dict[str, str],
        wanted: QueueMaintainerSettings,
        asked: AskedBatchJobs,
        service: ScalingService,
        held_back: HeldBack,
    ) -> None:
        self._site_id = site_id
        self._tags = filter_tags
        self._wanted = wanted
        self._asked = asked
        self._service = service
        self._held_back = held_back
        self.period_sec = wanted.submit_period
        self.said = ""

    def run_once(self) -> bool:
        """One period: whether anything was asked for. Raises ServiceAway, OSError."""
        self._asked.finish()
        known = self._service.batch_jobs(list(self._asked.own))
        alive = {number for number, view in known.items() if view.state not in BATCH_JOB_ENDED}
        self._asked.forget_all_but(alive)
        asked, reason = self._step(alive)
        if reason != self.said:
            log.info("queue maintainer: %s", reason)
            self.said = reason
        return asked

    def _step(self, alive: Collection[int]) -> tuple[bool, str]:
        wanted = self._wanted
        if len(alive) >= wanted.num_queued_jobs:
            return False, f"asks for nothing: {len(alive)} of its allocations wait or run (num_queued_jobs)"
        request = Request(
            wanted.num_nodes, wanted.wall_time_min, wanted.submit_queue, wanted.submit_project, self._tags
        )
        if held_back := self._held_back(request):
            return False, f"paused: {held_back}"
        reason = f"asks for number {len(alive) + 1} of {wanted.num_queued_jobs}"
        try:
            self._asked.ask(self._body(), reason)
        except RequestRefused as refused:
            return False, f"asks for nothing: the service refuses it: {refused}"
        return True, reason

    def _body(self) -> BatchJobCreate:
        wanted = self._wanted
        given: dict[str, Any] = {"num_nodes": wanted.num_nodes, "wall_time_min": wanted.wall_time_min}
        return BatchJobCreate(
            site_id=self._site_id,
            job_mode=JobMode(wanted.job_mode),
            queue=wanted.submit_queue,
            project=wanted.submit_project,
            filter_tags=self._tags,
            **given,
        )
