"""Verdicts of hooks: from the state that a hook asks for to the event that takes the Job there.

The service judges with it what the agent reports; the worker that runs a hook uses the same names. A verdict is a wish:
`lifecycle.decide()` has the last word, and the Job's budget of attempts counts there.
"""

from balsam.domain.lifecycle import AWAITED_HOOKS, Hook, JobFacts
from balsam.domain.states import EDGES, Actor, JobEvent, JobState, Lease

# What a hook means that sets no state.
DEFAULT_VERDICTS = {
    Hook.PREPROCESS: JobState.PREPROCESSED,
    Hook.POSTPROCESS: JobState.POSTPROCESSED,
    Hook.HANDLE_ERROR: JobState.FAILED,
    Hook.HANDLE_TIMEOUT: JobState.RESTART_READY,
}
_EVENTS = {
    (edge.source, edge.target): edge.event
    for edge in EDGES.values()
    if edge.lease is Lease.PROCESSING and Actor.SITE in edge.actors
}


class BadVerdict(ValueError):
    """A hook asked for a state to which nothing leads from there; the text names what it may ask for."""


def verdict_event(job: JobFacts, wanted: str) -> JobEvent:
    """The event for the state that a hook asked for; "" means the default of the hook. Raises BadVerdict.

    >>> verdict_event(JobFacts(JobState.RUN_DONE), "RESTART_READY").value
    'restart'
    """
    target = wanted or DEFAULT_VERDICTS[AWAITED_HOOKS[job.state]]
    event = _EVENTS.get((job.state, JobState(target))) if target in set(JobState) else None
    if event is None and target == JobState.JOB_FINISHED and not job.has_stage_out:
        # Nothing is left to be done after POSTPROCESSED: to a hook of Balsam 0.7 the two were one.
        event = _EVENTS.get((job.state, JobState.POSTPROCESSED))
    if event is None:
        allowed = ", ".join(after for before, after in _EVENTS if before is job.state)
        raise BadVerdict(f"{AWAITED_HOOKS[job.state]} set the state {target}; from {job.state} it may be {allowed}")
    return event
