"""How many files a process of the launcher's may have open: many systems allow 1024, and some need more.

Called by whoever holds descriptors for each Job (the loop, the process on a node) or each node (the hub). What is
started afterwards may have as many, so the limit is raised only as far as it is needed.
"""

import logging
import resource

log = logging.getLogger("balsam.launcher")

_BESIDE = 200
FILES_PER_JOB = 2  # the channel to its worker, and what tells of its end


def allow_files(wanted: int) -> None:
    """Let this process have so many files open beside its usual ones; said when the system does not let it."""
    wanted += _BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("%d files may be open, and %d may be needed: ulimit -Hn", hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
