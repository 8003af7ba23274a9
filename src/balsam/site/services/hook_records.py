"""What the service is told of a hook: one record for the outbox, whatever came of it.

Pure. The answer of a worker may have been written by the hook's own code, so nothing in it is taken on trust.
"""

import json
from datetime import datetime
from typing import Any

from balsam.domain.failure import Failure
from balsam.domain.states import JobState
from balsam.site.hook_workers import HookEnd, HookOrder
from balsam.wire.sessions import GrantedJob, LaunchEvent

LONGEST_MESSAGE = 8000
LONGEST_VERDICT = 64
Fact = dict[str, Any]


def released(job: GrantedJob | HookOrder, at: str) -> Fact:
    """The Job is handed back: its hook did not run, or not to its end."""
    return _fact(job, LaunchEvent.RELEASED, at)


def concluded(end: HookEnd, at: str) -> Fact:
    """A hook came to its end."""
    order, answer = end.order, end.answer
    if answer.get("is") == "stopped":
        return released(order, at)
    if answer.get("is") != "done":
        return failed(order, order.hook, f"{order.hook}: {answer.get('reason')}", at)
    outcome = answer.get("outcome")
    if outcome is None:
        data = {"traceback": str(answer.get("traceback", ""))}
        return failed(order, order.hook, str(answer.get("message", "")), at, data)
    if not _is_outcome(outcome):
        return failed(order, order.hook, f"{order.hook}: its process told nothing that can be understood", at)
    told = _fact(order, LaunchEvent.HOOK_DONE, outcome.get("at", at))
    data = {"hook": order.hook, **outcome.get("data", {})}
    return {**told, "verdict": outcome["verdict"], "changes": outcome["changes"], "data": data}


def absent(job: GrantedJob, at: str) -> Fact:
    """The App has no such hook any more: what happens is what happens without one."""
    told = _fact(job, LaunchEvent.HOOK_DONE, at)
    return {**told, "message": f"its App has no hook {job.hook} any more", "data": {"hook": job.hook}}


def failed(
    job: GrantedJob | HookOrder, hook: str | None, message: str, at: str, data: dict[str, Any] | None = None
) -> Fact:
    """The hook failed, or could not be run: so does the Job."""
    return {
        **_fact(job, LaunchEvent.HOOK_DONE, at),
        "verdict": JobState.FAILED.value,
        "failure": Failure.HOOK.value,
        "message": message[:LONGEST_MESSAGE],
        "data": {"hook": hook, **(data or {})},
    }


def in_place_of(text: bytes, why: str) -> bytes:
    """Of a record that the service can't read: one that it can, under the same number."""
    told = json.loads(text)
    kept = {name: told[name] for name in ("seq", "job_id", "token", "at")}
    message = f"the service can't take what the hook told: {why}"[:LONGEST_MESSAGE]
    failed_one = {"verdict": JobState.FAILED.value, "failure": Failure.HOOK.value, "message": message}
    return json.dumps({**kept, "event": LaunchEvent.HOOK_DONE.value, **failed_one}).encode()


def _fact(job: GrantedJob | HookOrder, event: LaunchEvent, at: str) -> Fact:
    number = job.job_id if isinstance(job, HookOrder) else job.id
    return {"job_id": number, "token": job.token, "event": event.value, "at": at}


def _is_outcome(outcome: Any) -> bool:
    if not isinstance(outcome, dict):
        return False
    verdict, at = outcome.get("verdict"), outcome.get("at")
    dicts = (outcome.get("changes"), outcome.get("data", {}))
    is_text = isinstance(verdict, str) and len(verdict) <= LONGEST_VERDICT
    return is_text and all(isinstance(value, dict) for value in dicts) and (at is None or _is_time(at))


def _is_time(text: Any) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except (TypeError, ValueError):
        return False
