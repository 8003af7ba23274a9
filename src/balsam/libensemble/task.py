"""BalsamTask: one Job of the service in the clothes of a libEnsemble Task.

Made by `BalsamExecutor.submit`; user functions poll, wait for, read and kill it. It holds no connection: `process` is
the SDK's Job, whose newest state the SDK keeps up to date by push, so polling in a tight loop sends no request each
time. A task is finished when its Job is (JOB_FINISHED, FAILED, CANCELLED), as a site may still restart what went wrong,
and when what it sends to `client:` is here.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from libensemble.executors.executor import (
    NOT_STARTED_STATES,
    Application,
    ExecutorException,
    Task,
    TimeoutExpired,
    jassert,
)

from balsam.api import BalsamError, ServiceUnavailable, SiteOffline, TransferFailed
from balsam.libensemble.definition import packed_application, unpacked_application
from balsam.libensemble.log import MANAGER_WARNING, logger
from balsam.libensemble.waiting import WaitingNotice

SITE_PATIENCE_SEC = 60.0
CANCEL_PATIENCE_SEC = 1.0
LONGEST_SLEEP_SEC = 10.0  # below what Job.wait bears before it says itself, in another log, why a Job does not start
JOB_OUTPUT = "job.out"  # stdout and stderr of a Job, as they came

LIBE_STATE = {
    "CREATED": "WAITING",
    "AWAITING_PARENTS": "WAITING",
    "READY": "WAITING",
    "STAGED_IN": "WAITING",
    "PREPROCESSED": "WAITING",
    "RESTART_READY": "WAITING",
    "RUN_TIMEOUT": "WAITING",  # restarted by default, in the next allocation if need be
    "RUNNING": "RUNNING",
    "RUN_ERROR": "RUNNING",  # the App's error handling decides at the site
    "RUN_DONE": "RUNNING",  # post-processing and transfers are still to come
    "POSTPROCESSED": "RUNNING",
    "STAGED_OUT": "RUNNING",
    "JOB_FINISHED": "FINISHED",
    "FAILED": "FAILED",
    "CANCELLED": "USER_KILLED",
}
FINAL = frozenset({"JOB_FINISHED", "FAILED", "CANCELLED"})

_notice = WaitingNotice([state for state, shown in LIBE_STATE.items() if shown == "WAITING"])


class BalsamTask(Task):
    """Wraps a Balsam ``Job`` from the Balsam service.

    ``task.process`` is the matching Balsam ``Job``, with every ``Job`` method invocable on it. ``stdout`` and
    ``stderr`` both name ``job.out``, where the site puts the two as one stream. Files are read in the Job's work
    directory at the site, also while it runs.

    >>> task = exctr.submit(app_name="hello", app_args={"my_name": "World"})  # doctest: +SKIP
    >>> task.wait(timeout=60)  # doctest: +SKIP
    >>> task.state, task.errcode, task.read_stdout()  # doctest: +SKIP
    ('FINISHED', 0, 'Hello, World')
    """

    total_time: float | None
    _runtime: float | None  # once it is known for good

    def __init__(
        self,
        app: Application | None = None,
        app_args: dict[str, Any] | None = None,
        workdir: str | None = None,
        stdout: str | None = None,
        stderr: str | None = None,
        workerid: int | None = None,
    ) -> None:
        """Instantiate a new ``BalsamTask`` instance; normally done by the executor on a submission."""
        super().__init__(app, app_args, workdir, stdout or JOB_OUTPUT, stderr or JOB_OUTPUT, workerid)

    def reset(self) -> None:
        """Set the status attributes to those of a task that was not submitted."""
        super().reset()
        # Monotonic: the client's clock may be wrong, and set while a task runs.
        self._submitted_at: float | None = None
        self._running_since: float | None = None
        self._running_start: datetime | None = None  # of the attempt that _running_since is about

    def __repr__(self) -> str:
        job = "not submitted" if self.process is None else f"Job {self.process.id}"
        return f"<BalsamTask {self.name}: {self.state}, {job}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "app": packed_application(self.app)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, app=unpacked_application(state["app"]))

    @property
    def runtime(self) -> float:
        """Seconds in the last attempt: until now while it runs, from start to end afterwards.

        Start and end are by the clock of the machine that ran it, as its launcher reported them. Looked up when it is
        asked for, so that nobody waits for it who does not want it.
        """
        if self._runtime is None:
            runtime = self._known_runtime()
            if not self.finished or not runtime:
                return runtime
            self._runtime = runtime
        return self._runtime

    @runtime.setter
    def runtime(self, seconds: float) -> None:
        self._runtime = seconds or None

    def poll(self) -> None:
        """Polls and updates the status attributes of the supplied task. Requests Job information from Balsam service.

        Uses what the service pushed last; cheap enough for a tight loop. Raises ExecutorException when the task was
        never submitted or its Job is in a state that this version does not know.
        """
        if self._is_settled():
            return
        self.process.poll_state()
        self._observe()
        self._notice_waiting()

    def wait(self, timeout: float | None = None) -> None:
        """Waits on completion of the task or raises ``TimeoutExpired``.

        Status attributes of task are updated on completion. ``timeout`` is in seconds; None waits until completion. The
        task is not killed on timeout. Ends in time also while the service can't be reached. A task that does not start
        is logged with the reason.
        """
        if self._is_settled():
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._wait_for_end(deadline):
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutExpired(self.name, timeout)
            time.sleep(0.02)

    def kill(self, wait_time: float | None = 60) -> None:
        """Cancels the task, running or not, and waits until its processes are seen gone.

        ``wait_time`` bounds the whole call, in seconds; None does not wait. The site sends SIGTERM, then SIGKILL. A
        task that ended well before the kill reached it is FINISHED all the same. When the service can't be reached in
        that time (one second at least), a thread goes on asking it while this process lives.
        """
        if self.dry_run:
            return
        jassert(self.process is not None, f"task {self.name} has no Job - check that it has been submitted")
        if self.finished:
            logger.warning(f"Trying to kill task that is no longer running. Task {self.name}: Status is {self.state}")
            return
        logger.info(f"Killing task {self.name}")
        begin = time.monotonic()
        recorded = self._ask_for_end(max(CANCEL_PATIENCE_SEC, wait_time or 0.0))
        if recorded and wait_time is not None:
            self._wait_until_gone(max(0.0, begin + wait_time - time.monotonic()))
        if str(self.process.state) in FINAL:
            self._set_complete()
            return
        if recorded and wait_time is not None:
            logger.warning(
                f"Task {self.name}: its kill is recorded, but was not confirmed within {wait_time} seconds; "
                "the site obeys as soon as it can be reached"
            )
        self._end_as("USER_KILLED")

    def cancel(self) -> None:
        """Asks for a kill without waiting for the processes to be gone; takes a second at most, see ``kill``."""
        self.kill(wait_time=None)

    def workdir_exists(self) -> bool:
        """Returns true if the task's work directory exists at the site."""
        return self.process is not None and bool(self._at_site(self.process.workdir_exists))

    def file_exists_in_workdir(self, filename: str) -> bool:
        """Returns true if the named file exists in the task's work directory at the site."""
        return self.process is not None and bool(self._at_site(self.process.file_exists, filename))

    def read_file_in_workdir(self, filename: str) -> str:
        """The text of the named file in the task's work directory at the site, also while the task runs.

        Raises ValueError when there is no such file.
        """
        jassert(self.process is not None, f"task {self.name} has no Job - check that it has been submitted")
        try:
            return str(self._at_site(self.process.read_text, filename))
        except FileNotFoundError as error:
            raise ValueError(f"{filename} not found in working directory {self.workdir}") from error

    def calc_task_timing(self) -> None:
        """Calculate ``total_time``, the seconds from submission until polled as finished."""
        if self._submitted_at is None:
            logger.warning("Cannot calc task total_time - submit time not set")
        elif self.total_time is None:
            self.total_time = time.monotonic() - self._submitted_at
            if self.timer.timing:
                self.timer.stop()

    def mark_submitted(self, process: Any) -> None:
        """Take the saved Job and start the clocks; called once by the executor."""
        self.process = process
        self.timer.start()
        self.submit_time = self.timer.tstart
        self._submitted_at = time.monotonic()

    def _ask_for_end(self, patience_sec: float) -> bool:
        """Whether the service recorded the wish to end the Job. If not, a thread goes on bringing it there."""
        try:
            self.process.cancel(deadline_sec=patience_sec)
        except ServiceUnavailable as error:
            logger.log(
                MANAGER_WARNING,
                f"Task {self.name}: its kill did not reach the service within {patience_sec:g} seconds ({error}); "
                "this goes on trying in the background while the process lives",
            )
            name = f"balsam-kill-{self.name}"
            threading.Thread(target=_cancel_late, args=(self.process, self.name), name=name, daemon=True).start()
            return False
        return True

    def _wait_until_gone(self, timeout: float) -> None:
        try:
            self.process.wait(timeout=timeout)
        except TransferFailed as error:  # it ended by itself before; who kills a task does not wait for its results
            logger.warning(f"Task {self.name}: {error}")

    def _is_settled(self) -> bool:
        if self.dry_run:
            self._set_complete()
            return True
        return not self._check_poll()

    def _wait_for_end(self, deadline: float | None) -> bool:
        patience = min(self._notice_waiting(), LONGEST_SLEEP_SEC)
        if deadline is not None:
            patience = min(patience, max(0.0, deadline - time.monotonic()))
        try:
            self.process.wait(timeout=patience)
        except TransferFailed as error:
            self._set_complete()
            raise ExecutorException(f"task {self.name}: {error}") from error
        self._observe()
        return bool(self.finished)

    def _observe(self) -> None:
        """Take over the Job's state as it is known now."""
        job_state = str(self.process.state)
        if job_state not in LIBE_STATE:
            raise ExecutorException(f"Job of task {self.name} is in state {job_state}, not a known Balsam state")
        if job_state in FINAL and self._is_home():
            self._set_complete()
            return
        if job_state == "RUNNING" and self._running_since is None:
            self._running_since = time.monotonic()
        elif LIBE_STATE[job_state] == "WAITING":
            self._running_since = None
        self.state = "RUNNING" if job_state in FINAL else LIBE_STATE[job_state]

    def _notice_waiting(self) -> float:
        """See to it that who waits learns why, if this has not started; the seconds until that is due again."""
        if self._submitted_at is None or self.finished or LIBE_STATE.get(str(self.process.state)) != "WAITING":
            return LONGEST_SLEEP_SEC
        return _notice.look(self.name, self.process, time.monotonic() - self._submitted_at)

    def _is_home(self) -> bool:
        """Whether what the Job sends to this machine is here; what can't be put in place ends the task, too."""
        try:
            return bool(self.process.arrived())
        except TransferFailed as error:
            self._set_complete()
            raise ExecutorException(f"task {self.name}: {error}") from error

    def _set_complete(self) -> None:
        """Set task as complete."""
        if self.dry_run:
            self.finished = self.success = True
            self.state = "FINISHED"
            return
        self.errcode = self.process.return_code
        self._end_as(LIBE_STATE[str(self.process.state)])

    def _end_as(self, state: str) -> None:
        self.finished = True
        self.state = state
        self.success = state == "FINISHED"
        self.calc_task_timing()
        if state == "FAILED":
            job = self.process.id
            logger.warning(
                f"Task {self.name} ended with state FAILED, errcode {self.errcode}; `balsam job explain {job}` says why"
            )
        else:
            logger.info(f"Task {self.name} ended with state {state}, errcode {self.errcode}")

    def _known_runtime(self) -> float:
        """For a running task "now" is by the client's clock, which may be wrong by days.

        It counts only between two bounds that do not depend on it: the time since this attempt was first seen running,
        and the time since the task was submitted.
        """
        if self.process is None or self.state in NOT_STARTED_STATES:
            return 0.0
        started, ended = _aware(self.process.started_at), _aware(self.process.ended_at)
        if started is None:
            return 0.0
        if self.finished:
            return max(0.0, (ended - started).total_seconds()) if ended is not None else 0.0
        now = time.monotonic()
        if self._running_since is None or self._running_start not in (None, started):
            self._running_since = now
        self._running_start = started
        longest = now - self._submitted_at if self._submitted_at is not None else 0.0
        return min(max((datetime.now(UTC) - started).total_seconds(), now - self._running_since), longest)

    def _at_site(self, look: Callable[..., Any], *names: str) -> Any:
        """What `look` finds in the workdir; an agent that is away for a moment (restarted, say) is waited for."""
        deadline = time.monotonic() + SITE_PATIENCE_SEC
        told = False
        while True:
            try:
                return look(*names)
            except SiteOffline as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    logger.warning(f"Task {self.name}: {error}; trying again for {SITE_PATIENCE_SEC:.0f} seconds")
                told = True
                time.sleep(0.5)


def _cancel_late(job: Any, task_name: str) -> None:
    """Bring a kill to the service once that is back; in a thread of its own."""
    try:
        job.cancel()
    except BalsamError as error:
        logger.error(f"Task {task_name}: its kill never reached the service, it may run on: {error}")
    else:
        logger.info(f"Task {task_name}: its kill has reached the service")


def _aware(moment: object) -> datetime | None:
    """A time as aware UTC; naive ones are UTC already, and what is no time at all counts as not known."""
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
