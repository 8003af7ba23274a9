"""Reading results: what the last attempt of a Job returned or raised, and never that of an earlier one.

The service keeps what launchers told and hands it out as it is; envelopes are opened by those who ask for the value.
"""

from balsam.domain.states import JobState
from balsam.server.errors import NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import HotJob, ResultRow
from balsam.server.usecases.explain import why_done
from balsam.server.usecases.scope import access_of, seen_jobs
from balsam.wire.results import JobResult, ResultsPage, ResultsQuery, ResultView

MAX_ANSWER_BYTES = 8 * 1024 * 1024
# In any other state the attempt has not ended, or the Job is to be run again.
_SHOWN = frozenset(
    {
        JobState.RUN_DONE,
        JobState.RUN_ERROR,
        JobState.POSTPROCESSED,
        JobState.STAGED_OUT,
        JobState.JOB_FINISHED,
        JobState.FAILED,
    }
)
_UNSUCCESSFUL = frozenset({JobState.FAILED, JobState.CANCELLED})


def get_result(tx: ReadTx, principal: Principal, job_id: int) -> ResultView:
    job = seen_jobs(tx, access_of(tx, principal), [job_id]).get(job_id)
    if job is None:
        raise NotFound
    return _view(tx, job)[0]


def list_results(tx: ReadTx, principal: Principal, message: ResultsQuery) -> ResultsPage:
    """Results in the order of the ids, up to a size of answer; at least one."""
    jobs = seen_jobs(tx, access_of(tx, principal), message.id)
    views: list[ResultView] = []
    room = MAX_ANSWER_BYTES
    for job_id in dict.fromkeys(message.id):
        if job_id not in jobs:
            continue
        view, size_bytes = _view(tx, jobs[job_id])
        room -= size_bytes
        if room < 0 and views:
            break
        views.append(view)
    return ResultsPage(results=views)


def _view(tx: ReadTx, job: HotJob) -> tuple[ResultView, int]:
    """The result, and how many bytes of it are stored."""
    row = tx.get(ResultRow, job.id) if job.state in _SHOWN else None
    if row is not None and row.attempt != job.attempt:
        row = None
    result = None if row is None else JobResult.model_validate_json(row.content)
    explained = result is not None and result.error is not None
    view = ResultView(
        job_id=job.id,
        state=job.state,
        attempt=job.attempt,
        return_code=job.return_code,
        result=result,
        message=why_done(tx, job) if job.state in _UNSUCCESSFUL and not explained else "",
    )
    return view, 0 if row is None else len(row.content)
