"""One random history on two stores: the one under test must answer every call as the model does; needs hypothesis.

Subclass `StoreMachine`, give it `make_store`, and take its `TestCase`. Each rule is a call of a user, a launcher or the
timer; the memory store is the model. After each step the invariants are checked on the store under test.
"""
# ruff: noqa: S101 -- tests that are shipped

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from balsam.domain.failure import Failure
from balsam.domain.job_order import FIELDS
from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.domain.states import DONE_STATES, RUNNABLE_STATES, BatchJobState, JobState
from balsam.server.errors import ServiceError
from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import GuardFailed, ReadTx, Store
from balsam.server.store.selections import EventSelection, JobSelection, PageWindow
from balsam.testing.store_conformance_jobs import replayed
from balsam.testing.store_conformance_turns import shared, submitted
from balsam.testing.store_world import StoreWorld
from balsam.wire.results import JobResult
from balsam.wire.sessions import GrantedJob, LaunchEvent

TAGS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2)
SHAPES = st.fixed_dictionaries(
    {
        "tags": TAGS,
        "priority": st.integers(-1, 1),
        "wall_time_min": st.sampled_from([0, 5, 10]),
        "num_nodes": st.integers(1, 2),
        "gpus_per_rank": st.sampled_from([0, 0.5, 1]),
        "max_attempts": st.sampled_from([None, 1, 2]),
    }
)
VERDICTS = ["PREPROCESSED", "POSTPROCESSED", "RESTART_READY", "FAILED", "RUNNING"]
CHANGES = st.fixed_dictionaries(
    {},
    optional={"tags": TAGS, "max_attempts": st.sampled_from([None, 1, 3]), "num_nodes": st.integers(-1, 2)},
)
STATES = st.lists(st.sampled_from(list(JobState)), max_size=3)


