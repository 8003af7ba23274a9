"""Results of Jobs: what `run()` returned or raised, at the caller as if it had been called here."""

from typing import TYPE_CHECKING, Any, ClassVar

from balsam.client.encoding import decode
from balsam.client.errors import JobCancelled, JobFailed, NoResult, NotFound, RemoteError, RemoteTraceback
from balsam.client.pickling import NotOpened
from balsam.domain.envelope import BadEnvelope
from balsam.domain.states import JobState

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.client.errors import DoesNotExist
    from balsam.wire.results import ResultView, RunError

_RETURNED = frozenset({JobState.RUN_DONE, JobState.POSTPROCESSED, JobState.STAGED_OUT, JobState.JOB_FINISHED})


class JobResults:
    """The part of `Job` that has its result."""

    NoResult: ClassVar[type[NoResult]] = NoResult

    if TYPE_CHECKING:
        DoesNotExist: ClassVar[type[DoesNotExist]]

        @classmethod
        def _client(cls) -> Client: ...
        def _saved_id(self) -> int: ...
        def wait(self, timeout: float | None = None) -> bool: ...
        def _check_arrived(self) -> None: ...
        def _what_is_late(self) -> str: ...

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end of the Job and return what `run()` returned; None for a command that ended well.

        What `run()` raised is raised here, with the Site's traceback as its cause; RemoteError stands for an exception
        that can't be made here. A Job that failed otherwise raises JobFailed, a cancelled one JobCancelled. Raises
        TimeoutError when the Job is not done, or its files are not here, after `timeout` seconds, and TransferFailed
        when a file can't be put where it belongs.

        Values that are no JSON come in an envelope, which is opened here: that runs code of the App's author.

        >>> Hello.submit("hello/result", name="you").result(timeout=60)
        """
        if not self.wait(timeout):
            raise TimeoutError(f"Job {self._saved_id()} is not done after {timeout:g} s: it {self._what_is_late()}")
        return self.result_nowait()

    def result_nowait(self) -> Any:
        """Like `result`, without waiting. Raises `Job.NoResult` when the last attempt has not ended.

        >>> job.result_nowait() is None
        True
        """
        from balsam.wire.results import ResultView

        self._check_arrived()
        try:
            view = self._client().transport.request("GET", f"/jobs/{self._saved_id()}/result", reply=ResultView)
        except NotFound as error:
            raise self.DoesNotExist(f"Job {self._saved_id()} does not exist (any more)", code=error.code) from None
        return outcome_of(view)


def outcome_of(view: "ResultView") -> Any:
    """The value. Raises what `run()` raised, JobFailed, JobCancelled, NoResult."""
    told = view.result
    if view.state is JobState.CANCELLED:
        raise JobCancelled(_said(view, "was cancelled"), job_id=view.job_id, state=view.state)
    if told is not None and told.error is not None:
        raise _exception(view.job_id, told.error) from RemoteTraceback(told.error.traceback)
    if view.state is JobState.FAILED:
        code = view.return_code
        how = f"failed with return code {code}" if code else "failed"  # 0: what came after the run failed
        raise JobFailed(_said(view, how), job_id=view.job_id, state=view.state, return_code=code)
    if view.state not in _RETURNED:
        raise NoResult(f"Job {view.job_id} has no result yet: it is {view.state}")
    return None if told is None else decode(told.value)


def _said(view: "ResultView", how: str) -> str:
    text = f"Job {view.job_id} {how}"
    return f"{text}:\n{view.message}" if view.message else text


def _exception(job_id: int, told: "RunError") -> Exception:
    """The exception that was raised at the Site, or one that stands for it."""
    why = "it can't be pickled, or is too large"
    if told.exception is not None:
        try:
            found = decode(told.exception)
        except (NotOpened, BadEnvelope) as error:
            why = str(error)
        else:
            if isinstance(found, Exception):
                return found
            why = f"it is a {type(found).__name__}, which would end this program as well"
    text = f"{told.type}: {told.message}\n(raised by Job {job_id}; that exception itself can't be had here: {why})"
    return RemoteError(text, remote_type=told.type, remote_message=told.message, remote_traceback=told.traceback)
