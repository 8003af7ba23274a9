"""BalsamTask: one Job of the service in the clothes of a libEnsemble Task.

Made by `BalsamExecutor.submit`; user functions poll, wait for, read and kill it. It holds no connection: `process` is
the SDK's Job, whose newest state the SDK keeps up to date by push, so polling in a tight loop sends no request each
time. A task is finished when its Job is (JOB_FINISHED, FAILED, CANCELLED): a site may still restart what went wrong.
"""

import logging
import time
from datetime import UTC, datetime
from typing import Any

from libensemble.executors.executor import Application, ExecutorException, Task, TimeoutExpired, jassert

logger = logging.getLogger(__name__)

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

    runtime: float
    total_time: float | None

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
        self._submitted_at: float | None = None  # monotonic: the client's clock may be set while a task runs
        self._seen_running: tuple[object, float] | None = None  # (start of the attempt, monotonic)

    def poll(self) -> None:
        """Polls and updates the status attributes of the supplied task. Requests Job information from Balsam service.

        Uses what the service pushed last; cheap enough for a tight loop. Raises ExecutorException when the task was
        never submitted or its Job is in a state that this version does not know.
        """
        if self._is_settled():
            return
        self.process.poll_state()
        self._observe()

    def wait(self, timeout: float | None = None) -> None:
        """Waits on completion of the task or raises ``TimeoutExpired``.

        Status attributes of task are updated on completion. ``timeout`` is in seconds; None waits until completion. The
        task is not killed on timeout. Ends in time also while the service can't be reached.
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

        ``wait_time`` bounds that wait, in seconds; None does not wait. The site sends SIGTERM, then SIGKILL. A task
        that ended by itself before the kill reached it keeps its own end state.
        """
        if self.dry_run:
            return
        jassert(self.process is not None, f"task {self.name} has no Job - check that it has been submitted")
        if self.finished:
            logger.warning(f"Trying to kill task that is no longer running. Task {self.name}: Status is {self.state}")
            return
        logger.info(f"Killing task {self.name}")
        self.process.cancel()
        if wait_time is not None:
            self.process.wait(timeout=wait_time)
        if str(self.process.state) in FINAL:
            self._set_complete()
            return
        if wait_time is not None:
            logger.warning(
                f"Task {self.name}: its kill is recorded, but was not confirmed within {wait_time} seconds; "
                "the site obeys as soon as it can be reached"
            )
        self._end_as("USER_KILLED")

    def cancel(self) -> None:
        """Asks for a kill and returns at once, without waiting for the processes to be gone."""
        self.kill(wait_time=None)

    def workdir_exists(self) -> bool:
        """Returns true if the task's work directory exists at the site."""
        return self.process is not None and bool(self.process.workdir_exists())

    def file_exists_in_workdir(self, filename: str) -> bool:
        """Returns true if the named file exists in the task's work directory at the site."""
        return self.process is not None and bool(self.process.file_exists(filename))

    def read_file_in_workdir(self, filename: str) -> str:
        """The text of the named file in the task's work directory at the site, also while the task runs.

        Raises ValueError when there is no such file.
        """
        jassert(self.process is not None, f"task {self.name} has no Job - check that it has been submitted")
        try:
            return str(self.process.read_text(filename))
        except FileNotFoundError as error:
            raise ValueError(f"{filename} not found in working directory {self.workdir}") from error

    def calc_task_timing(self) -> None:
        """Calculate ``runtime`` (seconds in the last attempt) and ``total_time`` (seconds since submission)."""
        self.runtime = self._runtime()
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

    def _is_settled(self) -> bool:
        if self.dry_run:
            self._set_complete()
            return True
        return not self._check_poll()

    def _wait_for_end(self, deadline: float | None) -> bool:
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        self.process.wait(timeout=remaining)
        self._observe()
        return bool(self.finished)

    def _observe(self) -> None:
        """Take over the Job's state as it is known now."""
        job_state = str(self.process.state)
        if job_state not in LIBE_STATE:
            raise ExecutorException(f"Job of task {self.name} is in state {job_state}, not a known Balsam state")
        if job_state in FINAL:
            self._set_complete()
            return
        self.state = LIBE_STATE[job_state]
        if self.state == "RUNNING":
            self.runtime = self._runtime()

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
        logger.info(f"Task {self.name} ended with state {state}, errcode {self.errcode}")

    def _runtime(self) -> float:
        """Seconds between the service's start and end times; for a running task, seconds until now.

        The client's clock may be wrong by days, so its "now" counts only between two bounds that do not depend on it:
        the time since this task was first seen running, and the time since it was submitted.
        """
        started, ended = _aware(self.process.started_at), _aware(self.process.ended_at)
        if started is None:
            return 0.0
        if ended is not None and ended >= started:
            return (ended - started).total_seconds()
        now = time.monotonic()
        if self._seen_running is None or self._seen_running[0] != started:
            self._seen_running = (started, now)
        shortest = now - self._seen_running[1]
        longest = now - self._submitted_at if self._submitted_at is not None else shortest
        return min(max((datetime.now(UTC) - started).total_seconds(), shortest), longest)


def _aware(moment: object) -> datetime | None:
    """A time as aware UTC; naive ones are UTC already, and what is no time at all counts as not known."""
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
