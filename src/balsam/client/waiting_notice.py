"""Why Jobs do not go on, told to those who wait for them: a line in the log, once for each reason.

The watcher's poller lets it look every few seconds. One Job at a time is asked about, ever more seldom, whatever their
number. What can be done something about is a warning; what is only a matter of time stands in the log (INFO).
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from balsam.client.errors import BalsamError
from balsam.domain.states import DONE_STATES, JobState

if TYPE_CHECKING:
    from balsam.client.watcher import Watch
    from balsam.wire.jobs import JobExplanation

logger = logging.getLogger("balsam.client")

LOOK_SEC = 5.0
FIRST_SEC = 15.0
LONGEST_PAUSE_SEC = 600.0
WAITING = frozenset(JobState) - DONE_STATES - {JobState.CREATED, JobState.RUNNING}


class Question(NamedTuple):
    """A Job to ask about, how long somebody waits for it, and for how many others that do not run either."""

    job_id: int
    waited_sec: float
    others: int


class WaitingNotice:
    """`ask` explains a Job by its id."""

    def __init__(self, ask: "Callable[[int], JobExplanation]") -> None:
        self._ask = ask
        self._told: set[str] = set()
        self._asked = 0  # the Job that was asked about last
        self._due = -math.inf
        self._pause_sec = 0.0

    def is_due(self) -> bool:
        """Whether there may be a question now."""
        return time.monotonic() >= self._due

    def question(self, watches: "Iterable[Watch]") -> Question | None:
        """About one that has not moved for long enough while somebody waits for it; sends nothing."""
        now = time.monotonic()
        self._due = now + LOOK_SEC
        waiting = [watch for watch in watches if watch.state in WAITING and watch.awaited_since < math.inf]
        late = [watch for watch in waiting if now - max(watch.awaited_since, watch.state_since) >= FIRST_SEC]
        if not waiting:  # this wait is over; who waits after it is told again
            self._told.clear()
            self._pause_sec = 0.0
        if not late:
            return None
        one = min(late, key=self._turn)
        self._asked = one.job_id
        self._pause_sec = min(max(FIRST_SEC, 2 * self._pause_sec), LONGEST_PAUSE_SEC)
        self._due = now + self._pause_sec
        return Question(one.job_id, now - one.awaited_since, len(waiting) - 1)

    def tell(self, question: Question) -> None:
        """Ask it, and log the answer unless it was told before."""
        try:
            answer = self._ask(question.job_id)
        except BalsamError as error:  # an outage is told by the transport, a Job that is gone by who waits for it
            logger.debug("why Job %d waits can't be told: %s", question.job_id, error)
            return
        why = " ".join([answer.summary, *answer.reasons])
        if answer.state not in WAITING or why in self._told:
            return
        self._told.add(why)
        others = f" and for {question.others} more that do not run" if question.others else ""
        logger.log(
            logging.WARNING if answer.reasons else logging.INFO,
            f"Waiting for Job {question.job_id} ({answer.state}){others} since {question.waited_sec:.0f} s: {why}",
        )

    def _turn(self, watch: "Watch") -> tuple[bool, bool, int]:
        """Each in its turn, as they may wait for different things; what a child waits for is its parent, so last."""
        return (watch.state is JobState.AWAITING_PARENTS, watch.job_id <= self._asked, watch.job_id)
