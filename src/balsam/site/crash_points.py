"""Named places where the agent's death would hurt most; the crash test dies at every one of them.

Production code calls `crash_point(name)`, which does nothing. `tests/crash` sets BALSAM_CRASH_POINT in the environment
of an agent, which then kills itself at the first pass through that place.
"""

import os
import signal

OF_BATCH_JOBS = (
    "before-intent",
    "after-intent",
    "after-launcher-files",
    "before-start",
    "after-start",
    "after-submit-before-record",
    "after-record-before-report",
    "after-report-before-mark",
    "after-cancel-before-record",
    "after-end-before-delivery",
    "after-delivery-before-finished",
    "after-finished-before-close",
)
TRANSFER_CRASH_POINTS = (
    "before-transfer",
    "after-transfer-before-told",
    "after-transfer-told",
)
OF_HOOKS = (
    "after-processing-session-before-outbox",
    "after-grant-before-hook",
    "after-hook-before-record",
    "after-record-before-verdict-report",
    "after-verdict-report-before-ack",
)
OF_SCALING = ("after-request-intent", "after-request-before-record")
CRASH_POINTS = (*OF_BATCH_JOBS, *TRANSFER_CRASH_POINTS, *OF_HOOKS, *OF_SCALING)
_ENVIRONMENT = "BALSAM_CRASH_POINT"


def crash_point(name: str) -> None:
    """Die here when a test asked for it."""
    if name not in CRASH_POINTS:
        raise ValueError(f"{name!r} is not listed here, so no test would die there")
    if os.environ.get(_ENVIRONMENT) == name:
        os.kill(os.getpid(), signal.SIGKILL)
