"""Verdicts: which state a hook may ask for, by every name, and what it means that it asks for none."""

import pytest

from balsam.domain.lifecycle import AWAITED_HOOKS, Hook, JobFacts, Request, decide
from balsam.domain.states import Actor, JobState
from balsam.domain.verdict import DEFAULT_VERDICTS, BadVerdict, verdict_event

S = JobState
ALLOWED = {
    S.STAGED_IN: {S.PREPROCESSED, S.FAILED},
    S.RUN_DONE: {S.POSTPROCESSED, S.RESTART_READY, S.FAILED, S.JOB_FINISHED},
    S.RUN_ERROR: {S.RESTART_READY, S.FAILED},
    S.RUN_TIMEOUT: {S.RESTART_READY, S.FAILED},
}


def waiting(state: JobState) -> JobFacts:
    return JobFacts(state, token=1, session_id=2, hooks=frozenset(Hook))


@pytest.mark.parametrize("state", AWAITED_HOOKS)
@pytest.mark.parametrize("wanted", [*JobState, "", "DONE", "postprocessed"])
def test_every_wish(state: JobState, wanted: str) -> None:
    """The Job goes where the hook said, or the refusal names where it could have gone."""
    job = waiting(state)
    if wanted and wanted not in ALLOWED[state]:
        with pytest.raises(BadVerdict, match=f"{AWAITED_HOOKS[state]} set the state {wanted}.* FAILED"):
            verdict_event(job, wanted)
        return
    decision = decide(job, Request(verdict_event(job, wanted), Actor.SITE, token=1, session_id=2))
    finished = {S.POSTPROCESSED: S.JOB_FINISHED}  # nothing is staged out
    expected = JobState(wanted or DEFAULT_VERDICTS[AWAITED_HOOKS[state]])
    assert decision.after.state is finished.get(expected, expected)


def test_a_job_whose_output_is_to_be_staged_out_is_not_finished_by_a_hook() -> None:
    job = waiting(S.RUN_DONE)._replace(has_stage_out=True)
    with pytest.raises(BadVerdict):
        verdict_event(job, "JOB_FINISHED")


def test_the_defaults_are_the_documented_ones() -> None:
    assert {str(hook): str(state) for hook, state in DEFAULT_VERDICTS.items()} == {
        "preprocess": "PREPROCESSED",
        "postprocess": "POSTPROCESSED",
        "handle_error": "FAILED",
        "handle_timeout": "RESTART_READY",
    }
