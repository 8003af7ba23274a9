"""A Job and a BatchJob without a service: what the executor uses of the SDK, with the states played from a script.

`test_executor.test_fakes_offer_nothing_that_the_sdk_lacks` keeps them honest.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any, ClassVar

from balsam.api import BalsamError, DeadlineExceeded, JobState
from balsam.wire.jobs import JobExplanation

SERVICE_TIME = datetime(2031, 5, 6, 12, 0, 0, tzinfo=UTC)


class FakeJob:
    """One Job; `moves` maps seconds after the first look to states."""

    created: ClassVar[list[FakeJob]] = []

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        self.id: int | None = None
        self.state = "CREATED"
        self.return_code: int | None = None
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.workdir = fields.get("workdir", "libe_workflow/fake")
        self.files_there: dict[str, str] = {}
        self.polls = 0
        self.cancels = 0
        self.killed_to: str | None = "CANCELLED"
        self.reached_after = 0.0
        self.why: tuple[str, list[str]] = ("It is CREATED.", [])
        self.explained = 0
        self.explains_after: threading.Event | None = None
        self.explain_raises: BalsamError | None = None
        self.moves: list[tuple[float, dict[str, Any]]] = []
        self._born = time.monotonic()

    def save(self) -> None:
        self.id = len(FakeJob.created) + 1
        FakeJob.created.append(self)

    def will(self, after: float, **changes: Any) -> None:
        self.moves.append((self._born + after, changes))

    def poll_state(self) -> str:
        self.polls += 1
        for due, changes in [move for move in self.moves if move[0] <= time.monotonic()]:
            self.__dict__.update(changes)
            self.moves.remove((due, changes))
        return self.state

    def wait(self, timeout: float | None = None) -> bool:
        deadline = time.monotonic() + (3600 if timeout is None else timeout)
        while self.poll_state() not in ("JOB_FINISHED", "FAILED", "CANCELLED"):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.002)
        return True

    def arrived(self) -> bool:
        return self.state in ("JOB_FINISHED", "FAILED", "CANCELLED")

    def cancel(self, *, deadline_sec: float | None = None) -> None:
        """`reached_after`: seconds until the service is there again."""
        due = self._born + self.reached_after
        if deadline_sec is not None and time.monotonic() + deadline_sec < due:
            time.sleep(deadline_sec)
            raise DeadlineExceeded("the service can't be reached")
        time.sleep(max(0.0, due - time.monotonic()))
        self.cancels += 1
        if self.killed_to is not None:
            self.will(time.monotonic() - self._born + 0.02, state=self.killed_to)

    def explain(self) -> JobExplanation:
        self.explained += 1
        if self.explains_after is not None:
            self.explains_after.wait(30)
        if self.explain_raises is not None:
            raise self.explain_raises
        summary, reasons = self.why
        return JobExplanation(id=self.id or 0, state=JobState(self.state), summary=summary, reasons=reasons)

    def read_text(self, name: str) -> str:
        try:
            return self.files_there[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def file_exists(self, name: str) -> bool:
        return name in self.files_there

    def workdir_exists(self) -> bool:
        return bool(self.files_there)


class FakeBatchJob:
    """One allocation at a site that obeys a deletion after `obeys_after` refreshes (None: never)."""

    def __init__(self, state: str = "running", scheduler_id: str | None = "7", obeys_after: int | None = 2) -> None:
        self.id = 5
        self.state = state
        self.scheduler_id = scheduler_id
        self.obeys_after = obeys_after
        self.cancels = 0

    def cancel(self) -> None:
        self.state = "pending_deletion"
        self.cancels += 1

    def refresh_from_db(self) -> None:
        if self.state != "pending_deletion" or self.obeys_after is None:
            return
        self.obeys_after -= 1
        if self.obeys_after <= 0:
            self.state = "finished"
