"""LSF 10.1 or newer, through bsub, bjobs, bkill and bqueues.

Written from public documentation and never run on a real LSF; `docs/guides/clusters.md` says what is tested how. LSF
tells what ended for an hour by default (CLEAN_PERIOD) in a form for machines, and later only in one for people, which
is not read: an agent that was away for longer learns no exit code.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from balsam.platform.scheduler import options
from balsam.platform.scheduler.base import (
    QueueLimits,
    SchedulerConfig,
    SchedulerJob,
    SchedulerState,
    SchedulerUnavailable,
    SubmitRequest,
)
from balsam.platform.scheduler.command_line import COMMON_OPTIONS, CommandScheduler

_S = SchedulerState
_STATES = {
    **dict.fromkeys(("PEND", "PSUSP", "PROV", "WAIT"), _S.QUEUED),
    **dict.fromkeys(("RUN", "USUSP", "SSUSP"), _S.RUNNING),
    "DONE": _S.FINISHED,
    "EXIT": _S.FAILED,
}
_FIELDS = (
    "jobid stat job_name queue proj_name submit_time start_time finish_time exit_code exit_reason pend_reason "
    "exec_host runtimelimit slots"
)
_ID = re.compile(r"[0-9]{1,12}")
_SUBMITTED = re.compile(r"Job <([0-9]{1,12})> is submitted")
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d)")
_NO_SUCH_JOB = ("no matching job", "already finished", "is not found", "no unfinished job", "no job found")
# Reasons by which somebody wished an end.
_WISHED = ("TERM_OWNER", "TERM_ADMIN", "TERM_FORCE_OWNER", "TERM_FORCE_ADMIN")


class Lsf(CommandScheduler):
    """`queue` is a queue, `project` a project (`-P`)."""

    options: ClassVar = {
        **COMMON_OPTIONS,
        "nodes_are": "how nodes are asked for: slots (-n with span[ptile]) or nnodes (slots)",
        "slots_per_node": "slots that make up a node, when nodes are asked for as slots (1)",
    }
    _outages = (
        "batch daemon",
        "cannot connect",
        "communication",
        "connection refused",
        "library call",
        "lsf is down",
        "mbatchd",
        "not responding",
        "time out",
        "timed out",
    )
    _has_large_codes = True  # bsub ends with 255 whatever is wrong
    _script_on_stdin = True  # else it reads no #BSUB lines
    _forget = ("LSB_BJOBS_FORMAT", "LSB_DISPLAY_YEAR", "LSB_JOB", "LSB_SUB_")

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        self._nodes_are = options.choice(config.options, "nodes_are", ("slots", "nnodes"))
        self._per_node = int(options.positive(config.options, "slots_per_node", 1))

    def _words(self, script_path: Path, name: str, request: SubmitRequest) -> list[str]:
        if self._nodes_are == "nnodes":
            size = ["-nnodes", str(request.num_nodes)]
        else:
            size = ["-n", str(request.num_nodes * self._per_node), "-R", f"span[ptile={self._per_node}]"]
        return [
            *("bsub", "-J", name, "-q", request.queue, "-P", request.project, "-W", str(request.wall_time_min)),
            *(*size, "-o", str(self._submit_dir / f"{name}.output"), "-cwd", str(self._submit_dir), "-rn"),
        ]

    def _submitted_id(self, said: str) -> str | None:
        found = _SUBMITTED.search(said)
        return found[1] if found else None

    def find(self, name: str) -> str | None:
        found = [job for job in self._bjobs("-J", name).values() if job.name == name]
        found.sort(key=lambda job: (job.state.is_over, int(job.scheduler_id)))
        return found[0].scheduler_id if found else None

    def jobs(self) -> dict[str, SchedulerJob]:
        return {number: job for number, job in self._bjobs().items() if job.name.startswith(self._prefix)}

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        wanted = sorted(number for number in scheduler_ids if _ID.fullmatch(number))
        return self._bjobs(*wanted) if wanted else {}

    def cancel(self, scheduler_id: str) -> None:
        if _ID.fullmatch(scheduler_id):
            self._ask("bkill", scheduler_id, may_fail=_NO_SUCH_JOB)

    def queues(self) -> dict[str, QueueLimits]:
        records = _records("bqueues", self._ask("bqueues", "-json", "-o", "queue_name status"))
        return {
            record["QUEUE_NAME"]: QueueLimits(is_open=record.get("STATUS", "Open").startswith("Open"))
            for record in records
        }

    def time_left_sec(self, scheduler_id: str) -> float | None:
        job = self._bjobs(scheduler_id).get(scheduler_id) if _ID.fullmatch(scheduler_id) else None
        if job is None or job.state is not _S.RUNNING or job.start_time is None or job.wall_time_min is None:
            return None
        return job.wall_time_min * 60 - (self._clock.now() - job.start_time).total_seconds()

    def _bjobs(self, *which: str) -> dict[str, SchedulerJob]:
        text = self._ask("bjobs", "-a", "-json", "-hms", "-o", _FIELDS, *which, may_fail=_NO_SUCH_JOB)
        if not text:
            return {}
        found = (self._job(record) for record in _records("bjobs", text) if "ERROR" not in record)
        return {job.scheduler_id: job for job in found}

    def _job(self, record: dict[str, str]) -> SchedulerJob:
        word = record.get("STAT", "")
        state = _STATES.get(word, _S.UNKNOWN)
        start = self._moment(record.get("START_TIME", ""))
        why = record.get("EXIT_REASON", "").strip()
        if state is _S.FAILED and (why.startswith(_WISHED) or start is None):
            state = _S.CANCELLED
        code = _count(record.get("EXIT_CODE", ""))
        limit = _CLOCK.search(record.get("RUNTIMELIMIT", ""))
        hosts = tuple(dict.fromkeys(host.rpartition("*")[2] for host in record.get("EXEC_HOST", "").split(":") if host))
        slots = _count(record.get("SLOTS", ""))
        return SchedulerJob(
            scheduler_id=record.get("JOBID", ""),
            name=record.get("JOB_NAME", ""),
            state=state,
            reason=_reason(word, state, record, code, why),
            exit_code=0 if state is _S.FINISHED else code if state is _S.FAILED else None,
            queue=record.get("QUEUE", ""),
            project=record.get("PROJ_NAME", ""),
            num_nodes=len(hosts) or (slots // self._per_node if slots and self._nodes_are == "slots" else None),
            wall_time_min=int(limit[1]) * 60 + int(limit[2]) if limit else None,
            submit_time=self._moment(record.get("SUBMIT_TIME", "")),
            start_time=start,
            end_time=self._moment(record.get("FINISH_TIME", "")) if state.is_over else None,
            node_names=hosts,
        )

    def _moment(self, text: str) -> datetime | None:
        """`Dec 28 19:56 L`, in UTC: to the minute and without a year, so the last one that is not in the future."""
        found = re.match(r"[A-Z][a-z]{2} +\d+ \d\d:\d\d", text)
        now = self._clock.now()
        for year in (now.year + 1, now.year, now.year - 1) if found else ():
            with suppress(ValueError):  # Feb 29
                at = datetime.strptime(f"{year} {found[0]}", "%Y %b %d %H:%M").replace(tzinfo=UTC) if found else now
                if at <= now + timedelta(days=1):
                    return at
        return None


def _reason(word: str, state: SchedulerState, record: dict[str, str], code: int | None, why: str) -> str:
    if state is _S.UNKNOWN:
        return f"LSF calls its state {word!r}, in which it does not vouch for the job"
    if state is _S.QUEUED:
        return record.get("PEND_REASON", "").strip().rstrip(";") or f"state {word}"
    if state is _S.CANCELLED:
        return why or "killed before it started"
    if state is _S.FAILED:
        return "; ".join(part for part in (f"exit code {code}" if code is not None else "", why) if part) or "EXIT"
    return "" if word in ("RUN", "DONE") else word


def _records(program: str, text: str) -> list[dict[str, str]]:
    """The records of an answer in JSON. Raises SchedulerUnavailable for anything else."""
    try:
        answer: Any = json.loads(text, strict=False)
        records = answer["RECORDS"]
        return [{str(key): str(value) for key, value in record.items()} for record in records]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchedulerUnavailable(f"{program}: its answer is no JSON or cut off: ...{text[-60:]!r}") from error


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
