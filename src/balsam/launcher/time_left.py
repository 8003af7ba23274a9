"""How long an allocation really has: the batch script counts from its last command, the batch system from its start.

Asked once, by `main`. What ran before the launcher (a prologue, modules) is gone already, and an administrator may have
lowered the limit while the allocation waited.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from balsam.launcher.config import LauncherConfig
from balsam.platform.registry import SCHEDULERS
from balsam.platform.scheduler.base import SchedulerConfig, SchedulerUnavailable

log = logging.getLogger("balsam.launcher")

# Jobs wait for the answer. Without one the script's word stands, and the batch system's own SIGTERM ends the Jobs.
TIMEOUT_SEC = 10.0
_TIMEOUT_OPTION = "command_timeout_sec"
# The launcher itself takes a moment to get here.
_WORTH_TELLING_SEC = 15.0


def wall_time_sec(said_sec: float, config: LauncherConfig, scheduler_id: str | None) -> float:
    """Seconds from now on: what the batch script said, or less where the batch system says that less is left."""
    if config.scheduler is None or scheduler_id is None:
        return said_sec
    try:
        left_sec = _ask(config.scheduler, Path(config.directory).parent, scheduler_id)
    except (SchedulerUnavailable, ValueError) as error:
        log.warning("the batch system does not say how long this allocation still has: %s", error)
        return said_sec
    if left_sec is None or left_sec >= said_sec:
        return said_sec
    if said_sec - left_sec >= _WORTH_TELLING_SEC:
        log.info("%.0f s of this allocation are left, by %s; %.0f were said", left_sec, config.scheduler, said_sec)
    return max(1.0, left_sec)


def _ask(scheduler: str, submit_dir: Path, scheduler_id: str) -> float | None:
    make = SCHEDULERS.load(scheduler)
    options: Mapping[str, object] = {_TIMEOUT_OPTION: TIMEOUT_SEC} if _TIMEOUT_OPTION in make.options else {}
    asked = make(SchedulerConfig(submit_dir, options))
    try:
        left_sec: float | None = asked.time_left_sec(scheduler_id)
    finally:
        asked.close()
    return left_sec
