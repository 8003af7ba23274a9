"""A batch scheduler whose every misbehaviour a test can script (F15)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from balsam.platform.scheduler.base import (
    BackfillWindow,
    QueueLimits,
    SchedulerJob,
    SchedulerState,
    SchedulerUnavailable,
    SubmitInDoubt,
    SubmitRefused,
    SubmitRequest,
)


@dataclass
class ScriptedScheduler:
    """Allocations by name. The faults: `unavailable`, `refuse`, `dies_after_submit` (taken, and the answer is lost),
    `cut_off` (not taken yet, and nobody knows: `take` does it late), `unlisted`, `accounting_unavailable`,
    `silent_about` (a name). `asked` counts the questions.
    """

    known: dict[str, SchedulerJob] = field(default_factory=dict)
    submissions: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    unavailable: bool = False
    refuse: str = ""
    dies_after_submit: bool = False
    cut_off: bool = False
    accounting_unavailable: bool = False
    limits: dict[str, QueueLimits] = field(default_factory=dict)
    doubt_sec: float = 75.0
    limits_asked: int = 0
    unlisted: set[str] = field(default_factory=set)
    accounting: bool = False
    listings: int = 0
    asked: int = 0
    silent_about: str = ""

    def _answer(self) -> None:
        self.asked += 1
        if self.unavailable:
            raise SchedulerUnavailable("squeue: Unable to contact slurm controller")

    def submit(self, script_path: Path, name: str, request: SubmitRequest) -> str:
        self._answer()
        if self.refuse:
            raise SubmitRefused(self.refuse)
        assert script_path.is_file()
        assert (script_path.parent / "credentials.json").is_file()
        assert (script_path.parent / "job-credentials.json").is_file()
        assert (script_path.parent / "batch_job.json").is_file()
        known = self.find(name)
        if known is not None:
            return known
        if self.cut_off:
            raise SubmitInDoubt("sbatch did not answer within 60 s")
        number = self.take(name)
        if self.dies_after_submit:
            raise SubmitInDoubt("sbatch: timed out")
        return number

    def take(self, name: str) -> str:
        """The scheduler takes a submission, whoever made it."""
        number = str(100 + len(self.submissions))
        self.submissions.append(name)
        self.known[number] = SchedulerJob(number, name, SchedulerState.QUEUED)
        return number

    def find(self, name: str) -> str | None:
        self._answer()
        if name == self.silent_about:
            raise SchedulerUnavailable("sacct: timed out")
        return next((number for number, job in self.known.items() if job.name == name), None)

    def jobs(self) -> dict[str, SchedulerJob]:
        self._answer()
        self.listings += 1
        return {number: job for number, job in self.known.items() if number not in self.unlisted}

    def history(self, scheduler_ids: Iterable[str]) -> dict[str, SchedulerJob]:
        self._answer()
        if self.accounting_unavailable:
            raise SchedulerUnavailable("sacct: Unable to connect to slurmdbd")
        return {number: self.known[number] for number in scheduler_ids if self.accounting and number in self.known}

    def cancel(self, scheduler_id: str) -> None:
        self._answer()
        self.cancelled.append(scheduler_id)

    def queues(self) -> dict[str, QueueLimits]:
        self._answer()
        self.limits_asked += 1
        return self.limits

    def backfill_windows(self) -> dict[str, list[BackfillWindow]]:
        return {}

    def watch(self, on_change: Callable[[str], None]) -> bool:
        return False

    def close(self) -> None:
        pass

    def become(self, number: str, state: SchedulerState, **facts: object) -> None:
        self.known[number] = SchedulerJob(number, self.known[number].name, state, **facts)
