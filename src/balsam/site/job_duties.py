"""Puts together what the agent does for Jobs beside their allocations: hooks and the file cleaner. Called by run.py."""

from collections.abc import Callable, Collection

from balsam.domain.clock import Clock
from balsam.launcher.workdir import WorkdirError
from balsam.site.approvals import approved_apps
from balsam.site.directory import SiteDirectory, SiteError
from balsam.site.hook_workers import HookWorkers
from balsam.site.lock import this_process, was_here_and_is_gone
from balsam.site.processing_link import ProcessingLink
from balsam.site.processing_loop import ProcessingLoop
from balsam.site.service import ServiceLink
from balsam.site.services.cleanup import CleanupLink, FileCleaner
from balsam.site.services.hook_apps import HookApps
from balsam.site.services.processing import HELD_PER_WORKER, Processing
from balsam.site.settings import Settings


def make_processing(site: SiteDirectory, settings: Settings, link: ServiceLink, clock: Clock) -> ProcessingLoop | None:
    """The hooks of this Site; None where they are switched off. Raises SiteError."""
    wanted = settings.processing
    if wanted is None:
        return None
    try:
        workers = HookWorkers(site, wanted.num_workers, wanted.hook_time_limit_sec, clock)
    except WorkdirError as error:
        raise SiteError(str(error)) from error
    site.processing.mkdir(mode=0o700, exist_ok=True)
    processing = Processing(
        directory=site.processing,
        service=ProcessingLink(link),
        workers=workers,
        apps=HookApps(settings.apps.python, _approved(site, settings)),
        clock=clock,
        most_held=min(wanted.prefetch_depth, HELD_PER_WORKER * wanted.num_workers),
        holder=this_process(),
        is_dead=was_here_and_is_gone,
    )
    return ProcessingLoop(processing, workers, clock)


def make_cleaner(site: SiteDirectory, settings: Settings, link: ServiceLink) -> FileCleaner | None:
    """The file cleaner; None where it is switched off."""
    wanted = settings.file_cleaner
    if wanted is None:
        return None
    approved = _approved(site, settings)
    return FileCleaner(site.data, CleanupLink(link), approved, wanted.cleanup_batch_size, wanted.service_period)


def _approved(site: SiteDirectory, settings: Settings) -> Callable[[], Collection[str] | None]:
    """The hashes of Apps that may run here, read anew each time; None when all may."""
    return lambda: approved_apps(site) if settings.apps.accept == "pinned" else None