class StoreMachine(RuleBasedStateMachine):
    """The store under test is `self.real`, the model `self.model`."""

    def make_store(self) -> Store:
        """Override: an empty store."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.model = StoreWorld(MemoryStore())
        self.real = StoreWorld(self.make_store())
        self.hooked = self.both(lambda world: world.add_app_with_hooks()).id
        self.other = self.both(lambda world: shared(world, "bob")[0])
        self.sessions: list[int] = []
        self.agents: list[int] = []
        self.granted: list[tuple[int, GrantedJob]] = []

    def teardown(self) -> None:
        self.real.store.close()

    def both(self, call: Callable[[StoreWorld], Any]) -> Any:
        """The answer of both worlds, which must be the same; refusals count as answers."""
        answers = [_answer(call, world) for world in (self.model, self.real)]
        assert answers[1] == answers[0]
        return answers[1]

    def some_job(self, data: st.DataObject) -> int:
        return int(data.draw(st.integers(1, max(1, len(self.both(lambda world: world.page())) + 2)), label="job"))

    @rule(count=st.integers(1, 4), fields=SHAPES)
    def submit(self, count: int, fields: dict[str, Any]) -> None:
        self.both(lambda world: world.submit(count, **fields))

    @rule(count=st.integers(1, 4), fields=SHAPES)
    def submit_of_another(self, count: int, fields: dict[str, Any]) -> None:
        self.both(lambda world: submitted(world, self.other, count, **fields))

    @rule(data=st.data(), tags=TAGS)
    def submit_child(self, data: st.DataObject, tags: dict[str, str]) -> None:
        parents = data.draw(st.lists(st.just(self.some_job(data)), min_size=1, max_size=2), label="parents")
        self.both(lambda world: world.submit(1, parent_ids=parents, tags=tags))

    @rule(count=st.integers(1, 3), fields=SHAPES)
    def submit_with_hooks(self, count: int, fields: dict[str, Any]) -> None:
        self.both(lambda world: world.submit(count, app_id=self.hooked, **fields))

    @rule()
    def open_processing(self) -> None:
        self.agents.append(self.both(lambda world: world.open_processing()).id)

    @precondition(lambda self: self.agents)
    @rule(data=st.data(), max_jobs=st.integers(1, 4))
    def acquire_hooks(self, data: st.DataObject, max_jobs: int) -> None:
        session = data.draw(st.sampled_from(self.agents), label="agent")
        jobs = self.both(lambda world: world.acquire(session, max_jobs))
        if isinstance(jobs, list):
            self.granted += [(session, job) for job in jobs]

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), verdict=st.sampled_from(["", *VERDICTS]), changes=CHANGES)
    def conclude(self, data: st.DataObject, verdict: str, changes: dict[str, Any]) -> None:
        """Of hooks, by their agent, or by a launcher that has no business with them."""
        session, job = data.draw(st.sampled_from(self.granted), label="grant")
        self.both(
            lambda world: world.tell(session, job, LaunchEvent.HOOK_DONE, verdict=verdict, changes=changes, message="m")
        )

    @rule(in_batch_job=st.booleans())
    def open_session(self, in_batch_job: bool) -> None:
        def call(world: StoreWorld) -> Any:
            batch_job = world.submit_batch_job() if in_batch_job else None
            return world.open_session(batch_job_id=batch_job.id if batch_job else None)

        self.sessions.append(self.both(call).id)

    @precondition(lambda self: self.sessions)
    @rule(
        data=st.data(),
        max_jobs=st.integers(1, 4),
        wall=st.sampled_from([None, 5]),
        nodes=st.sampled_from([None, 1]),
        room=st.sampled_from([None, 1.0, 3.0]),
        gpus=st.sampled_from([None, 0, 1]),
        tags=TAGS,
        sort=st.sampled_from([*FIELDS]),
    )
    def acquire(self, data: st.DataObject, max_jobs: int, tags: dict[str, str], sort: str, **limits: Any) -> None:
        session = data.draw(st.sampled_from(self.sessions), label="session")
        criteria = {
            "max_wall_time_min": limits["wall"],
            "max_nodes_per_job": limits["nodes"],
            "max_aggregate_nodes": limits["room"],
            "max_gpus_per_node": limits["gpus"],
            "filter_tags": tags,
            "sort_by": sort,
        }
        jobs = self.both(lambda world: world.acquire(session, max_jobs, **criteria))
        if isinstance(jobs, list):
            self.granted += [(session, job) for job in jobs]

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), events=st.lists(st.sampled_from(list(LaunchEvent)), min_size=1, max_size=3))
    def report(self, data: st.DataObject, events: list[LaunchEvent]) -> None:
        """Of grants new and old, in any order, by the holder and by those who held the Job before."""
        session, job = data.draw(st.sampled_from(self.granted), label="grant")
        # A launcher knows a result of what it has started, and told so before.
        started = events[0] is LaunchEvent.STARTED or any(
            view.attempt >= job.attempt for view in self.real.results([job.id]).results
        )
        result = JobResult(value={"attempt": job.attempt, "token": job.token}) if started else None
        failure = data.draw(st.sampled_from([None, *Failure]), label="failure")
        self.both(lambda world: world.tell(session, job, *events, return_code=3, result=result, failure=failure))

    @rule(data=st.data(), verb=st.sampled_from(["cancel", "retry", "delete"]), everything=st.booleans())
    def select(self, data: st.DataObject, verb: str, everything: bool) -> None:
        ids = None if everything else [self.some_job(data)]
        self.both(lambda world: getattr(world, verb)(ids))

    @rule(data=st.data(), tags=TAGS, priority=st.integers(-1, 1))
    def change(self, data: st.DataObject, tags: dict[str, str], priority: int) -> None:
        job_id = self.some_job(data)
        columns = {job_id: {"tags": tags, "priority": priority}}
        self.both(lambda world: world.write(lambda tx: tx.change_jobs(columns, 77)))

    @precondition(lambda self: self.sessions or self.agents)
    @rule(data=st.data(), lost=st.booleans())
    def close(self, data: st.DataObject, lost: bool) -> None:
        session = data.draw(st.sampled_from([*self.sessions, *self.agents]), label="session")
        self.both(lambda world: world.close(session, lost=lost))

    @precondition(lambda self: self.sessions or self.agents)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from([*self.sessions, *self.agents]), label="session")
        self.both(lambda world: world.renew(session))

    @rule(data=st.data(), state=st.sampled_from([BatchJobState.RUNNING, BatchJobState.FINISHED]))
    def batch_job_moves(self, data: st.DataObject, state: BatchJobState) -> None:
        number = data.draw(st.integers(1, 3), label="BatchJob")
        self.both(lambda world: world.report_batch_job(number, state))

    @rule(seconds=st.sampled_from([1, 20, 400]))
    def pass_time(self, seconds: int) -> None:
        self.both(lambda world: world.pass_time(seconds))

    @rule(
        states=st.none() | STATES,
        failures=st.none() | st.lists(st.sampled_from(list(Failure)), max_size=2),
        tags=TAGS,
        ordering=st.sampled_from(["id", "-id", "last_update", "-state"]),
    )
    def list_jobs(
        self, states: list[JobState] | None, failures: list[Failure] | None, tags: dict[str, str], ordering: str
    ) -> None:
        query: dict[str, Any] = {
            "state": states,
            "failure": failures,
            "tags": [f"{key}:{value}" for key, value in tags.items()],
            "ordering": ordering,
        }
        self.both(lambda world: world.page(limit=5, offset=1, **query))
        self.both(lambda world: world.count(**query))
        self.both(lambda world: world.counts(state=states, failure=failures, tags=query["tags"]))

    @rule(data=st.data(), tags=TAGS, to_state=st.none() | st.sampled_from(list(JobState)))
    def list_events(self, data: st.DataObject, tags: dict[str, str], to_state: JobState | None) -> None:
        jobs = data.draw(st.none() | st.just((self.some_job(data),)), label="jobs")
        owner = self.model.ada.user_id
        selection = EventSelection(owner, job_ids=jobs, tags=tuple(tags.items()), to_state=to_state)
        window = PageWindow("timestamp", descending=True, limit=7)
        self.both(lambda world: world.read(lambda tx: (tx.events(selection, window), tx.event_count(selection))))

    @invariant()
    def the_same_wakes_were_heard(self) -> None:
        assert self.real.wakes == self.model.wakes

    @invariant()
    def s5_the_log_is_the_state(self) -> None:
        world = self.real
        jobs = world.page()
        for job in jobs:
            assert replayed(world, job.id) is job.state
        counted = {state: n for state in JobState if (n := sum(job.state is state for job in jobs))}
        assert world.counts() == counted, "the kept counters have drifted"
        assert world.count() == len(jobs)

    @invariant()
    def failed_jobs_have_a_class(self) -> None:
        for job in self.real.page():
            assert job.failure is None or job.state not in (JobState.RUNNING, JobState.JOB_FINISHED, JobState.CANCELLED)
            assert job.failure is not None or job.state is not JobState.FAILED

    @invariant()
    def s6_only_held_jobs_run(self) -> None:
        for job in self.real.page():
            assert job.state is not JobState.RUNNING or job.session_id is not None
            assert job.state in (JobState.RUNNING, JobState.CANCELLED) or not job.cancel_requested
            if job.session_id is not None:
                launcher = job.session_id in self.sessions
                held = RUNNABLE_STATES | {JobState.RUNNING} if launcher else AWAITED_HOOKS.keys()
                assert job.state in DONE_STATES | held

    @rule()
    def read_results(self) -> None:
        ids = [job.id for job in self.both(lambda world: world.page())]
        self.both(lambda world: world.results([*ids, 999]))

    @invariant()
    def a_result_is_of_the_last_attempt(self) -> None:
        ids = [job.id for job in self.real.page()]
        for view in self.real.results(ids).results:
            assert view.result is None or view.result.value["attempt"] == view.attempt
            assert view.result is None or view.state not in RUNNABLE_STATES | {JobState.RUNNING}

    @invariant()
    def selections_by_index_agree_with_the_whole(self) -> None:
        world = self.real
        jobs = world.page()
        for key, value in (("a", "1"), ("b", "2")):
            selection = JobSelection(world.ada.user_id, tags=((key, value),))
            wanted = [job.id for job in jobs if job.tags.get(key) == value]
            assert world.read(partial(_ids, selection=selection)) == wanted


def _ids(tx: ReadTx, selection: JobSelection) -> list[int]:
    return tx.job_ids(selection, 0, 1000)


def _answer(call: Callable[[StoreWorld], Any], world: StoreWorld) -> Any:
    try:
        return call(world)
    except ServiceError as error:
        return (error.status, error.code, error.message)
    except GuardFailed:
        # Changing a Job that does not exist.
        return "guard"
