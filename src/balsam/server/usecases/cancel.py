"""Cancelling Jobs.

What does not run is CANCELLED at once; a holder that has not started it yet is told to drop it. For a RUNNING Job the
request is noted and its launcher told; the Job is CANCELLED when the launcher saw the run gone, or its lease ends.
"""

from datetime import datetime

from balsam.domain.lifecycle import Refused, Request
from balsam.domain.states import Actor, JobEvent
from balsam.server.store.protocol import Tx
from balsam.server.usecases.transitions import Transitions


def cancel_jobs(tx: Tx, job_ids: list[int], reason: str, now: datetime) -> tuple[int, dict[int, str]]:
    """Cancel these Jobs, which the caller was found to own. Returns how many changed, and why others did not."""
    steps = Transitions(tx, now)
    steps.load(job_ids)
    refused: dict[int, str] = {}
    changed = 0
    for job_id in steps.present(job_ids):
        try:
            update = steps.take(job_id, Request(JobEvent.CANCEL, Actor.USER, message=reason))
            changed += update is not None
        except Refused:
            refused[job_id] = f"it is {steps.facts(job_id).state} already"
    steps.flush()
    return changed, refused
