"""Failure classes: what kind of thing went wrong with a Job's last attempt, or with a step before or after it.

`lifecycle.decide()` sets the class with the transition that went wrong and clears it with the next attempt; whoever saw
it (launcher, agent) may say it more exactly. Users filter and count by it.
"""

from enum import StrEnum


class Failure(StrEnum):
    """Why a Job is in RUN_ERROR, RUN_TIMEOUT or FAILED, or is about to be run again."""

    EXIT_CODE = "exit_code"  # ended by itself with another exit code than 0
    SIGNAL = "signal"  # ended by a signal that was not ours
    TIMEOUT = "timeout"  # ended because the wall time was up or its allocation was drained
    OUT_OF_MEMORY = "out_of_memory"  # killed by the kernel or the scheduler, which said so
    LOST_NODE = "lost_node"  # its node went away under it
    LOST_LAUNCHER = "lost_launcher"  # its launcher died, or its allocation ended without warning
    NOT_STARTED = "not_started"  # the Site could not or would not start it
    MONITOR = "monitor"  # a rule of its App on what it writes ended it
    HOOK = "hook"  # a hook failed, or said FAILED of a Job with which nothing was wrong before
    TRANSFER = "transfer"  # staging in or out failed for good
    PARENT = "parent"  # a parent failed or was cancelled


# These do not spend `max_attempts`: the App is not to blame. Too many of them in a row are another matter (L5).
INFRASTRUCTURE = frozenset({Failure.LOST_NODE, Failure.LOST_LAUNCHER})
