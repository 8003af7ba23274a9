"""Lines of `squeue` and `sacct`, understood: one `SchedulerJob` for each.

Pure; used by the Slurm adapter. Both commands are asked for the same facts in the same order, cut at a character that
no name can have. A line that is none (a name with a line break in it makes two) is skipped: its allocation then counts
as not listed, which is no evidence of anything (S12).
"""

import os
import pwd
from collections.abc import Collection, Iterator
from contextlib import suppress

from balsam.platform.scheduler.base import SchedulerJob, SchedulerState
from balsam.platform.scheduler.slurm_words import count, hosts, is_hopeless, minutes, moment, state_of, told, was_taken

FIELD = "\x1f"
# What we call a fact -> what squeue and sacct call it.
FACTS = {
    "id": ("JobID", "JobIDRaw"),
    "state": ("State", "State"),
    "name": ("Name", "JobName"),
    "partition": ("Partition", "Partition"),
    "qos": ("QOS", "QOS"),
    "account": ("Account", "Account"),
    "nodes": ("NumNodes", "NNodes"),
    "limit": ("TimeLimit", "TimelimitRaw"),
    "submit": ("SubmitTime", "Submit"),
    "start": ("StartTime", "Start"),
    "end": ("EndTime", "End"),
    "hosts": ("NodeList", "NodeList"),
    "exit": ("exit_code", "ExitCode"),
    "reason": ("Reason", "Reason"),
}
# Of an allocation that is over nobody needs to know the node of its script, and sacct does not tell.
LISTED = {**{name: squeue for name, (squeue, _) in FACTS.items()}, "script_node": "BatchHost"}

SQUEUE_FORMAT = "--Format=" + ",".join(f"{squeue}:{FIELD}" for squeue in LISTED.values())
SACCT_FORMAT = (
    "--noheader",
    "--parsable2",
    f"--delimiter={FIELD}",
    "--format=" + ",".join(sacct for _, sacct in FACTS.values()),
)


def listed(text: str, queue_is: str) -> Iterator[SchedulerJob]:
    """What `squeue` printed in SQUEUE_FORMAT."""
    for record in _records(text, LISTED, ending=FIELD):
        status = int(record["exit"]) if record["exit"].isdigit() else 0
        code = os.waitstatus_to_exitcode(status)
        yield _job(record, queue_is, code if code >= 0 else 128 - code, minutes(record["limit"]))


def accounted(text: str, queue_is: str) -> Iterator[SchedulerJob]:
    """What `sacct` printed in SACCT_FORMAT."""
    for record in _records(text, FACTS, ending=""):
        code, _, signum = record["exit"].partition(":")
        yield _job(
            record, queue_is, 128 + (count(signum) or 0) if count(signum) else count(code), count(record["limit"])
        )


def _records(text: str, names: Collection[str], ending: str) -> Iterator[dict[str, str]]:
    for line in text.split("\n"):
        fields = line.removesuffix(ending).split(FIELD)
        if len(fields) == len(names) and line.endswith(ending):
            yield dict(zip(names, fields, strict=True))


def _job(record: dict[str, str], queue_is: str, code: int | None, limit_min: int | None) -> SchedulerJob:
    state = state_of(record["state"])
    waits = state is SchedulerState.QUEUED
    nodes = hosts(record["hosts"])  # without any it never started; squeue says a time all the same
    if state is not SchedulerState.FINISHED:
        code = (code or None) if state.is_over else None  # TIMEOUT and NODE_FAIL say 0 as well
    return SchedulerJob(
        scheduler_id=record["id"],
        name=record["name"],
        state=state,
        reason=_reason(record, state, code),
        exit_code=code,
        queue=record[queue_is],
        project=record["account"],
        num_nodes=count(record["nodes"]),
        wall_time_min=limit_min,
        submit_time=moment(record["submit"]),
        start_time=moment(record["start"]) if nodes and not waits else None,
        end_time=moment(record["end"]) if state.is_over else None,
        expected_start=moment(record["start"]) if waits else None,
        node_names=nodes,
        script_node=told(record.get("script_node", "")),
        is_hopeless=waits and is_hopeless(record["reason"]),
        was_taken=was_taken(record["state"]),
    )


def _reason(record: dict[str, str], state: SchedulerState, code: int | None) -> str:
    """Slurm's own words, where they say more than the state."""
    word, reason = record["state"], told(record["reason"])
    if state is SchedulerState.UNKNOWN:
        return f"Slurm calls its state {word!r}, which this version does not know"
    if state is SchedulerState.QUEUED:
        return reason if word == "PENDING" else f"{word} {reason}".strip()
    if state in (SchedulerState.RUNNING, SchedulerState.FINISHED):
        return "" if word in ("RUNNING", "COMPLETED") else word
    if state is SchedulerState.CANCELLED:
        return _with_user_name(word)
    said = f"{word}: exit code {code}" if code else word
    return said if reason in ("", "NonZeroExitCode", "TimeLimit") else f"{said} ({reason})"


def _with_user_name(word: str) -> str:
    """`CANCELLED by 1001` as people know user 1001."""
    what, _, uid = word.partition(" by ")
    if uid.isdigit():
        with suppress(KeyError):
            return f"{what} by {pwd.getpwuid(int(uid)).pw_name}"
    return word
