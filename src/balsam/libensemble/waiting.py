"""Why tasks do not start, told to those who wait for them.

`BalsamTask` reports its looks at a task that has not started. After FIRST_SEC the service is asked why, by a thread, as
nobody's polling may wait for that; the answer is logged by the next look, in the thread of who looks: not every comm of
libEnsemble can send from several threads. One notice serves a process, however many tasks it has.
"""

import logging
import threading
import time
from collections.abc import Collection
from typing import Any

from balsam.api import BalsamError
from balsam.libensemble.log import MANAGER_WARNING, logger

FIRST_SEC = 15.0
LONGEST_PAUSE_SEC = 600.0
FORGET_SEC = 120.0
ANSWER_SEC = 0.5


class Question(threading.Thread):
    """Asks the service why a Job is where it is."""

    def __init__(self, task_name: str, job: Any, waited_sec: float) -> None:
        super().__init__(name=f"balsam-why-{task_name}", daemon=True)
        self.about = f"Task {task_name} (Job {job.id}) waits to run, {waited_sec:.0f} s after it was submitted"
        self.state = ""
        self.summary = ""
        self.reasons: list[str] = []
        self._job = job

    def run(self) -> None:
        try:
            told = self._job.explain()
        except BalsamError:  # an outage is told by the client; and what ails the Job, by poll and wait
            return
        self.state, self.summary, self.reasons = str(told.state), told.summary, list(told.reasons)


class WaitingNotice:
    """`waiting`: the states of Jobs that have not started."""

    def __init__(self, waiting: Collection[str]) -> None:
        self._waiting = waiting
        self._question: Question | None = None
        self._told = ""
        self._due = 0.0
        self._pause = 0.0
        self._looked = 0.0

    def look(self, task_name: str, job: Any, waited_sec: float) -> float:
        """Somebody waits for this task, which has not started; the seconds until a next look makes sense."""
        if self._question is not None:
            if self._question.is_alive():
                return ANSWER_SEC
            self._tell(self._question)
            self._question = None
        now = time.monotonic()
        if now > self._looked + FORGET_SEC:  # nobody waited for some time: this is another wait
            self._pause = 0.0
        self._looked = now
        wait = max(FIRST_SEC - waited_sec, self._due - now)
        if wait > 0:
            return wait
        self._pause = min(max(FIRST_SEC, 2 * self._pause), LONGEST_PAUSE_SEC)
        self._due = now + self._pause
        self._question = Question(task_name, job, waited_sec)
        self._question.start()
        return ANSWER_SEC

    def _tell(self, answered: Question) -> None:
        """Once for each answer; an answer without reasons says that all is as it should be."""
        why = " ".join([answered.summary, *answered.reasons])
        if answered.state in self._waiting and why != self._told:
            logger.log(MANAGER_WARNING if answered.reasons else logging.INFO, f"{answered.about}: {why}")
            self._told = why
