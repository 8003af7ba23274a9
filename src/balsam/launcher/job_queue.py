"""Jobs that were granted and wait for room, in the order they came, kept by what they ask for.

Part of the machine. Jobs of the same shape fit or do not fit alike, so packing looks at one of each shape and not at
every Job.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass

from balsam.domain.job import Shape
from balsam.launcher.machine_messages import LaunchJob


@dataclass(slots=True)
class Waiting:
    """A Job in the queue. `number` orders; `overtaken_since` is when others began to pass it."""

    job: LaunchJob
    number: int
    overtaken_since: float | None = None


class JobQueue:
    """Order of arrival; a Job occurs once."""

    def __init__(self) -> None:
        self._shapes: dict[Shape, dict[int, Waiting]] = {}
        self._shape_of: dict[int, Shape] = {}
        self._nodes = 0.0
        self._last = 0
        self._first = 0

    def __len__(self) -> int:
        return len(self._shape_of)

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._shape_of))

    def get(self, job_id: int) -> LaunchJob | None:
        """The waiting Job of this id."""
        shape = self._shape_of.get(job_id)
        return None if shape is None else self._shapes[shape][job_id].job

    @property
    def nodes(self) -> float:
        """Footprint of all that waits."""
        return self._nodes if self._shape_of else 0.0

    def put(self, job: LaunchJob) -> None:
        """At the end; a waiting Job of the same id is replaced."""
        self.take(job.id)
        self._last += 1
        shape = job.resources.shape
        self._shapes.setdefault(shape, {})[job.id] = Waiting(job, self._last)
        self._shape_of[job.id] = shape
        self._nodes += job.resources.node_footprint

    def put_first(self, job: LaunchJob) -> None:
        """Before all others: it had its turn already."""
        self.take(job.id)
        self._first -= 1
        shape = job.resources.shape
        earlier = self._shapes.pop(shape, {})
        self._shapes[shape] = {job.id: Waiting(job, self._first), **earlier}
        self._shape_of[job.id] = shape
        self._nodes += job.resources.node_footprint

    def take(self, job_id: int) -> LaunchJob | None:
        """Remove a Job; None when it does not wait here."""
        shape = self._shape_of.pop(job_id, None)
        if shape is None:
            return None
        jobs = self._shapes[shape]
        waiting = jobs.pop(job_id)
        self._nodes -= waiting.job.resources.node_footprint
        if not jobs:
            del self._shapes[shape]
        return waiting.job

    def next(self, full: Container[Shape], busy: Container[int]) -> Waiting | None:
        """The longest waiting Job whose shape is not in `full` and whose id is not in `busy`."""
        best = None
        for shape, jobs in self._shapes.items():
            if shape in full:
                continue
            first = next((waiting for job_id, waiting in jobs.items() if job_id not in busy), None)
            if first is not None and (best is None or first.number < best.number):
                best = first
        return best
