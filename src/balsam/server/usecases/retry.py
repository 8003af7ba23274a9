"""Letting FAILED and CANCELLED Jobs run again: the only way out of these states (S8)."""

from datetime import datetime

from balsam.domain.lifecycle import Refused, Request
from balsam.domain.states import Actor, JobEvent
from balsam.server.store.protocol import Tx
from balsam.server.usecases.transitions import Transitions


def retry_jobs(tx: Tx, job_ids: list[int], now: datetime) -> tuple[int, dict[int, str]]:
    """Retry these Jobs, which the caller was found to own. Returns how many changed, and why others did not."""
    steps = Transitions(tx, now)
    steps.load(job_ids)
    unfinished = tx.unfinished_parents(job_ids)
    refused: dict[int, str] = {}
    changed = 0
    for job_id in steps.present(job_ids):
        if unfinished.get(job_id):
            refused[job_id] = f"{unfinished[job_id]} of its parents have not finished; retry those first"
            continue
        try:
            changed += steps.take(job_id, Request(JobEvent.RETRY, Actor.USER)) is not None
        except Refused:
            refused[job_id] = f"it is {steps.facts(job_id).state}; only FAILED and CANCELLED Jobs are retried"
    steps.flush()
    return changed, refused
