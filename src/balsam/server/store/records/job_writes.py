"""Jobs as they are written: inserted as `NewJob`, and changed by nothing but the Decisions of a `JobUpdate` (S4)."""

from dataclasses import dataclass, field

from balsam.domain.lifecycle import Decision, JobFacts
from balsam.server.store.records.jobs import HotJob
from balsam.server.store.records.values import Json


@dataclass(frozen=True, slots=True, eq=False)
class JobShape:
    """What most Jobs of a bulk have in common: whose they are, what runs, on what, and the Decision of their first
    state and events (S4)."""

    owner_id: int
    submitter_id: int
    site_id: int
    app_id: int
    decision: Decision
    priority: int
    num_nodes: int
    ranks_per_node: int
    threads_per_rank: int
    threads_per_core: int
    gpus_per_rank: float
    node_packing_count: int
    wall_time_min: int
    max_attempts: int | None
    steps: int
    pending_file_cleanup: bool = False


@dataclass(slots=True)
class NewJob:
    """A Job to insert. Jobs that are alike have the same `shape`, one object."""

    shape: JobShape
    workdir: str
    parameters: str  # JSON text from here on: it was serialised to be measured, and is not parsed again
    tags: dict[str, str]
    data: str
    launch_params: str
    transfers: str
    parent_ids: list[int]


@dataclass(slots=True)
class Step:
    """A Decision, and what is logged with its transitions."""

    decision: Decision
    reported_at: int | None = None
    data: Json = field(default_factory=dict)


@dataclass(slots=True)
class JobUpdate:
    """Steps taken by one Job in one transaction: one row update, one event row per transition (S5)."""

    job: HotJob
    steps: list[Step]
    batch_job_id: int | None
    return_code: int | None
    started_at: int | None
    ended_at: int | None

    @property
    def after(self) -> JobFacts:
        return self.steps[-1].decision.after

    @property
    def transition_count(self) -> int:
        if len(self.steps) == 1:
            return len(self.steps[0].decision.transitions)
        return sum(len(step.decision.transitions) for step in self.steps)

    def check(self) -> None:
        """S4: the Decisions start at what was read, and each goes on from the one before."""
        facts = self.job.facts
        for step in self.steps:
            if step.decision.before is not facts and step.decision.before != facts:
                raise AssertionError(f"S4: Job {self.job.id}: a Decision does not go on from the one before it")
            facts = step.decision.after
