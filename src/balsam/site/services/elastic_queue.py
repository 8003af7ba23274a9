"""The elastic queue: asks for allocations for Jobs that no allocation will take, and ends those that queue in vain.

Once per period it asks the service for the backlog, lets `domain.elastic` decide, and carries the decision out through
the service's own BatchJobs. What it did, or why it did nothing, is in `said`.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from balsam.domain.clock import Clock
from balsam.domain.elastic import (
    MARGIN_MIN,
    Ask,
    Decision,
    Demand,
    ElasticLimits,
    OwnAllocation,
    Supply,
    Window,
    decide,
)
from balsam.domain.states import BatchJobState, JobMode
from balsam.platform.scheduler.base import BackfillWindow, SchedulerUnavailable
from balsam.site.services.asked import AskedBatchJobs, RequestRefused, ScalingService
from balsam.site.settings import ElasticQueueSettings, QueueSettings, Settings
from balsam.wire.backlog import Backlog, BacklogQuery, BacklogSupply, WaitingJobs
from balsam.wire.batch_jobs import BatchJobCreate

log = logging.getLogger(__name__)

_WAITING = (BatchJobState.PENDING_SUBMISSION, BatchJobState.QUEUED)


@dataclass(frozen=True, slots=True)
class Request:
    """What asks for an allocation: for the checks that come before."""

    num_nodes: int
    wall_time_min: int
    queue: str
    project: str
    filter_tags: Mapping[str, str]


# Why nothing is to be asked for now, empty when it may.
HeldBack = Callable[[Request], str]


class ElasticQueue:
    """The service `elastic_queue` of settings.yml.

    `open_here`: ids of BatchJobs whose allocations have not ended, whatever the service says of them.
    """

    name = "elastic_queue"

    def __init__(
        self,
        site_id: int,
        settings: Settings,
        wanted: ElasticQueueSettings,
        asked: AskedBatchJobs,
        service: ScalingService,
        backfill_windows: Callable[[], Mapping[str, list[BackfillWindow]]],
        open_here: Callable[[], Collection[int]],
        held_back: HeldBack,
        clock: Clock,
    ) -> None:
        self._site_id = site_id
        self._wanted = wanted
        self._asked = asked
        self._service = service
        self._backfill_windows = backfill_windows
        self._open_here = open_here
        self._held_back = held_back
        self._clock = clock
        self._tags = dict(settings.filter_tags)
        self._limits = limits_of(wanted, settings.scheduler.allowed_queues[wanted.submit_queue])
        gpus = settings.node.gpus
        self._gpus_per_node = len(gpus) if isinstance(gpus, list) else gpus
        self._waits_since: dict[int, float] = {}
        self.period_sec = wanted.service_period
        self.said = ""

    def run_once(self) -> bool:
        """One period: whether anything was asked for or ended. Raises ServiceAway, OSError."""
        self._asked.finish()
        backlog = self._service.backlog(self._query())
        own = self._own(backlog.supplies)
        decision = self._decide(backlog, own)
        for number in decision.cancel:
            log.info("BatchJob %d is asked to end: it queued for longer than max_queue_wait_time_min", number)
            self._service.end_batch_job(number)
        reason, changed = decision.reason, bool(decision.cancel)
        if decision.ask is not None:
            try:
                self._asked.ask(self._body(decision.ask), reason)
                changed = True
            except RequestRefused as refused:
                reason = f"asks for nothing: the service refuses it: {refused}"
        elif backlog.has_others:
            reason = f"asks for nothing: all that wait need {self._beyond()}"
        self._say(reason)
        return changed

    def _query(self) -> BacklogQuery:
        return BacklogQuery(
            tags=[f"{key}:{value}" for key, value in self._tags.items()],
            max_wall_time_min=self._limits.longest_job_min,
            max_nodes_per_job=self._limits.max_num_nodes,
            max_gpus_per_node=self._gpus_per_node,
            serial_only=self._wanted.job_mode == "serial",
        )

    def _beyond(self) -> str:
        limits = self._limits
        return (
            f"more than {limits.max_num_nodes} nodes or {limits.longest_job_min} min, or other tags, ranks or GPUs "
            "than its allocations have"
        )

    def _own(self, supplies: Iterable[BacklogSupply]) -> list[OwnAllocation]:
        """The allocations that were asked for here; how long they wait is counted since they were first seen to."""
        now = self._clock.monotonic()
        waiting = {one.batch_job_id: one.state in _WAITING for one in supplies if one.batch_job_id in self._asked.own}
        alive = waiting.keys() | (self._asked.own.keys() & set(self._open_here()))
        self._asked.forget_all_but(alive)
        since = {number: self._waits_since.get(number, now) for number, waits in waiting.items() if waits}
        self._waits_since = since
        return [
            OwnAllocation(number, (now - since[number]) / 60 if number in since else None) for number in sorted(alive)
        ]

    def _decide(self, backlog: Backlog, own: list[OwnAllocation]) -> Decision:
        demands = _demands(backlog.waiting)
        parts = {index: _demands(part) for index, part in enumerate(backlog.parts)}
        supplies = [self._supply(one) for one in backlog.supplies]
        said = decide(demands, parts, supplies, own, [], self._limits)
        if said.ask is None:
            return said
        windows: list[Window] = []
        if self._limits.use_backfill:
            try:
                windows = self._windows(backlog.supplies)
            except SchedulerUnavailable as error:
                return Decision(f"paused: the scheduler does not answer: {error}")
            said = decide(demands, parts, supplies, own, windows, self._limits)
        held_back = self._held_back(self._request(said.ask)) if said.ask else ""
        return decide(demands, parts, supplies, own, windows, self._limits, held_back) if held_back else said

    def _windows(self, supplies: Iterable[BacklogSupply]) -> list[Window]:
        """What of the idle nodes the Site's own waiting allocations leave."""
        taken = sum(one.num_nodes for one in supplies if one.state in _WAITING)
        found = self._backfill_windows().get(self._wanted.submit_queue, [])
        return [Window(max(0, one.num_nodes - taken), one.wall_time_min) for one in found]

    def _supply(self, one: BacklogSupply) -> Supply:
        minutes = float(one.wall_time_min)
        if one.start_time is not None:
            gone_min = max(0.0, (self._clock.now() - one.start_time).total_seconds() / 60)
            minutes = max(0.0, minutes - gone_min)
        held = one.num_nodes if one.held_nodes is None else one.held_nodes
        return Supply(one.num_nodes, max(0.0, one.num_nodes - held), minutes - MARGIN_MIN, one.part)

    def _request(self, ask: Ask) -> Request:
        wanted = self._wanted
        return Request(ask.num_nodes, ask.wall_time_min, wanted.submit_queue, wanted.submit_project, self._tags)

    def _body(self, ask: Ask) -> BatchJobCreate:
        return BatchJobCreate(
            site_id=self._site_id,
            num_nodes=ask.num_nodes,
            wall_time_min=ask.wall_time_min,
            job_mode=JobMode(self._wanted.job_mode),
            queue=self._wanted.submit_queue,
            project=self._wanted.submit_project,
            filter_tags=self._tags,
        )

    def _say(self, reason: str) -> None:
        if reason != self.said:
            log.info("elastic queue: %s", reason)
            self.said = reason


def limits_of(wanted: ElasticQueueSettings, queue: QueueSettings) -> ElasticLimits:
    """The settings, with the queue's limits where they say none."""
    return ElasticLimits(
        min_num_nodes=wanted.min_num_nodes,
        max_num_nodes=wanted.max_num_nodes or queue.max_nodes,
        min_wall_time_min=wanted.min_wall_time_min,
        max_wall_time_min=wanted.max_wall_time_min or queue.max_walltime,
        wall_time_pad_min=wanted.wall_time_pad_min,
        max_queue_wait_time_min=wanted.max_queue_wait_time_min,
        max_queued_jobs=wanted.max_queued_jobs,
        use_backfill=wanted.use_backfill,
    )


def _demands(waiting: Iterable[WaitingJobs]) -> list[Demand]:
    return [Demand(one.num_nodes, one.wall_time_min, one.node_packing_count, one.number) for one in waiting]
