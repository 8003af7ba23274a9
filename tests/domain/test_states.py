"""The edge table itself: it is small enough to be written down a second time, as the reference pages have it."""

import pytest

from balsam.domain.lifecycle import Refusal, Refused, decide_batch_job
from balsam.domain.states import (
    BATCH_JOB_ENDED,
    BATCH_JOB_LISTED,
    BATCH_JOB_MOVES,
    DONE_STATES,
    EDGES,
    LEGAL_MOVES,
    RUNNABLE_STATES,
    Actor,
    BatchJobState,
    JobEvent,
    JobState,
    Lease,
)

MOVES = {
    "CREATED": "AWAITING_PARENTS READY",
    "AWAITING_PARENTS": "READY FAILED CANCELLED",
    "READY": "STAGED_IN FAILED CANCELLED",
    "STAGED_IN": "PREPROCESSED FAILED CANCELLED",
    "PREPROCESSED": "RUNNING CANCELLED",
    "RUNNING": "RUNNING RUN_DONE RUN_ERROR RUN_TIMEOUT CANCELLED",
    "RUN_DONE": "POSTPROCESSED RESTART_READY FAILED CANCELLED",
    "RUN_ERROR": "RESTART_READY FAILED CANCELLED",
    "RUN_TIMEOUT": "RUN_DONE RUN_ERROR RESTART_READY FAILED CANCELLED",
    "RESTART_READY": "RUNNING RUN_DONE RUN_ERROR CANCELLED",
    "POSTPROCESSED": "STAGED_OUT JOB_FINISHED FAILED CANCELLED",
    "STAGED_OUT": "JOB_FINISHED CANCELLED",
    "JOB_FINISHED": "",
    "FAILED": "RESTART_READY READY",
    "CANCELLED": "RESTART_READY READY",
}


def test_the_moves_are_those_of_the_design() -> None:
    expected = {(JobState(source), JobState(target)) for source, row in MOVES.items() for target in row.split()}
    assert expected == LEGAL_MOVES
    assert set(MOVES) == set(JobState)


def test_s8_nothing_leaves_a_finished_job() -> None:
    assert not [edge for edge in EDGES.values() if edge.source is JobState.JOB_FINISHED]


def test_s8_failed_and_cancelled_are_left_by_the_user_only() -> None:
    leaving = [edge for edge in EDGES.values() if edge.source in DONE_STATES]
    assert {edge.actors for edge in leaving} == {frozenset({Actor.USER})}
    assert {edge.event for edge in leaving} == {JobEvent.RETRY, JobEvent.RETRY_FROM_START}


def test_only_a_note_leads_back_to_its_state() -> None:
    (note,) = [edge for edge in EDGES.values() if edge.source is edge.target]
    assert (note.event, note.source, note.lease) == (JobEvent.NOTED, JobState.RUNNING, Lease.RUN)


def test_only_launchers_start_and_only_from_runnable_states() -> None:
    starting = [edge for edge in EDGES.values() if edge.target is JobState.RUNNING is not edge.source]
    assert {edge.source for edge in starting} == RUNNABLE_STATES
    assert {edge.actors for edge in starting} == {frozenset({Actor.LAUNCHER})}
    assert {edge.lease for edge in starting} == {Lease.RUN}


def test_s6_nobody_leaves_running_without_a_lease_but_its_end() -> None:
    free = {edge.event for edge in EDGES.values() if edge.source is JobState.RUNNING and edge.lease is Lease.NONE}
    assert free == {JobEvent.LEASE_ENDED}


def test_users_cancel_everything_but_what_runs_or_is_done() -> None:
    cancelled = {edge.source for edge in EDGES.values() if edge.event is JobEvent.CANCEL}
    assert cancelled == set(JobState) - DONE_STATES - {JobState.CREATED, JobState.RUNNING}


@pytest.mark.parametrize("source", BatchJobState)
@pytest.mark.parametrize("target", BatchJobState)
def test_every_batch_job_move(source: BatchJobState, target: BatchJobState) -> None:
    sticky = source is BatchJobState.PENDING_DELETION and target in BATCH_JOB_LISTED
    if source is target or sticky:
        assert decide_batch_job(source, target) is False
    elif (source, target) in BATCH_JOB_MOVES:
        assert decide_batch_job(source, target) is True
    else:
        with pytest.raises(Refused, match=f"{source} can't become {target}") as refusal:
            decide_batch_job(source, target)
        assert refusal.value.reason is Refusal.ILLEGAL


def test_ended_batch_jobs_stay_ended() -> None:
    assert not [move for move in BATCH_JOB_MOVES if move[0] in BATCH_JOB_ENDED]
    assert {target for source, target in BATCH_JOB_MOVES if source is BatchJobState.PENDING_DELETION} == {
        BatchJobState.FINISHED
    }


def test_scripts_of_balsam_0_7_ask_whether_a_text_is_a_state() -> None:
    assert JobState.is_valid("RUNNING") and not JobState.is_valid("running") and not JobState.is_valid("")
