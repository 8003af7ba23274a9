"""What Grid Engine prints, understood: `qstat -xml`, the blocks of `qacct -j`, and `qconf -sq`.

Pure; used by the Grid Engine adapter. Times are read as UTC: the commands are run with TZ=UTC. An answer that is cut
off is SchedulerUnavailable.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from balsam.platform.scheduler.base import QueueLimits, SchedulerJob, SchedulerState, SchedulerUnavailable

_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d)")
_KNOWN_LETTERS = frozenset("dEhNPqRrsSTtwX")
_MOMENTS = ("%a %b %d %H:%M:%S %Y", "%m/%d/%Y %H:%M:%S.%f", "%m/%d/%Y %H:%M:%S")
# `failed` of qacct: the script itself ended with its exit status.
_SCRIPT_ENDED = 0
_KILLED = 100
_MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class Slots:
    """How slots of the parallel environment stand for nodes."""

    pe: str
    per_node: int

    def of(self, num_nodes: int) -> int:
        return num_nodes * self.per_node

    def nodes(self, slots: int | None, pe: str) -> int | None:
        if slots is None:
            return None
        return max(1, slots // self.per_node) if pe and pe == self.pe else 1


def state_of(letters: str) -> SchedulerState:
    """The state that letters as qstat prints them mean.

    >>> state_of("hqw").value, state_of("dr").value, state_of("Eqw").value, state_of("M").value
    ('queued', 'running', 'queued', 'unknown')
    """
    if not letters or not _KNOWN_LETTERS.issuperset(letters):
        return SchedulerState.UNKNOWN
    if "q" in letters:
        return SchedulerState.QUEUED
    return SchedulerState.RUNNING if set(letters) & set("rtsSTNP") else SchedulerState.UNKNOWN


def listed(text: str, slots: Slots) -> dict[str, SchedulerJob]:
    """What `qstat -r -xml` printed."""
    found = (_listed(job, slots) for job in _tree(text).iter("job_list"))
    return {job.scheduler_id: job for job in found if job.scheduler_id}


def _listed(record: ElementTree.Element, slots: Slots) -> SchedulerJob:
    letters = _text(record, "state")
    state = state_of(letters)
    queue, _, host = _text(record, "queue_name").partition("@")
    limit_sec = next((one.text for one in record.iter("hard_request") if one.get("name") == "h_rt"), None)
    pe = record.find("requested_pe")
    num_nodes = slots.nodes(_count(_text(record, "slots")), pe.get("name", "") if pe is not None else "")
    return SchedulerJob(
        scheduler_id=_text(record, "JB_job_number"),
        name=_text(record, "full_job_name") or _text(record, "JB_name"),
        state=state,
        reason=_state_reason(letters, state),
        queue=queue or _text(record, "hard_req_queue"),
        num_nodes=num_nodes,
        wall_time_min=(_count(limit_sec or "") or 0) // 60 or None,
        submit_time=_iso(_text(record, "JB_submission_time")),
        start_time=_iso(_text(record, "JAT_start_time")),
        node_names=(host,) if host and num_nodes == 1 else (),
        is_hopeless="E" in letters,  # it stays until somebody clears the error
    )


def _state_reason(letters: str, state: SchedulerState) -> str:
    if state is SchedulerState.UNKNOWN:
        return f"Grid Engine calls its state {letters!r}, which this version does not know"
    if state is SchedulerState.QUEUED:
        return "it is held" if "h" in letters else f"it waits ({letters})"
    return "" if letters == "r" else letters


def reasons(text: str) -> dict[str, str]:
    """Why jobs wait, by id, out of `qstat -j -xml`: what the scheduler said of each, and how its start failed."""
    tree = _tree(text)
    told: dict[str, list[str]] = {}
    for job in tree.iter("element"):
        number = job.findtext("JB_job_number")
        for error in job.iter("QIM_message") if number else ():
            told.setdefault(str(number), []).append(error.text or "")
    for message in tree.iter("element"):
        said = message.findtext("MES_message")
        for one in message.findall("./MES_job_number_list//ULNG_value") if said else ():
            told.setdefault(one.text or "", []).append(said or "")
    return {number: _brief("; ".join(said)) for number, said in told.items()}


def accounted(text: str, slots: Slots) -> dict[str, SchedulerJob]:
    """What `qacct -j` printed: blocks of names and values."""
    found: dict[str, SchedulerJob] = {}
    for record in _blocks(text):
        job = _accounted(record, slots)
        found[job.scheduler_id] = job  # a later block of one id is the later try
    return found


def _blocks(text: str) -> Iterator[dict[str, str]]:
    if text and not text.endswith("\n"):
        raise SchedulerUnavailable(f"qacct: its answer is cut off: ...{text[-60:]!r}")
    for block in re.split(r"^=+\n", text, flags=re.MULTILINE):
        pairs = (line.split(None, 1) for line in block.splitlines())
        record = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
        if {"jobnumber", "jobname", "failed", "exit_status"} <= record.keys():
            yield record


def _accounted(record: dict[str, str], slots: Slots) -> SchedulerJob:
    failed, code = _first_number(record["failed"]), _first_number(record["exit_status"])
    state = SchedulerState.FAILED
    reason = f"exit code {code}" if failed == _SCRIPT_ENDED else f"failed {record['failed']}, exit code {code}"
    if record.get("deleted_by", "NONE") not in ("NONE", ""):
        state, reason = SchedulerState.CANCELLED, f"deleted by {record['deleted_by']}"
    elif failed is None or code is None:
        state, reason = SchedulerState.UNKNOWN, f"failed {record['failed']!r}, exit status {record['exit_status']!r}"
    elif (failed, code) == (_SCRIPT_ENDED, 0):
        state, reason = SchedulerState.FINISHED, ""
    return SchedulerJob(
        scheduler_id=record["jobnumber"],
        name=record["jobname"],
        state=state,
        reason=reason,
        exit_code=code if failed == _SCRIPT_ENDED or (failed == _KILLED and code) else None,
        queue=record.get("qname", ""),
        project=record.get("project", "").removeprefix("NONE"),
        num_nodes=slots.nodes(_count(record.get("slots", "")), record.get("granted_pe", "NONE").removeprefix("NONE")),
        submit_time=_moment(record.get("qsub_time", "")),
        start_time=_moment(record.get("start_time", "")),
        end_time=_moment(record.get("end_time", "")),
    )


def queue_limits(text: str) -> dict[str, QueueLimits]:
    """What `qconf -sq` printed of any number of queues."""
    found: dict[str, QueueLimits] = {}
    name = ""
    for line in text.replace("\\\n", " ").splitlines():
        key, _, value = line.partition(" ")
        if key == "qname":
            name = value.strip()
            found[name] = QueueLimits()
        elif key == "h_rt" and name:  # hosts and groups of hosts may have other limits: [host=1:00:00]
            hours = [int(hour) * 60 + int(minute) for hour, minute, _ in _CLOCK.findall(value)]
            found[name] = QueueLimits(max_wall_time_min=None if "INFINITY" in value else max(hours, default=None))
    return found


def _tree(text: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - expat bounds what entities expand to
    except ElementTree.ParseError as error:
        raise SchedulerUnavailable(f"qstat: its answer is no XML or cut off ({error}): ...{text[-60:]!r}") from error


def _text(record: ElementTree.Element, name: str) -> str:
    return (record.findtext(name) or "").strip()


def _brief(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _first_number(text: str) -> int | None:
    return _count((text.split() or [""])[0])


def _iso(text: str) -> datetime | None:
    with suppress(ValueError):
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    return None


def _moment(text: str) -> datetime | None:
    """`-/-` or 1970 where it never came to it."""
    for form in _MOMENTS:
        with suppress(ValueError):
            at = datetime.strptime(text, form).replace(tzinfo=UTC)
            return at if at.year > 1970 else None
    return None
