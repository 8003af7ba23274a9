"""Puts together the services that ask for allocations by themselves. Called by run.py."""

from balsam.domain.clock import Clock
from balsam.platform.scheduler.base import Scheduler
from balsam.site.directory import SiteDirectory
from balsam.site.ledger import Ledger, Phase
from balsam.site.scaling_link import ScalingLink
from balsam.site.service import ServiceLink
from balsam.site.services.asked import AskedBatchJobs
from balsam.site.services.breaker import Breaker
from balsam.site.services.budget import Budget
from balsam.site.services.elastic_queue import ElasticQueue, Request
from balsam.site.services.queue_maintainer import QueueMaintainer
from balsam.site.services.scaling import Scaler, Scaling
from balsam.site.settings import Settings


def make_scaling(
    site: SiteDirectory,
    settings: Settings,
    link: ServiceLink,
    scheduler: Scheduler,
    ledger: Ledger,
    breaker: Breaker,
    budget: Budget,
    clock: Clock,
) -> Scaling:
    """Those that settings.yml switches on."""
    service = ScalingLink(link)
    scalers: list[Scaler] = []

    def held_back(request: Request) -> str:
        return breaker.pause(request.queue, request.project) or budget.refusal(
            request.num_nodes, request.wall_time_min, request.filter_tags
        )

    def open_here() -> set[int]:
        return {entry.batch_job_id for entry in ledger if entry.phase in (Phase.INTENT, Phase.SUBMITTED)}

    def asked(name: str) -> AskedBatchJobs:
        site.scaling.mkdir(mode=0o700, exist_ok=True)
        return AskedBatchJobs(site.scaling / f"{name}.json", service, clock)

    if (keeping := settings.queue_maintainer) is not None:
        own = asked(QueueMaintainer.name)
        tags = dict(settings.filter_tags)
        scalers.append(QueueMaintainer(link.site_id, tags, keeping, own, service, held_back))
    if (elastic := settings.elastic_queue) is not None:
        own, windows = asked(ElasticQueue.name), scheduler.backfill_windows
        scalers.append(
            ElasticQueue(link.site_id, settings, elastic, own, service, windows, open_here, held_back, clock)
        )
    return Scaling(scalers, budget.facts, link.update_site, clock)
