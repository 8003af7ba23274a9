"""The people in the simulation: they submit in bulk, want allocations while there is work, cancel, retry and delete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from balsam.client.errors import BalsamError, ServiceUnavailable
from balsam.domain.states import BATCH_JOB_ENDED, BatchJobState, JobMode
from balsam.server.store.records import BatchJobRow
from balsam.server.usecases import batch_jobs as batch_job_cases
from balsam.server.usecases import selection
from balsam.server.usecases.submit import submit_jobs
from balsam.wire.batch_jobs import BatchJobCreate, BatchJobPatch, BatchJobView
from balsam.wire.jobs import JobCreate, JobFilter, JobsCancel, JobsCreate, JobsCreated, JobsSelect
from tests.simulation.kernel import Process, Task
from tests.simulation.service import USER_TOKEN, Line, Network

if TYPE_CHECKING:
    from tests.simulation.world import World

LOOK_SEC = 20.0


@dataclass(frozen=True)
class Plan:
    """What an attempt of a Job will do."""

    duration_sec: float
    return_code: int
    ignores_term: bool


class Users(Process):
    """A laptop with everybody's scripts."""

    sends_keys = True

    def __init__(self, world: World) -> None:
        super().__init__(world.kernel, "users")
        self.world = world
        self.random = world.kernel.random("users")
        self.network = Network(world, "users", Line())
        self.plans: dict[str, Plan] = {}
        self.submitting = 0
        self._wanted = self.random.choice((1, 2, 2))
        for number in range(self.random.randint(1, 3)):
            self.submitting += 1
            self.spawn(self._submit(number))
        self.spawn(self._provide())

    def _key(self) -> str | None:
        return f"{self.random.getrandbits(128):032x}" if self.sends_keys else None

    def _job(self, workdir: str, parents: list[int]) -> JobCreate:
        random = self.random
        usual = (1.0, 60.0, 200.0, 400.0) if self.world.profile.long else (0.05, 1.0, 5.0, 20.0, 60.0)
        duration = random.choice(usual) * random.uniform(0.5, 2.0)
        self.plans[workdir] = Plan(duration, int(random.random() < 0.1), random.random() < 0.1)
        nodes = random.choice((2, 2, 3)) if random.random() < 0.2 else 1
        return JobCreate(
            app_id=self._app(workdir),
            workdir=workdir,
            num_nodes=nodes,
            ranks_per_node=random.choice((1, 1, 2, 4)),
            node_packing_count=1 if nodes > 1 else random.choice((1, 2, 4)),
            wall_time_min=random.choice((0, 0, 0, 2)),
            max_attempts=random.choice((None, None, 2)),
            parent_ids=parents,
        )

    def _app(self, workdir: str) -> int:
        service = self.world.service
        has_hooks = self.world.profile.hooks and self.kernel.random(f"app of {workdir}").random() < 0.6
        return service.hooked_app_id if has_hooks else service.app_id

    def _submit(self, number: int) -> Task:
        """As the SDK submits: the key is made before the first try, and kept while the answer is not known."""
        service, checkers = self.world.service, self.world.checkers
        earlier: list[int] = []
        for bulk in range(self.random.randint(1, 3)):
            yield self.sleep(self.random.uniform(0.0, self.world.profile.fault_sec / 3))
            names = [f"u{number}-b{bulk}-{index}" for index in range(self.random.randint(1, 8))]
            parents = [self.random.choice(earlier)] if earlier and self.random.random() < 0.3 else []
            body = JobsCreate(jobs=[self._job(name, parents) for name in names])
            key = self._key()
            checkers.submitted.update(dict.fromkeys(names))

            def use(tx: Any, who: Any, now: Any, body: JobsCreate = body) -> JobsCreated:
                return submit_jobs(tx, who, body, now)

            while True:
                call = service.created(key, body, JobsCreated, use)
                try:
                    reply = yield from self.network.request(self, USER_TOKEN, call, repeatable=True, patience_sec=60.0)
                except ServiceUnavailable:
                    if self.random.random() < 0.1:
                        break  # this script was killed: it will never know
                    continue
                except BalsamError as error:
                    self.world.say(f"submission refused: {error}")  # its parent was deleted meanwhile
                    break
                checkers.submitted.update(zip(names, reply.ids, strict=True))
                earlier += reply.ids
                break
        self.submitting -= 1

    def _provide(self) -> Task:
        """One or two allocations while there is something to run, as an elastic queue would."""
        service = self.world.service
        while True:
            yield self.sleep(self.random.uniform(0.5, 1.5) * LOOK_SEC)
            unfinished = len(self.world.checkers.unfinished())
            if self.world.closing or not unfinished:
                continue
            live = self._live()
            wanted = 1 if self.world.calm else self._wanted
            if len([row for row in live if row.state is not BatchJobState.PENDING_DELETION]) >= wanted:
                continue
            calm = self.world.calm
            body = BatchJobCreate(
                site_id=service.site_id,
                num_nodes=3 if calm else self.random.choice((1, 2, 3, 4)),
                wall_time_min=30 if calm else self.random.choice((3, 5, 10, 30, 30)),
                job_mode=JobMode.MPI,
                queue="local",
                project="local",
            )

            def use(tx: Any, who: Any, now: Any, body: BatchJobCreate = body) -> BatchJobView:
                return batch_job_cases.create_batch_job(tx, who, body, now)

            call = service.created(self._key(), body, BatchJobView, use)
            try:
                yield from self.network.request(self, USER_TOKEN, call, repeatable=True, patience_sec=60.0)
            except BalsamError as error:
                self.world.say(f"no BatchJob: {error}")

    def _live(self) -> list[BatchJobRow]:
        rows = self.world.service.store.read_sync(lambda tx: tx.find(BatchJobRow))
        return [row for row in rows if row.state not in BATCH_JOB_ENDED]

    # Verbs, as faults

    def _choose(self, which: float) -> list[int]:
        """A few neighbouring ids."""
        ids = sorted(job_id for job_id in self.world.checkers.submitted.values() if job_id is not None)
        start = int(which * len(ids))
        return ids[start : start + 1 + int(which * 97) % 4]

    def _say(self, verb: Any, which: float) -> None:
        ids = self._choose(which)
        if ids and self.world.service.up:
            self.world.say(f"user: {verb.__name__} {ids}")
            kind = JobsCancel if verb is selection.cancel_selected else JobsSelect
            self.world.service.selected(verb, kind(filter=JobFilter(id=ids)))

    def cancel(self, which: float) -> None:
        if self.world.service.up:
            self._say(selection.cancel_selected, which)
            self.world.checkers.cancelled(self._choose(which))

    def retry(self, which: float) -> None:
        self._say(selection.retry_selected, which)

    def delete(self, which: float) -> None:
        store = self.world.service.store
        ids = self._choose(which)
        before = {job.id: job.workdir for job in store.read_sync(lambda tx: tx.jobs(ids))}
        self._say(selection.delete_selected, which)
        after = {job.id for job in store.read_sync(lambda tx: tx.jobs(ids))}
        self.world.checkers.deleted.update({one: name for one, name in before.items() if one not in after})

    def drain(self, which: float) -> None:
        live = self._live()
        if live and self.world.service.up:
            self.end_batch_job(live[int(which * len(live))].id)

    def end_batch_job(self, batch_job_id: int) -> None:
        patch = BatchJobPatch(state=BatchJobState.PENDING_DELETION)
        self.world.say(f"user ends BatchJob {batch_job_id}")
        self.world.service.carry_out(
            USER_TOKEN, lambda tx, who, now: batch_job_cases.patch_batch_job(tx, who, batch_job_id, patch, now)
        )

    def end_all(self) -> None:
        for row in self._live():
            if row.state is not BatchJobState.PENDING_DELETION:
                self.end_batch_job(row.id)
