"""Jobs that were granted and wait for room, in the order they came, kept by what they ask for.

Part of the machine. Jobs of the same shape fit or do not fit alike, so packing looks at one of each shape and not at
every Job.
"""

from collections import OrderedDict
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
        # A plain dict would walk over all that have left to find the one that is first.
        self._shapes: dict[Shape, OrderedDict[int, Waiting]] = {}
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
        self._jobs_of(shape)[job.id] = Waiting(job, self._last)
        self._shape_of[job.id] = shape
        self._nodes += job.resources.node_footprint

    def put_first(self, job: LaunchJob) -> None:
        """Before all others: it had its turn already."""
        self.take(job.id)
        self._first -= 1
        shape = job.resources.shape
        jobs = self._jobs_of(shape)
        jobs[job.id] = Waiting(job, self._first)
        jobs.move_to_end(job.id, last=False)
        self._shape_of[job.id] = shape
        self._nodes += job.resources.node_footprint

    def _jobs_of(self, shape: Shape) -> OrderedDict[int, Waiting]:
        jobs = self._shapes.get(shape)
        if jobs is None:
            jobs = self._shapes[shape] = OrderedDict()
        return jobs

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
            for job_id, first in jobs.items():
                if job_id not in busy:
                    if best is None or first.number < best.number:
                        best = first
                    break
        return best
