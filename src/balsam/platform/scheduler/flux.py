"""Flux (flux-core 0.60 or newer) as the system's scheduler, through `flux batch`, `flux jobs` and `flux cancel`.

Written from the public manual pages and never run on a real Flux; `docs/guides/clusters.md` says what is tested how.
Ids are kept as decimal numbers, which every command takes; `flux batch` prints them in base 58.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from balsam.platform.scheduler.base import (
    QueueLimits,
    SchedulerJob,
    SchedulerState,
    SchedulerUnavailable,
    SubmitRequest,
)
from balsam.platform.scheduler.command_line import CommandScheduler
from balsam.platform.scheduler.slurm_words import hosts

_S = SchedulerState
_STATES = {
    **dict.fromkeys(("DEPEND", "PRIORITY", "SCHED", "PENDING"), _S.QUEUED),
    **dict.fromkeys(("RUN", "CLEANUP", "RUNNING"), _S.RUNNING),
    "COMPLETED": _S.FINISHED,
    "FAILED": _S.FAILED,
    "TIMEOUT": _S.FAILED,
    "CANCELED": _S.CANCELLED,
}
_FIELD, _END = "\x1f", "\x1e"  # what no name can have
_FACTS = (
    *("id.dec", "status", "name", "queue", "bank", "nnodes", "duration", "t_submit", "t_run", "t_cleanup"),
    *("expiration", "nodelist", "returncode", "exception.type", "exception.note"),
    "annotations.sched.reason_pending",
)
_FORMAT = _FIELD.join(f"{{{name}}}" for name in _FACTS) + _END
_QUEUE_FORMAT = _FIELD.join(
    f"{{{name}}}" for name in ("queue", "enabled.ascii", "limits.timelimit", "limits.max.nnodes")
)
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_F58 = re.compile(rf"[fƒ]([{_ALPHABET}]{{1,12}})")
_ID = re.compile(r"[0-9]{1,20}")
_DURATION = re.compile(r"([0-9.]+)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NO_SUCH_JOB = ("unknown", "no such file", "job is inactive", "invalid jobid", "not found")
_MOST = 10000


class Flux(CommandScheduler):
    """`queue` is a queue, `project` a bank."""

    _outages = (
        "broker",
        "connection refused",
        "connection reset",
        "connection timed out",
        "flux_open",
        "host is unreachable",
        "unable to connect",
    )
    # An agent that was itself started inside a job must not ask that job's own instance about the system.
    _forget = ("FLUX_JOB_ID", "FLUX_JOBS_", "FLUX_KVS_NAMESPACE", "FLUX_QUEUE_")

    def _words(self, script_path: Path, name: str, request: SubmitRequest) -> list[str]:
        output = str(self._submit_dir / f"{name}.output").replace("{{", "{ {")  # its templates
        return [
            *("flux", "batch", f"--job-name={name}", f"--nodes={request.num_nodes}", "--exclusive"),
            *(
                f"--time-limit={request.wall_time_min}m",
                f"--queue={request.queue}",
                f"--setattr=bank={request.project}",
            ),
            *(f"--cwd={self._submit_dir}", f"--output={output}", str(script_path)),
        ]

    def _submitted_id(self, said: str) -> str | None:
        words = said.split()
        found = _F58.fullmatch(words[-1]) if words else None
        return str(decoded(found[1])) if found else None

    def find(self, name: str) -> str | None:
        found = [job for job in self._jobs(f"--name={name}").values() if job.name == name]
        found.sort(key=lambda job: (job.state.is_over, int(job.scheduler_id)))
        return found[0].scheduler_id if found else None

    def jobs(self) -> dict[str, SchedulerJob]:
        return {number: job for number, job in self._jobs().items() if job.name.startswith(self._prefix)}

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        wanted = {number for number in scheduler_ids if _ID.fullmatch(number)}
        return {number: job for number, job in self._jobs().items() if number in wanted} if wanted else {}

    def cancel(self, scheduler_id: str) -> None:
        if _ID.fullmatch(scheduler_id):
            self._ask("flux", "cancel", scheduler_id, may_fail=_NO_SUCH_JOB)

    def queues(self) -> dict[str, QueueLimits]:
        text = self._ask("flux", "queue", "list", "-n", "--format", _QUEUE_FORMAT)
        found = {}
        for line in text.splitlines():
            name, enabled, limit, nodes = [*line.split(_FIELD), "", "", ""][:4]
            wall_sec = duration_sec(limit)
            found[name.strip()] = QueueLimits(
                max_nodes=int(nodes) if nodes.strip().isdigit() else None,
                max_wall_time_min=int(wall_sec // 60) if wall_sec else None,
                is_open=enabled.strip() != "n",
            )
        return found

    def time_left_sec(self, scheduler_id: str) -> float | None:
        job = self._jobs().get(scheduler_id) if _ID.fullmatch(scheduler_id) else None
        if job is None or job.state is not _S.RUNNING or job.start_time is None or job.wall_time_min is None:
            return None
        return job.wall_time_min * 60 - (self._clock.now() - job.start_time).total_seconds()

    def _jobs(self, *which: str) -> dict[str, SchedulerJob]:
        words = ("flux", "jobs", "-a", "-n", f"--count={_MOST}", "--format", _FORMAT, *which)
        found = (_job(record) for record in _records(self._ask(*words)))
        return {job.scheduler_id: job for job in found}


def decoded(text: str) -> int:
    """A number in base 58.

    >>> decoded("2UzHM")
    11316496
    """
    number = 0
    for char in text:
        number = number * 58 + _ALPHABET.index(char)
    return number


def duration_sec(text: str) -> float | None:
    """Flux's durations; None for `inf` and no limit.

    >>> duration_sec("1.5h"), duration_sec("inf")
    (5400.0, None)
    """
    found = _DURATION.fullmatch(text.strip())
    return float(found[1]) * _SECONDS[found[2] or "s"] if found else None


def _records(text: str) -> Iterator[dict[str, str]]:
    if text.strip() and not text.rstrip("\n").endswith(_END):
        raise SchedulerUnavailable(f"flux jobs: its answer is cut off: ...{text[-60:]!r}")
    for line in text.split(_END):
        fields = line.lstrip("\n").split(_FIELD)
        if len(fields) == len(_FACTS):
            yield dict(zip(_FACTS, fields, strict=True))


def _job(record: dict[str, str]) -> SchedulerJob:
    word = record["status"]
    state = _STATES.get(word, _S.UNKNOWN)
    code = int(record["returncode"]) if re.fullmatch(r"-?\d+", record["returncode"]) else None
    code = 128 - code if code is not None and code < 0 else code
    if not state.is_over or state is _S.CANCELLED:
        code = None
    why = f"{record['exception.type']} {record['exception.note']}".strip()
    wall_sec = duration_sec(record["duration"])
    return SchedulerJob(
        scheduler_id=record["id.dec"],
        name=record["name"],
        state=state,
        reason=_reason(word, state, record, code, why),
        exit_code=code,
        queue=record["queue"],
        project=record["bank"],
        num_nodes=int(record["nnodes"]) if record["nnodes"].isdigit() else None,
        wall_time_min=int(wall_sec // 60) if wall_sec else None,
        submit_time=_moment(record["t_submit"]),
        start_time=_moment(record["t_run"]),
        end_time=_moment(record["t_cleanup"]) if state.is_over else None,
        node_names=hosts(record["nodelist"]),
    )


def _reason(word: str, state: SchedulerState, record: dict[str, str], code: int | None, why: str) -> str:
    if state is _S.UNKNOWN:
        return f"Flux calls its state {word!r}, which this version does not know"
    if state is _S.QUEUED:
        return record["annotations.sched.reason_pending"] or f"state {word}"
    if state is _S.CANCELLED:
        return why or word
    if state is _S.FAILED:
        said = f"{word}: exit code {code}" if code else word
        return f"{said} ({why})" if why else said
    return "" if word in ("RUN", "RUNNING", "COMPLETED") else word


def _moment(text: str) -> datetime | None:
    """Seconds since the epoch; 0 where it never came to it."""
    at = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0
    return datetime.fromtimestamp(at, UTC) if at else None
