"""States that users ask for by assignment: `job.state = "RESTART_READY"`, as scripts for Balsam write it.

Of all states a user can ask for three; each is a verb of its own (retry, retry from the start, cancel) and passes
`decide()` like it. Called by change_slice.
"""

from collections.abc import Iterator
from datetime import datetime

from balsam.domain.lifecycle import Refused, Request
from balsam.domain.states import Actor, JobEvent, JobState
from balsam.server.store.protocol import Tx
from balsam.server.store.records import micros
from balsam.server.usecases.limits import BadJson, json_text
from balsam.server.usecases.transitions import Transitions
from balsam.wire.jobs import JobPatch

EVENTS = {
    JobState.RESTART_READY: JobEvent.RETRY,
    JobState.READY: JobEvent.RETRY_FROM_START,
    JobState.CANCELLED: JobEvent.CANCEL,
}
OF_STATE = frozenset({"state", "state_data", "state_timestamp"})
POSSIBLE = "RESTART_READY (run it again), READY (run it again from its inputs on) and CANCELLED can be asked for"


def wish_problems(patch: JobPatch) -> Iterator[tuple[str, str]]:
    """(where, what is wrong) with the state that is asked for."""
    if patch.state is not None and patch.state not in EVENTS:
        yield "state", f"a Job can't be set to {patch.state}: {POSSIBLE}"
    if patch.state is None and (patch.state_data is not None or patch.state_timestamp is not None):
        yield "state_data", "it goes with a state; say which one is asked for"
    try:
        json_text(patch.state_data or {}, "state_data")
    except BadJson as error:
        yield "state_data", str(error)


def fulfil(tx: Tx, wishes: dict[int, JobPatch], now: datetime) -> dict[int, str]:
    """Take the transitions that are asked for. Returns why some Jobs can't; a Job that is there already can."""
    wishes = {job_id: patch for job_id, patch in wishes.items() if patch.state is not None}
    if not wishes:
        return {}
    steps = Transitions(tx, now)
    steps.load(wishes)
    retried = [job_id for job_id, patch in wishes.items() if patch.state is not JobState.CANCELLED]
    unfinished = tx.unfinished_parents(retried) if retried else {}
    refused: dict[int, str] = {}
    for job_id, patch in wishes.items():
        state = steps.facts(job_id).state
        if patch.state is None or patch.state is state:
            continue
        if unfinished.get(job_id):
            refused[job_id] = f"{unfinished[job_id]} of its parents have not finished; retry those first"
            continue
        try:
            reported_at = None if patch.state_timestamp is None else micros(patch.state_timestamp)
            request = Request(EVENTS[patch.state], Actor.USER)
            steps.take(job_id, request, reported_at=reported_at, data=patch.state_data)
        except Refused:
            refused[job_id] = f"it is {state} and can't become {patch.state}"
    steps.flush()
    return refused
