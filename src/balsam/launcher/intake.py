"""Jobs from their grant until they hold a placement: asked for, kept in order, started where there is room, given back.

Part of the machine. It promises: one acquire at a time under numbers that grow (S3); a Job is started only when the run
of it that we know of is gone (S6); what can't run here, or not in the time that is left, is given back and not kept.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from balsam.domain.job import Shape
from balsam.launcher.appetite import Appetite, Portion, Room
from balsam.launcher.job_queue import JobQueue
from balsam.launcher.machine_messages import Acquire, AcquireRefused, Granted, LaunchJob, Note, Output, Storage, Work
from balsam.launcher.machine_settings import MachineSettings
from balsam.launcher.run_records import RunRecords
from balsam.launcher.runs import Killing, Runs

START_AGAIN_SEC = 1.0
# A Job that others overtook for so long gets the next room alone.
OVERTAKEN_SEC = 60.0


class Intake:
    """The Jobs that wait in `queue`, and what is asked for. `say` takes what is to be done."""

    def __init__(
        self, settings: MachineSettings, runs: Runs, records: RunRecords, say: Callable[[Output], None]
    ) -> None:
        self._settings = settings
        self._runs = runs
        self._records = records
        self._say = say
        self._most_gpus = max((len(node.gpu_ids) for node in settings.nodes), default=0)
        self.queue = JobQueue()
        self.appetite = Appetite()
        self._acquire_seq = 0
        self._start_not_before = -math.inf
        self._stores = True
        self._is_closed = False
        self._asks = True

    # Hearing

    def work(self, now: float, happened: Work) -> None:
        """There may be something to acquire."""
        self.appetite.hint()

    def storage(self, now: float, happened: Storage) -> None:
        """Nothing is started whose end could not be kept."""
        self._stores = happened.works

    def granted(self, now: float, reply: Granted) -> None:
        """Keep what can run here. An answer to another question than the last one does not count."""
        if self.appetite.in_flight is None or reply.acquire_seq != self._acquire_seq:
            return
        usable = 0
        for job in reply.jobs:
            job = self._as_run_here(job)
            if self._is_closed or self._can_never_run(now, job):
                self._records.released(job)
                continue
            self._put(now, job)
            usable += 1
        self.appetite.answered(now, self._room(), usable, len(reply.jobs) - usable)

    def refused(self, now: float, refused: AcquireRefused) -> None:
        """The service refused to give Jobs."""
        if self.appetite.in_flight is not None and refused.acquire_seq == self._acquire_seq:
            self.appetite.refused(now)
            self._say(Note(f"the service refuses to give Jobs: {refused.reason}"))

    def _as_run_here(self, job: LaunchJob) -> LaunchJob:
        if self._settings.allows_packing or self._settings.serial or job.resources.node_packing_count == 1:
            return job
        return job._replace(resources=replace(job.resources, node_packing_count=1))

    def _can_never_run(self, now: float, job: LaunchJob) -> bool:
        if not self._runs.pool.could_ever_fit(job.resources):
            self._say(Note(f"Job {job.id} is given back: no node here has what it asks for ({job.resources})"))
            return True
        left = self._minutes_left(now)
        return left is not None and job.resources.wall_time_min > left

    def _put(self, now: float, job: LaunchJob) -> None:
        self.queue.put(job)
        run = self._runs.get(job.id)
        if run is not None and run.job.token < job.token:  # S6: granted anew while an earlier run of it lives here
            self._runs.kill(now, job.id, Killing.FENCED, "it was granted again")

    # Giving back

    def take_no_more(self) -> None:
        """What is here already may start; for nothing else the service is asked."""
        self._asks = False

    def close(self) -> None:
        """Give back what waits; nothing is taken or started any more."""
        self._is_closed = True
        for job_id in self.queue:
            self.give_back(job_id)

    def give_back(self, job_id: int) -> None:
        """Give a Job back, if it waits here."""
        job = self.queue.take(job_id)
        if job is not None:
            self._records.released(job)

    def fence(self, job_id: int, token: int) -> None:
        """Give a Job back, but no newer grant of it than this (S7)."""
        queued = self.queue.get(job_id)
        if queued is not None and queued.token <= token:
            self.give_back(job_id)

    def give_back_what_never_fits(self, now: float) -> None:
        """There are fewer nodes than before."""
        for job_id in self.queue:
            queued = self.queue.get(job_id)
            if queued is not None and self._can_never_run(now, queued):
                self.give_back(job_id)

    def start_later(self, now: float, job: LaunchJob, reason: str) -> None:
        """This machine is short of something: the Job is the first to be tried again."""
        self._start_not_before = now + START_AGAIN_SEC
        self._say(Note(f"Job {job.id} waits: {reason}"))
        self.queue.put_first(job)

    # Starting

    def start(self, now: float) -> None:
        """Start what there is room for, in the order of the queue; smaller ones pass one that does not fit."""
        if self._is_closed or not self._stores or not self.queue or now < self._start_not_before:
            return
        full: set[Shape] = set()
        left = self._minutes_left(now)
        while self._runs.free_cores and len(self._runs) < self._settings.most_running:
            # A Job whose earlier run is not gone stays where it is (S6).
            waiting = self.queue.next(full, self._runs)
            if waiting is None:
                return
            job = waiting.job
            if left is not None and job.resources.wall_time_min > left:
                self.give_back(job.id)
                continue
            if self._runs.place(job):
                self.queue.take(job.id)
                continue
            full.add(job.resources.shape)
            waiting.overtaken_since = now if waiting.overtaken_since is None else waiting.overtaken_since
            if now - waiting.overtaken_since >= OVERTAKEN_SEC:
                return

    def _minutes_left(self, now: float) -> int | None:
        """Minutes until the end of the allocation, begun ones counted: an estimate in minutes is no sharper."""
        return None if self._settings.end is None else max(0, math.ceil((self._settings.end - now) / 60))

    # Asking

    def ask(self, now: float) -> None:
        """Ask for more when there is, or soon will be, room. Nothing is asked before there is a Session."""
        if self.appetite.in_flight is not None or self._is_closed or not self._asks or not self._stores:
            return
        if len(self._runs) >= self._settings.most_running:
            return
        portion = self.appetite.portion(now, self._room())
        if portion is not None:
            self._acquire_seq += 1
            self.appetite.sent(portion)
            self._say(self._request(now, portion))

    def _request(self, now: float, portion: Portion) -> Acquire:
        settings = self._settings
        return Acquire(
            acquire_seq=self._acquire_seq,
            max_jobs=portion.max_jobs,
            max_wall_time_min=self._minutes_left(now),
            max_nodes_per_job=1 if settings.serial else max(1, self._runs.pool.usable_nodes),
            max_aggregate_nodes=portion.max_aggregate_nodes,
            max_gpus_per_node=self._most_gpus,
            serial_only=settings.serial,
            filter_tags=settings.filter_tags,
            sort_by=settings.sort_by,
        )

    def _room(self) -> Room:
        return Room(
            free_nodes=self._runs.pool.free_nodes - self.queue.nodes,
            total_nodes=self._runs.pool.usable_nodes,
            free_cores=self._runs.free_cores,
            queued=len(self.queue),
        )

    def wakes(self) -> list[float]:
        """When `start` or `ask` may have something to do although nothing happened."""
        times = []
        if self._asks and self.appetite.in_flight is None and self._runs.pool.free_nodes > 0:
            times.append(self.appetite.wake_at())
        if self.queue:
            times.append(self._start_not_before)
        return times
