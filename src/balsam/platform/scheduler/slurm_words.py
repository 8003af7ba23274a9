"""Slurm's words: states, reasons, times, exit codes and host lists, as `squeue`, `sacct` and `scontrol` print them.

Pure functions for the Slurm adapter. What is not known is `unknown`; nothing here guesses.
"""

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from balsam.platform.scheduler.base import SchedulerState

_S = SchedulerState
_STATES = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
        _S.QUEUED,
    ),
    # COMPLETING: processes may be left. A suspended one keeps its nodes and comes back.
    **dict.fromkeys(
        ("RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"), _S.RUNNING
    ),
    "COMPLETED": _S.FINISHED,
    "CANCELLED": _S.CANCELLED,
    **dict.fromkeys(
        (
            "BOOT_FAIL",
            "DEADLINE",
            "FAILED",
            "LAUNCH_FAILED",
            "NODE_FAIL",
            "OUT_OF_MEMORY",
            "PREEMPTED",
            "RECONFIG_FAIL",
            "TIMEOUT",
        ),
        _S.FAILED,
    ),
}
# They go away only when an administrator raises a limit or changes an account.
_HOPELESS = (
    "AccountNotAllowed",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionConfig",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "QOSNotAllowed",
    "ReservationDeleted",
)
_TAKEN = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")
_HOPELESS_PATTERN = re.compile(r"(Assoc|QOS)Max(WallDurationPerJob|NodePerJob|CpuPerJob|\w*MinutesPerJob|\w+PerJob)\w*")
_NOTHING = {"", "none", "n/a", "(null)", "unknown", "none assigned", "invalid", "not_set", "unlimited", "infinite"}
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def state_of(word: str) -> SchedulerState:
    """The state that a word means: `CANCELLED by 1001` and `CANCELLED+` are CANCELLED.

    >>> state_of("CANCELLED by 1001").value, state_of("MOONLIT").value
    ('cancelled', 'unknown')
    """
    return _STATES.get(word.split(" ")[0].rstrip("+"), SchedulerState.UNKNOWN)


def was_taken(word: str) -> bool:
    """Whether an allocation in this state was ended by the loss of a node, or for one that goes before it.

    >>> was_taken("NODE_FAIL"), was_taken("FAILED")
    (True, False)
    """
    return word.split(" ")[0].rstrip("+") in _TAKEN


def is_hopeless(reason: str) -> bool:
    """Whether a pending allocation with this reason would wait for ever.

    >>> is_hopeless("PartitionTimeLimit"), is_hopeless("QOSMaxWallDurationPerJobLimit"), is_hopeless("Priority")
    (True, True, False)
    """
    first = re.split(r"[,\s(]", reason, maxsplit=1)[0]
    return first in _HOPELESS or _HOPELESS_PATTERN.fullmatch(first) is not None


def told(text: str) -> str:
    """The text, "" where Slurm says in its many ways that there is none."""
    return "" if text.strip().lower() in _NOTHING else text.strip()


def moment(text: str) -> datetime | None:
    """A time printed under SLURM_TIME_FORMAT=%s, seconds since the epoch.

    >>> moment("1795671725").isoformat(), moment("Unknown")
    ('2026-11-26T05:42:05+00:00', None)
    """
    return datetime.fromtimestamp(int(text), UTC) if text.isascii() and text.isdigit() and int(text) else None


def seconds(text: str) -> float | None:
    """`[DAYS-][HOURS:]MINUTES:SECONDS`.

    >>> seconds("1-00:30:00"), seconds("9:58"), seconds("UNLIMITED")
    (88200.0, 598.0, None)
    """
    days, _, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not 1 < len(parts) <= 3 or not all(part.isdigit() for part in parts) or not (days or "0").isdigit():
        return None
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return float(total + int(days or 0) * 86400)


def minutes(text: str) -> int | None:
    """As `seconds`, in whole minutes."""
    found = seconds(text)
    return None if found is None else int(found // 60)


def count(text: str) -> int | None:
    """A number; None for UNLIMITED and its like."""
    return int(text) if text.isascii() and text.isdigit() else None


def hosts(text: str) -> tuple[str, ...]:
    """A host list, written out.

    >>> hosts("gpu[01-03,7],login1")
    ('gpu01', 'gpu02', 'gpu03', 'gpu7', 'login1')
    """
    return tuple(name for part in _parts(told(text)) for name in _written_out(part))


def _parts(text: str) -> Iterator[str]:
    """Cut at the commas that stand outside of brackets."""
    depth, begin = 0, 0
    for at, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            yield text[begin:at]
            begin = at + 1
    if text[begin:]:
        yield text[begin:]


def _written_out(part: str) -> Iterator[str]:
    pieces = re.split(r"\[([^\]]*)\]", part)
    choices = [[piece] if index % 2 == 0 else list(_numbers(piece)) for index, piece in enumerate(pieces)]
    yield from ("".join(chosen) for chosen in itertools.product(*choices))


def _numbers(text: str) -> Iterator[str]:
    for item in text.split(","):
        found = _RANGE.fullmatch(item)
        if found is None or found[2] is None:
            yield item
            continue
        yield from (str(number).zfill(len(found[1])) for number in range(int(found[1]), int(found[2]) + 1))
