"""Removing Jobs with their history."""

from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.domain.states import DONE_STATES, JobState
from balsam.server.store.protocol import Tx
from balsam.server.store.records import HotJob


def delete_jobs(tx: Tx, job_ids: list[int]) -> tuple[int, dict[int, str]]:
    """Remove these Jobs, which the caller was found to own. Returns how many were removed, and why others were not."""
    jobs = tx.hot_jobs(job_ids)
    refused = {job.id: why for job in jobs.values() if (why := _held(job))}
    links = tx.children(jobs)
    waiting = {child.id for child in tx.hot_jobs({child for _, child in links}).values() if _waits(child)}
    kept = True
    while kept:
        # A child that stays keeps its parent, and that one's own parents in turn.
        kept = False
        for parent, child in links:
            stays = child not in jobs or child in refused
            if parent not in refused and child in waiting and stays:
                refused[parent] = f"Job {child} waits for it; cancel or delete that one first"
                kept = True
    gone = [job_id for job_id in jobs if job_id not in refused]
    tx.delete_jobs(gone)
    return len(gone), refused


def _held(job: HotJob) -> str:
    if job.state is JobState.RUNNING:
        return "it is RUNNING; cancel it first"
    if job.session_id is None:
        return ""
    if job.state in AWAITED_HOOKS:
        return f"its hook {AWAITED_HOOKS[job.state]} runs; cancel it first"
    if job.state in DONE_STATES:
        return "it was cancelled, and what held it has not let it go yet; try again in a moment"
    return "a launcher holds it; cancel it first"


def _waits(job: HotJob) -> bool:
    return job.state is JobState.AWAITING_PARENTS
