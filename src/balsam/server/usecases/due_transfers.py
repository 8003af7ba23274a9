"""Which TransferItems are due after Jobs have moved. Called by `Transitions` with everything it writes.

READY makes the inputs due that are not at the Site yet, POSTPROCESSED all outputs, anew; the end of a Job takes what
was due away from the Site. Jobs without transfers cost nothing here.
"""

from collections.abc import Sequence
from dataclasses import replace

from balsam.domain.states import DONE_STATES, JobState, TransferState
from balsam.domain.transfers import TRANSFER_DUE, TransferDirection
from balsam.server.store.protocol import Tx, Wake
from balsam.server.store.records import STAGE_IN_BIT, STAGE_OUT_BIT, JobUpdate, TransferItemRow

_STAGES = STAGE_IN_BIT | STAGE_OUT_BIT


def follow_jobs(tx: Tx, updates: Sequence[JobUpdate], at: int) -> list[int]:
    """Adjust the items of Jobs that were moved. Returns Jobs in READY whose inputs are all at the Site already."""
    after = {update.job.id: update.after.state for update in updates if update.job.steps & _STAGES}
    if not after:
        return []
    items = tx.find(TransferItemRow, job_id=tuple(after))
    moved = [(item, row) for item in items if (row := _moved(item, after[item.job_id], at)) is not item]
    if let_go := [item.id for item, row in moved if item.holds_content and not row.holds_content]:
        tx.release_blobs(let_go)
    tx.put_all([row for _, row in moved])
    pending = [row for _, row in moved if row.state is TransferState.PENDING]
    for site_id in {row.site_id for row in pending}:
        tx.wake(Wake("site", site_id, "transfers", {}))
    waiting = {row.job_id for row in pending}
    return [
        update.job.id
        for update in updates
        if update.job.steps & STAGE_IN_BIT and after[update.job.id] is JobState.READY and update.job.id not in waiting
    ]


def _moved(row: TransferItemRow, job_state: JobState, at: int) -> TransferItemRow:
    """The item after its Job came into a state; the same object when nothing changes."""
    if job_state is JobState.READY and row.direction is TransferDirection.stage_in:
        if row.state is not TransferState.DONE:
            return replace(row, state=TransferState.PENDING, task_id="", transfer_info={}, last_update=at)
    elif job_state is JobState.POSTPROCESSED and row.direction is TransferDirection.stage_out:
        # What an earlier attempt has sent is not this one's result.
        fresh = replace(row, state=TransferState.PENDING, task_id="", transfer_info={}, last_update=at)
        return replace(fresh, content={}, holds_content=False, collected_at=None)
    elif job_state in DONE_STATES and row.state in TRANSFER_DUE:
        return replace(row, state=TransferState.AWAITING_JOB, last_update=at)
    return row
