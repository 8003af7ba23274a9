"""Rows of Jobs and events as the tables take them: the order of the columns is written here and in the schema only."""

from typing import Any

from balsam.domain.failure import Failure
from balsam.domain.lifecycle import Decision, JobFacts
from balsam.server.store.codec import ACTOR_NUMBERS, JOB_COLUMNS, STATE_NUMBERS, dump
from balsam.server.store.records import JobShape, JobUpdate, NewJob, event_id

# Columns of a Job that are the same for every new one, as SQL has them; the others are parameters.
NEW_JOB = {
    "token": "0",
    "attempt": "0",
    "lost_attempts": "0",
    "session_id": "NULL",
    "grant_seq": "0",
    "batch_job_id": "NULL",
    "cancel_requested": "0",
    "return_code": "NULL",
    "started_at": "NULL",
    "ended_at": "NULL",
    "spent_attempts": "0",
}
# Columns in which new Jobs of one shape differ; the rest is written once for all of them.
OWN_COLUMNS = ("id", "workdir", "parameters", "tags", "data", "launch_params", "transfers", "parent_ids")
SHAPE_COLUMNS = tuple(column for column in JOB_COLUMNS if column not in NEW_JOB and column not in OWN_COLUMNS)
EVENT_COLUMNS = (
    *("id", "owner_id", "timestamp", "reported_at", "attempt"),
    *("from_state", "to_state", "actor", "data"),
)
TAG_COLUMNS = ("tag", "job_id")
RUNNABLE_TAG_COLUMNS = (
    *("tag", "site_id", "rank", "job_id", "wall_time_min", "num_nodes", "ranks_per_node"),
    *("node_packing_count", "gpus_per_rank", "submitter_id"),
)


UPDATED_COLUMNS = (
    *("state", "attempt", "session_id", "cancel_requested", "lost_attempts", "was_preprocessed", "event_seq"),
    *("batch_job_id", "return_code", "started_at", "ended_at", "spent_attempts", "failure", "last_update"),
)
# S4: the guard of the Decision is repeated in the update, so that a fault in Python can't write past it. These columns
# are equal, and `session_id` is equal or NULL on both sides.
UPDATE_GUARD = ("id", "state", "token", "event_seq")


def shape_values(shape: JobShape, at: int) -> tuple[Any, ...]:
    """SHAPE_COLUMNS of new Jobs of this shape."""
    facts = shape.decision.after
    return (
        shape.owner_id,
        shape.site_id,
        shape.app_id,
        STATE_NUMBERS[facts.state],
        shape.priority,
        shape.num_nodes,
        shape.ranks_per_node,
        shape.threads_per_rank,
        shape.threads_per_core,
        shape.gpus_per_rank,
        shape.node_packing_count,
        shape.wall_time_min,
        shape.max_attempts,
        shape.steps,
        int(facts.was_preprocessed),
        len(shape.decision.transitions),
        int(shape.pending_file_cleanup),
        at,
        at,
        facts.failure,
        shape.submitter_id,
    )


def own_values(job: NewJob, job_id: int) -> tuple[Any, ...]:
    """OWN_COLUMNS of a new Job."""
    return (
        job_id,
        job.workdir,
        job.parameters,
        dump(job.tags) if job.tags else "{}",
        job.data,
        job.launch_params,
        job.transfers,
        dump(job.parent_ids) if job.parent_ids else "[]",
    )


# What rows and guards have of facts: state, token, attempt, session_id, cancel_requested, lost_attempts,
# was_preprocessed, spent_attempts, failure.
FactColumns = tuple[int, int, int, int | None, int, int, int, int, Failure | None]


def fact_columns(facts: JobFacts) -> FactColumns:
    return (
        STATE_NUMBERS[facts.state],
        facts.token,
        facts.attempt,
        facts.session_id,
        int(facts.cancel_requested),
        facts.lost_attempts,
        int(facts.was_preprocessed),
        facts.spent_attempts,
        facts.failure,
    )


def update_values(update: JobUpdate, old: FactColumns, new: FactColumns, events: int, at: int) -> tuple[Any, ...]:
    """UPDATED_COLUMNS, then UPDATE_GUARD and session_id; of facts that many Jobs share."""
    job = update.job
    state, _, attempt, session_id, cancel_requested, lost_attempts, was_preprocessed, spent_attempts, failure = new
    return (
        state,
        attempt,
        session_id,
        cancel_requested,
        lost_attempts,
        was_preprocessed,
        job.event_seq + events,
        update.batch_job_id,
        update.return_code,
        update.started_at,
        update.ended_at,
        spent_attempts,
        failure,
        at,
        job.id,
        old[0],
        old[1],
        job.event_seq,
        old[3],
    )


# Of a transition: attempt, source, target, actor, and the text of what is said of it.
EventColumns = tuple[int, int, int, int, str]


def append_events(
    events: list[tuple[Any, ...]], update: JobUpdate, at: int, known: dict[int, list[EventColumns]]
) -> None:
    """S5: one row per transition, numbered on from the Job's last.

    `known` is what was worked out for Decisions of the same updates, by their id: many Jobs share one.
    """
    number = event_id(update.job.id, update.job.event_seq)
    owner_id = update.job.owner_id
    for step in update.steps:
        columns = known.get(id(step.decision))
        if columns is None:
            columns = known[id(step.decision)] = _columns(step.decision)
        reported_at, data = step.reported_at, step.data
        for fixed in columns:
            number += 1
            if data:
                fixed = (*fixed[:4], _with_data(step.decision, data))
            events.append((number, owner_id, at, reported_at, *fixed))
            # What was reported belongs to the first transition.
            reported_at, data = None, {}


def event_values(decision: Decision) -> list[tuple[Any, ...]]:
    """Columns of the events of a Decision that nobody reported, from `reported_at` on."""
    return [(None, *fixed) for fixed in _columns(decision)]


def _columns(decision: Decision) -> list[EventColumns]:
    return [
        (
            step.attempt,
            STATE_NUMBERS[step.source],
            STATE_NUMBERS[step.target],
            ACTOR_NUMBERS[step.actor],
            dump(step.said),
        )
        for step in decision.transitions
    ]


def _with_data(decision: Decision, data: dict[str, Any]) -> str:
    return dump({**decision.transitions[0].said, **data})
