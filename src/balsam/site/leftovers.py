"""The last resort of `balsam up` and `balsam site rm`: end what the scheduler still has of a Site.

Called after the agent was stopped, so that nobody else steers the scheduler meanwhile. Needs neither service nor agent;
the next agent finds the allocations ended and reports them.
"""

import time
from collections.abc import Callable
from pathlib import Path

from balsam.domain.clock import SystemClock
from balsam.platform.registry import SCHEDULERS
from balsam.platform.scheduler.base import Scheduler, SchedulerConfig, SchedulerState, SchedulerUnavailable
from balsam.site.directory import SiteError, require_site
from balsam.site.ledger import Ledger
from balsam.site.settings_file import load_settings

KILL_GRACE_SEC = 3.0
PATIENCE_SEC = 20.0
_LOOK_AGAIN_SEC = 0.05
_LIVE = (SchedulerState.QUEUED, SchedulerState.RUNNING)


def end_leftovers(path: Path, on_found: Callable[[int], None], *, timeout_sec: float = PATIENCE_SEC) -> None:
    """Cancel every live allocation of the Site at the scheduler and wait until all are gone (S9).

    `on_found` hears how many there are, when there are any. Raises SiteError that names those that are left after
    `timeout_sec`, or says why the scheduler can't be asked.
    """
    site = require_site(path)
    try:
        settings = load_settings(site.settings).scheduler
        name = settings.scheduler_class
        # What is left had its time to end in order; only our own scheduler is known to take this option.
        quick = {"kill_grace_sec": KILL_GRACE_SEC} if SCHEDULERS.plain_name(name) == "local" else {}
        prefix = Ledger(site.qsubmit, site.identity().id).allocation_prefix
        config = SchedulerConfig(
            site.qsubmit, {**settings.scheduler_options, **quick}, SystemClock(), name_prefix=prefix
        )
        scheduler = SCHEDULERS.load(name)(config)
        try:
            _end_all(scheduler, site.root, on_found, time.monotonic() + timeout_sec)
        finally:
            scheduler.close()
    except (SchedulerUnavailable, LookupError, ImportError, ValueError, OSError) as error:
        raise SiteError(f"can't see whether allocations of {site.root} are left: {error}") from error


def _end_all(scheduler: Scheduler, root: Path, on_found: Callable[[int], None], deadline: float) -> None:
    live = _live(scheduler)
    if live:
        on_found(len(live))
    for scheduler_id in live:
        scheduler.cancel(scheduler_id)
    while live := _live(scheduler):
        if time.monotonic() >= deadline:
            raise SiteError(f"allocations of {root} that do not end: {', '.join(live)} (ids of the scheduler)")
        time.sleep(_LOOK_AGAIN_SEC)


def _live(scheduler: Scheduler) -> list[str]:
    return [scheduler_id for scheduler_id, job in scheduler.jobs().items() if job.state in _LIVE]
