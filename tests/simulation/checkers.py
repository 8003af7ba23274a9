"""What must hold in every world, looked at while it happens and at the end. Numbers as in the list of invariants.

A checker knows the ground truth, which no component knows. The first violation ends the world.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from balsam.domain.failure import INFRASTRUCTURE
from balsam.domain.lifecycle import AWAITED_HOOKS
from balsam.domain.states import BATCH_JOB_ENDED, DONE_STATES, LEGAL_MOVES, RUNNABLE_STATES, JobState
from balsam.launcher.machine_messages import Start
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import BatchJobRow, EventRow, HotJob, JobRow, SessionRow
from balsam.server.store.selections import EventSelection, JobSelection, PageWindow
from balsam.wire.sessions import LaunchEvent, Report
from tests.simulation.machine_room import MachineRoom, Rank

if TYPE_CHECKING:
    from tests.simulation.hooks import HookRun
    from tests.simulation.launcher import SimLauncher
    from tests.simulation.world import World

# After a whole machine thawed, its guardian has so long to see that the lease ended (S6).
THAW_SEC = 1.5
# An end is believed when the batch system has said nothing for LONGEST_DOUBT_SEC; its silence excuses for so long.
SILENCE_SEC = 60.0
# A lost node of the launcher ends the allocation: at a look of the agent, and a kill (KILL_WAIT_SEC).
HEADLESS_SEC = 300.0
LOOK_SEC = 20.0
LOOKS = 4
RESULTS = {LaunchEvent.RUN_DONE.value, LaunchEvent.RUN_ERROR.value}
ALL = PageWindow(limit=100_000)


class Violation(BaseException):
    """An invariant does not hold. Not an Exception: no component may catch it."""


class Checkers:
    """The eyes of the simulation."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kernel = world.kernel
        self.deleted: dict[int, str] = {}  # id -> workdir, of Jobs that users deleted
        self.submitted: dict[str, int | None] = {}  # workdir -> id, None while not acknowledged
        self.starts = 0
        self._ranks: dict[int, list[Rank]] = defaultdict(list)
        self._seen: dict[int, tuple[int, JobState]] = {}
        self._recorded: dict[tuple[str, int], tuple[int, int]] = {}  # (outbox, seq) -> (Job, token) of a result
        self._accepted: set[tuple[int, int]] = set()
        self._cancelled: set[int] = set()
        self._to_end: dict[int, int] = {}  # Jobs that were cancelled as they ran -> their last event then
        self._crippled: dict[tuple[int, int], MachineRoom] = {}  # (Job, attempt) -> where it ran
        self._unknown: Counter[tuple[int, int]] = Counter()
        self._moved: set[int] = set()

    def fail(self, text: str) -> None:
        raise Violation(f"at {self.kernel.now:.1f} s: {text}")

    # Processes

    def rank_started(self, rank: Rank) -> None:
        self.starts += 1
        job_id = rank.job.id
        self.world.say(f"{rank.name} (token {rank.job.token}) starts in {rank.room.name}")
        for other in self._living(job_id):
            if not _excused(other):
                self.fail(f"S6: {rank.name} starts in {rank.room.name} while {other.name} runs in {other.room.name}")
        if hooks := self._hooks(job_id):
            self.fail(f"S6: {rank.name} starts while {hooks[0]} runs")
        self._ranks[job_id].append(rank)
        self._check_cores(rank)

    def placed(self, launcher: SimLauncher, order: Start) -> None:
        """S9: nothing of a node is used again once its launcher has heard that it is lost."""
        if lost := sorted(launcher.told_lost.intersection(share.node for share in order.placement.shares)):
            self.fail(f"S9: Job {order.job.id} is to start on lost nodes {lost} of {launcher.room.name}")

    def crippled(self, rank: Rank) -> None:
        """A node is lost in the middle of it: it can't have a result (S10)."""
        self._crippled[rank.job.id, rank.job.attempt] = rank.room

    def hook_started(self, run: HookRun) -> None:
        job_id = run.order.job_id
        self.world.say(f"{run.name} (token {run.order.token}) starts")
        if others := [one.name for one in self._living(job_id) if not _excused(one)] + self._hooks(job_id):
            self.fail(f"S6: {run.name} starts while {others[0]} runs")

    def _hooks(self, job_id: int) -> list[str]:
        return [run.name for run in self.world.hook_runs if run.alive and run.order.job_id == job_id]

    def _living(self, job_id: int) -> list[Rank]:
        living = [rank for rank in self._ranks[job_id] if rank.alive]
        self._ranks[job_id] = living
        return living

    def _check_cores(self, rank: Rank) -> None:
        mine = {(share.node, cpu) for share in rank.placement.shares for cpu in share.cpu_ids}
        for other in rank.room.ranks:
            if other is not rank:
                theirs = {(share.node, cpu) for share in other.placement.shares for cpu in share.cpu_ids}
                if mine & theirs:
                    self.fail(f"S9: {rank.name} and {other.name} share cores {sorted(mine & theirs)}")

    def thawed(self, room: MachineRoom) -> None:
        """A machine that was frozen goes on: what lost its lease meanwhile must be killed soon."""
        self.kernel.after(THAW_SEC + 0.1, self._check_thawed, room)

    def _check_thawed(self, room: MachineRoom) -> None:
        for rank in list(room.ranks):
            for other in self._living(rank.job.id):
                if other is not rank and rank.executing and other.executing and not rank.doomed and not other.doomed:
                    self.fail(f"S6: {rank.name} runs twice after {room.name} thawed")

    # Moves of Jobs

    def moved(self, entries: Sequence[Sequence[Any]]) -> None:
        """Jobs that a commit moved; looked at when the store can be read again."""
        if not self._moved:
            self.kernel.after(0.0, self.look_at_moved)
        self._moved.update(entry[0] for entry in entries)

    def look_at_moved(self) -> None:
        moved, self._moved = self._moved, set()
        self.world.service.store.read_sync(lambda tx: self._replay_all(tx, tx.jobs(moved)))

    def _replay_all(self, tx: ReadTx, jobs: list[JobRow]) -> None:
        events: dict[int, list[EventRow]] = defaultdict(list)
        ids = tuple(job.id for job in jobs)
        for event in tx.events(EventSelection(owner_id=self.world.service.user.user_id, job_ids=ids), ALL):
            events[event.job_id].append(event)
        for job in jobs:
            self._replay(job, sorted(events[job.id], key=lambda event: event.seq))

    def _replay(self, job: JobRow, events: list[EventRow]) -> None:
        """S5: the log, replayed, is the state. S8: what is done stays done unless a user retries it."""
        seq, state = self._seen.get(job.id, (0, JobState.CREATED))
        for event in events:
            if event.seq <= seq:
                continue
            self._check_event(job, event, seq, state)
            seq, state = event.seq, event.to_state
            if state is JobState.CANCELLED:
                self._cancelled.add(job.id)
        self._seen[job.id] = (seq, state)
        if state is not job.state or seq != job.event_seq:
            self.fail(f"S5: Job {job.id} is {job.state} at event {job.event_seq}; its log says {state} at {seq}")

    def _check_event(self, job: JobRow, event: EventRow, seq: int, state: JobState) -> None:
        self.world.say(f"Job {job.id}: {event.from_state} -> {event.to_state} by {event.actor}")
        if event.seq != seq + 1 or event.from_state is not state:
            self.fail(f"S5: event {event.seq} of Job {job.id} from {event.from_state} follows {seq} to {state}")
        if (event.from_state, event.to_state) not in LEGAL_MOVES:
            self.fail(f"S4: Job {job.id} went from {event.from_state} to {event.to_state}")
        if event.from_state in DONE_STATES and event.actor != "user":
            self.fail(f"S8: Job {job.id} left {event.from_state} by {event.actor}")
        if event.seq > self._to_end.get(job.id, event.seq):
            self._check_cancelled(event)
        if event.actor == "site" and event.from_state in AWAITED_HOOKS and (hooks := self._hooks(job.id)):
            self.fail(f"S6: Job {job.id} became {event.to_state} while {hooks[0]} runs")
        if event.to_state in (JobState.RUN_DONE, JobState.RUN_ERROR):
            self._check_crippled(job, event)
        if event.from_state is JobState.RUNNING:
            alive = [rank for rank in self._living(job.id) if not _excused(rank)]
            if alive:
                self.fail(f"S6: Job {job.id} became {event.to_state} by {event.actor} while {alive[0].name} lives")

    def cancelled(self, job_ids: Sequence[int]) -> None:
        """A user's wish for the end of these was acknowledged."""
        jobs = self.world.service.store.read_sync(lambda tx: tx.jobs(job_ids))
        self._to_end.update({job.id: job.event_seq for job in jobs if job.state is JobState.RUNNING})

    def _check_cancelled(self, event: EventRow) -> None:
        """S8: it runs again only when its user retries it, or when that attempt came to a good end."""
        if event.actor == "user" or event.to_state is JobState.RUN_DONE:
            del self._to_end[event.job_id]
        elif event.to_state is JobState.RUNNING and event.from_state is not JobState.RUNNING:
            self.fail(f"S8: attempt {event.attempt} of Job {event.job_id} starts, which was cancelled before")

    def _check_crippled(self, job: JobRow, event: EventRow) -> None:
        """S10: neither done, nor the App's failure."""
        room = self._crippled.get((job.id, event.attempt))
        if room is None or self.kernel.now - room.unanswered_at <= SILENCE_SEC:
            return
        if event.to_state is JobState.RUN_DONE or event.data.get("failure") not in INFRASTRUCTURE:
            how = "done" if event.to_state is JobState.RUN_DONE else "its App's failure"
            self.fail(f"S10: attempt {event.attempt} of Job {job.id} counts as {how}, though a node of it was lost")

    def reported(self, before: Mapping[int, HotJob], after: Mapping[int, HotJob], message: Report) -> None:
        """S7: records with an old token changed nothing."""
        current = {record.job_id for record in message.records if _is_current(before, record.job_id, record.token)}
        for job_id, job in before.items():
            if job_id not in current and job_id in after and after[job_id].event_seq != job.event_seq:
                self.fail(f"S7: a report with an old token moved Job {job_id}")
        for record in message.records:
            job_id = record.job_id
            if job_id in current and record.event in RESULTS and after[job_id].event_seq > before[job_id].event_seq:
                self._accepted.add((job_id, record.token))

    # Outboxes

    def written(self, path: str, data: bytes) -> None:
        """An outbox took records: their results must not be lost any more (L2, L3)."""
        for line in data.splitlines():
            record = json.loads(line[9:])
            if record.get("event") in RESULTS:
                self._recorded[path, record["seq"]] = (record["job_id"], record["token"])

    def lost_power(self, path: str, left: bytes) -> None:
        lines = left.split(b"\n")[:-1]
        kept = {json.loads(line[9:]).get("seq") for line in lines}
        for key in [key for key in self._recorded if key[0] == path and key[1] not in kept]:
            del self._recorded[key]

    # Looking around

    def look(self, launchers: Iterable[SimLauncher]) -> None:
        """S3, L1: what a live Session holds is known to its launcher, or on its way."""
        seen: set[tuple[int, int]] = set()
        for launcher in launchers:
            session_id = launcher.session_id
            if session_id is None or not launcher.executing or launcher.machine.exit is not None:
                continue
            reports = launcher.service._reports
            if launcher.machine._intake.appetite.in_flight is not None or reports is None or reports.undelivered:
                continue
            known = {*launcher.machine.running, *launcher.machine.queued}
            held = self.world.service.store.read_sync(lambda tx, one=session_id: tx.held_jobs(one))
            for job in held:
                if job.id not in known and (job.state in RUNNABLE_STATES or job.state is JobState.RUNNING):
                    seen.add((session_id, job.id))
        self._unknown = Counter({key: self._unknown[key] + 1 for key in seen})
        for (session_id, job_id), looks in self._unknown.items():
            if looks >= LOOKS:
                self.fail(f"S3: Session {session_id} holds Job {job_id}, and its launcher does not know of it")

    def look_at_heads(self) -> None:
        """L1: in calm an allocation without its launcher's node does not stay: nobody would use the others."""
        for allocation in self.world.cluster.running:
            since = allocation.room.headless_since if allocation.room is not None else None
            if since is not None and self.kernel.now - max(since, self.world.calm_since) > HEADLESS_SEC:
                self.fail(f"L1: {allocation.name} has lost its first node and is still there")

    def told_finished(self, batch_job_id: int) -> None:
        """S12: the agent says that an allocation ended; has it?"""
        for allocation in self.world.cluster.allocations.values():
            if allocation.batch_job_id == batch_job_id and not allocation.state.is_over:
                self.fail(f"S12: BatchJob {batch_job_id} is told to be finished and {allocation.id} is not over")

    # The end

    def unfinished(self) -> list[JobRow]:
        return self.world.service.store.read_sync(
            lambda tx: [job for job in _all_jobs(tx, self.world) if job.state not in DONE_STATES]
        )

    def open_sessions(self) -> list[int]:
        return self.world.service.store.read_sync(_open_sessions)

    def at_the_end(self) -> None:
        self.world.service.store.read_sync(self._at_the_end)

    def _at_the_end(self, tx: ReadTx) -> None:
        jobs = _all_jobs(tx, self.world)
        self._replay_all(tx, jobs)
        self._check_submissions(jobs)
        self._check_counts(tx, jobs)
        self._check_allocations(tx)
        self._check_results({job.id for job in jobs})
        for job in jobs:
            if job.session_id is not None:
                self.fail(f"Job {job.id}, {job.state}, is still held by Session {job.session_id}")
            if self._living(job.id) or self._hooks(job.id):
                self.fail(f"a process of Job {job.id}, {job.state}, is still alive")
        if left := _open_sessions(tx):
            self.fail(f"Sessions {left} are still open")

    def _check_submissions(self, jobs: list[JobRow]) -> None:
        """S1, S2: what went in is there, and once."""
        there = Counter([job.workdir for job in jobs] + list(self.deleted.values()))
        by_id = {job.id: job.workdir for job in jobs} | self.deleted
        for workdir, job_id in self.submitted.items():
            if there[workdir] > 1:
                self.fail(f"S2: {workdir} was submitted once and is there {there[workdir]} times")
            if job_id is not None and by_id.get(job_id) != workdir:
                self.fail(f"S1: {workdir} was acknowledged as Job {job_id}, which is {by_id.get(job_id)}")

    def _check_counts(self, tx: ReadTx, jobs: list[JobRow]) -> None:
        service = self.world.service
        kept = tx.job_counts(JobSelection(owner_id=service.user.user_id, site_ids=(service.site_id,)))
        true = Counter(job.state for job in jobs)
        if {state: count for state, count in kept.items() if count} != dict(true):
            self.fail(f"kept counters {kept} are not the counts {dict(true)}")

    def _check_allocations(self, tx: ReadTx) -> None:
        """S11: one submission for each BatchJob; every one of them comes to its end."""
        names = Counter(allocation.name for allocation in self.world.cluster.allocations.values())
        for name, count in names.items():
            if count > 1:
                self.fail(f"S11: {name} was submitted {count} times")
        for row in tx.find(BatchJobRow):
            if row.state not in BATCH_JOB_ENDED:
                self.fail(f"L4: BatchJob {row.id} is still {row.state}")
        if left := [one.name for one in self.world.cluster.allocations.values() if not one.state.is_over]:
            self.fail(f"allocations {left} are still there")

    def _check_results(self, jobs: set[int]) -> None:
        """L2, L3: a result that was written down reaches the service, unless the user wanted otherwise."""
        if not self.world.delivers_everything:
            return
        for (path, seq), key in self._recorded.items():
            if key not in self._accepted and key[0] in jobs and key[0] not in self._cancelled:
                self.fail(f"L3: result {seq} in {path}, of Job {key[0]} token {key[1]}, never reached the service")


def _is_current(before: Mapping[int, HotJob], job_id: int, token: int) -> bool:
    return job_id in before and before[job_id].token == token


def _excused(rank: Rank) -> bool:
    """A frozen machine computes nothing, and once it thaws its guardian needs a moment (S6)."""
    room = rank.room
    if room.stopped or rank.kernel.now - room.thawed_at < THAW_SEC:
        return True
    return rank.doomed and room.thawed_at > 0


def _all_jobs(tx: ReadTx, world: World) -> list[JobRow]:
    return tx.job_page(JobSelection(owner_id=world.service.user.user_id), ALL)


def _open_sessions(tx: ReadTx) -> list[int]:
    return [row.id for row in tx.find(SessionRow, ended_at=None)]
