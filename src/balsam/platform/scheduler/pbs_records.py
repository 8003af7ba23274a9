r"""Lines of `qstat -f -F dsv`, understood: a job or queue on each, its attributes cut at "|", but not at "\|".

Pure; used by the PBS adapter. Times are as ctime() prints them, in UTC: the commands are run with TZ=UTC. An answer
that is cut off is SchedulerUnavailable.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from balsam.platform.scheduler.base import QueueLimits, SchedulerJob, SchedulerState, SchedulerUnavailable

_S = SchedulerState
# F is over, well or not; M went to another server, and X is a subjob, which we have none of.
_STATES = {
    **dict.fromkeys("QHWT", _S.QUEUED),
    **dict.fromkeys("RSUEB", _S.RUNNING),
}
_DELETED = 91  # substate of what was ended by qdel
_BY_SIGNAL = 256
_PER_USER = re.compile(r"u:PBS_GENERIC=(\d+)")


def number_of(scheduler_id: str) -> str:
    """The id without the name of its server.

    >>> number_of("8494.aurora-pbs-0001")
    '8494'
    """
    return scheduler_id.partition(".")[0]


def listed(text: str) -> dict[str, SchedulerJob]:
    """The jobs of `qstat -f`, by number."""
    found = (_job(number_of(head), facts) for head, facts in _records(text, "Job Id: "))
    return {job.scheduler_id: job for job in found}


def queue_limits(text: str) -> dict[str, QueueLimits]:
    """The queues of `qstat -Q -f`."""
    found = {}
    for name, facts in _records(text, "Queue: "):
        queued = _PER_USER.search(facts.get("max_queued", ""))
        found[name] = QueueLimits(
            max_nodes=_count(facts.get("resources_max.nodect", "")),
            max_wall_time_min=_minutes(facts.get("resources_max.walltime", "")),
            max_queued_jobs=int(queued[1]) if queued else None,
            is_open=facts.get("enabled", "True") == "True",
        )
    return found


def _records(text: str, head: str) -> Iterator[tuple[str, dict[str, str]]]:
    if text and not text.endswith("\n"):
        raise SchedulerUnavailable(f"qstat: its answer is cut off: ...{text[-60:]!r}")
    for line in text.splitlines():
        if line.startswith(head):
            first, *fields = re.split(r"(?<!\\)\|", line)
            pairs = (field.partition("=") for field in fields)
            yield first.removeprefix(head).strip(), {key: value.replace(r"\|", "|") for key, _, value in pairs}


def _job(number: str, facts: dict[str, str]) -> SchedulerJob:
    letter = facts.get("job_state", "")
    comment = facts.get("comment", "")
    code = None
    if letter == "F":
        state, reason, code = _end(facts)
    else:
        state = _STATES.get(letter, _S.UNKNOWN)
        reason = _reason(letter, state, comment)
    start = _moment(facts.get("stime", ""))
    over = _moment(facts.get("obittime", "")) or _moment(facts.get("mtime", ""))
    return SchedulerJob(
        scheduler_id=number,
        name=facts.get("Job_Name", ""),
        state=state,
        reason=reason,
        exit_code=code,
        queue=facts.get("queue", ""),
        project=facts.get("Account_Name", ""),
        num_nodes=_count(facts.get("Resource_List.nodect", "")),
        wall_time_min=_minutes(facts.get("Resource_List.walltime", "")),
        submit_time=_moment(facts.get("ctime", "")),
        start_time=None if state is _S.QUEUED else start,
        end_time=over if state.is_over else None,
        expected_start=_moment(facts.get("estimated.start_time", "")) if state is _S.QUEUED else None,
        node_names=_hosts(facts.get("exec_host", "")) if state is not _S.QUEUED else (),
        is_hopeless=state is _S.QUEUED and comment.startswith("Can Never Run"),
    )


def _reason(letter: str, state: SchedulerState, comment: str) -> str:
    if state is _S.UNKNOWN:
        return f"PBS calls its state {letter!r}, which this version does not know"
    if state is _S.QUEUED:
        return comment or {"Q": "it waits", "H": "it is held"}.get(letter, f"state {letter}")
    return "" if letter == "R" else f"state {letter}"


def _end(facts: dict[str, str]) -> tuple[SchedulerState, str, int | None]:
    """State, reason and exit code of what is over: 256+n for signal n, below 0 when PBS itself ended it."""
    told = facts.get("Exit_status", "")
    status = int(told) if re.fullmatch(r"-?\d{1,9}", told) else None
    comment = facts.get("comment", "")
    if facts.get("substate") == str(_DELETED):
        return _S.CANCELLED, "deleted by qdel", None
    if status == 0:
        return _S.FINISHED, "", 0
    if status is None:
        return _S.FAILED, comment or "it ended without an exit status", None
    if status < 0:
        return _S.FAILED, f"PBS ended it with {status}" + (f": {comment}" if comment else ""), None
    code = status if status < _BY_SIGNAL else 128 + status - _BY_SIGNAL
    return _S.FAILED, f"exit code {code}", code


def _hosts(text: str) -> tuple[str, ...]:
    """`node1/0*8+node2/0*8`: each node once, in order."""
    return tuple(dict.fromkeys(part.partition("/")[0] for part in text.split("+") if part))


def _minutes(text: str) -> int | None:
    found = re.fullmatch(r"(\d+):(\d\d):\d\d", text)
    return int(found[1]) * 60 + int(found[2]) if found else None


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) else None


def _moment(text: str) -> datetime | None:
    """As ctime() prints it, or seconds since the epoch."""
    if text.isascii() and text.isdigit():
        return datetime.fromtimestamp(int(text), UTC)
    with suppress(ValueError):
        return datetime.strptime(text.strip(), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    return None
