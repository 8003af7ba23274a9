"""Transactions over plain dictionaries: the rules of the protocol with nothing clever in between.

The model that the SQL stores are tested against, and the store of the simulation. Lists are found by looking at
everything; every change is noted, so that a transaction that fails can be undone.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pydantic_core import to_json

from balsam.domain.lifecycle import JobFacts
from balsam.domain.states import JobState
from balsam.server.store import selections
from balsam.server.store.conditions import MISSING, groups, value_at
from balsam.server.store.memory_census import census
from balsam.server.store.memory_files import MemoryFilesTx
from balsam.server.store.memory_runnable import walk
from balsam.server.store.memory_select import STATE_ORDER, is_selected_event, job_conditions, part_of
from balsam.server.store.protocol import GuardFailed
from balsam.server.store.records import (
    CHANGEABLE_COLUMNS,
    AppRow,
    EventRow,
    GrantedRow,
    HotJob,
    JobRow,
    JobUpdate,
    NewJob,
    ReportBasis,
    ResultRow,
    SessionRow,
    ShownJob,
    Step,
    TransferItemRow,
    UserRow,
    event_id,
)
from balsam.server.store.selections import (
    AcquireCriteria,
    Census,
    EventSelection,
    JobSelection,
    PageWindow,
    RunnableShape,
    fitting,
    light_enough,
)
from balsam.server.store.turns import lot

_GRANTED = tuple(spec.name for spec in fields(GrantedRow))
_HOT = tuple(spec.name for spec in fields(HotJob))[:-2]


class MemoryTx(MemoryFilesTx):
    """ReadTx and Tx over Tables."""

    # Reading Jobs

    def jobs(self, job_ids: Iterable[int]) -> list[JobRow]:
        return [self._tables.jobs[job_id] for job_id in sorted(set(job_ids)) if job_id in self._tables.jobs]

    def _selected(self, selection: JobSelection) -> Iterator[JobRow]:
        conditions = list(job_conditions(selection))
        for job_id in sorted(self._tables.jobs):
            job = self._tables.jobs[job_id]
            if job.owner_id == selection.owner_id and all(condition(job) for condition in conditions):
                yield job

    def job_page(self, selection: JobSelection, window: PageWindow) -> list[JobRow]:
        def key(job: JobRow) -> tuple[Any, ...]:
            value = getattr(job, window.order_by)
            return (STATE_ORDER[value] if window.order_by == "state" else value, job.id)

        jobs = sorted(self._selected(selection), key=key, reverse=window.descending)
        return part_of(jobs, key, window, STATE_ORDER if window.order_by == "state" else {})

    def shown_jobs(self, job_ids: Iterable[int]) -> list[ShownJob]:
        return list(map(self._shown, self.jobs(job_ids)))

    def shown_page(self, selection: JobSelection, window: PageWindow) -> list[ShownJob]:
        return list(map(self._shown, self.job_page(selection, window)))

    def _shown(self, job: JobRow) -> ShownJob:
        names = {
            "app_name": self._tables.rows[AppRow][job.app_id].name,
            "submitted_by": self._tables.rows[UserRow][job.submitter_id].username,
        }
        values = {name: names[name] if name in names else getattr(job, name) for name in ShownJob._fields}
        texts = {name: to_json(value).decode() for name, value in values.items() if isinstance(value, (dict, list))}
        return ShownJob(**{**values, **texts})

    def job_ids(self, selection: JobSelection, after: int, limit: int) -> list[int]:
        return [job.id for job in self.job_page(selection, PageWindow(limit=limit, after=after))]

    def job_count(self, selection: JobSelection) -> int:
        return sum(1 for _ in self._selected(selection))

    def job_counts(self, selection: JobSelection) -> dict[JobState, int]:
        return dict(Counter(job.state for job in self._selected(selection)))

    def job_groups(
        self, selection: JobSelection, column: str, path: tuple[str, ...], limit: int
    ) -> list[tuple[Any, int]]:
        values = (value_at(getattr(job, column), path) for job in self._selected(selection))
        return groups(((None if value is MISSING else value, 1) for value in values), limit)

    def census(self) -> Census:
        return census(self._tables.jobs.values(), self._of(TransferItemRow))

    def hot_jobs(self, job_ids: Iterable[int]) -> dict[int, HotJob]:
        return {job.id: _hot(job) for job in self.jobs(job_ids)}

    def _held(self, session_id: int) -> list[JobRow]:
        return [job for job_id, job in sorted(self._tables.jobs.items()) if job.session_id == session_id]

    def held_jobs(self, session_id: int) -> list[HotJob]:
        return [_hot(job) for job in self._held(session_id)]

    def runnable_shapes(self, criteria: AcquireCriteria) -> list[RunnableShape]:
        able = walk(self._tables.jobs.values(), criteria, 0)[: criteria.max_jobs]
        shapes = Counter((job.wall_time_min, job.num_nodes, job.node_packing_count) for job in able)
        return [RunnableShape(*shape, number) for shape, number in sorted(shapes.items())]

    def held_nodes(self, session_id: int, look_at: int) -> float | None:
        held = self._held(session_id)
        return None if len(held) >= look_at else float(sum(job.num_nodes / job.node_packing_count for job in held))

    def granted_jobs(self, session_id: int, grant_seq: int) -> list[GrantedRow]:
        return [_granted(job) for job in self._held(session_id) if job.grant_seq == grant_seq]

    def jobs_to_stop(self, session_id: int) -> list[int]:
        held = self._held(session_id)
        return [job.id for job in held if job.cancel_requested or job.state is JobState.CANCELLED]

    def report_basis(self, session_id: int, job_ids: Sequence[int], ending: Sequence[int]) -> ReportBasis:
        to_stop = self.jobs_to_stop(session_id)
        return ReportBasis(self.get(SessionRow, session_id), self.hot_jobs(job_ids), self.children(ending), to_stop)

    def children(self, parent_ids: Iterable[int]) -> list[tuple[int, int]]:
        return [
            (parent, child) for parent in sorted(set(parent_ids)) for child in self._tables.children.get(parent, ())
        ]

    def unfinished_parents(self, child_ids: Iterable[int]) -> dict[int, int]:
        def unfinished(job: JobRow) -> int:
            return sum(parent.state is not JobState.JOB_FINISHED for parent in self.jobs(job.parent_ids))

        return {job.id: number for job in self.jobs(child_ids) if (number := unfinished(job))}

    def waiting_children(self, child_ids: Iterable[int]) -> set[int]:
        return set(self.unfinished_parents(child_ids))

    # Events

    def _events_of(self, selection: EventSelection) -> list[EventRow]:
        return [
            event
            for job in self._selected(selection.jobs)
            for event in self._tables.events.get(job.id, ())
            if is_selected_event(event, selection)
        ]

    def events(self, selection: EventSelection, window: PageWindow) -> list[EventRow]:
        def key(event: EventRow) -> tuple[int, int]:
            return event.timestamp, event.id

        rows = sorted(self._events_of(selection), key=key, reverse=window.descending)
        return part_of(rows, key, window)

    def event_count(self, selection: EventSelection) -> int:
        return len(self._events_of(selection))

    # Writing Jobs

    def insert_jobs(self, jobs: Sequence[NewJob], at: int) -> list[int]:
        ids: list[int] = []
        for job in jobs:
            job_id = self._take("jobs")
            ids.append(job_id)
            self._set(self._tables.jobs, job_id, _new_row(job, job_id, at))
            self._log(job_id, 0, [Step(job.shape.decision)], at)
            for parent in dict.fromkeys(job.parent_ids):
                self._set(self._tables.children, parent, (*self._tables.children.get(parent, ()), job_id))
        return ids

    def apply(self, updates: Sequence[JobUpdate], at: int) -> None:
        for update in updates:
            update.check()
            row = self._tables.jobs.get(update.job.id)
            if row is None or _hot(row) != update.job:
                raise GuardFailed(f"S4: Job {update.job.id} was not as it was read")
            after = update.after
            changed = replace(
                row,
                state=after.state,
                attempt=after.attempt,
                session_id=after.session_id,
                cancel_requested=after.cancel_requested,
                lost_attempts=after.lost_attempts,
                was_preprocessed=after.was_preprocessed,
                event_seq=row.event_seq + update.transition_count,
                batch_job_id=update.batch_job_id,
                return_code=update.return_code,
                started_at=update.started_at,
                ended_at=update.ended_at,
                spent_attempts=after.spent_attempts,
                failure=after.failure,
                last_update=at,
            )
            self._set(self._tables.jobs, row.id, changed)
            self._log(row.id, row.event_seq, update.steps, at)

    def _log(self, job_id: int, seq: int, steps: list[Step], at: int) -> None:
        events = list(self._tables.events.get(job_id, ()))
        for step in steps:
            for index, move in enumerate(step.decision.transitions):
                seq += 1
                data: dict[str, Any] = dict(move.said)
                if index == 0:
                    data |= json.loads(json.dumps(step.data))
                reported_at = step.reported_at if index == 0 else None
                moves = (move.source, move.target, move.actor.value)
                events.append(EventRow(event_id(job_id, seq), job_id, seq, move.attempt, *moves, at, reported_at, data))
        self._set(self._tables.events, job_id, tuple(events))

    def acquire(self, criteria: AcquireCriteria, session_id: int, grant_seq: int) -> list[GrantedRow]:
        able = walk(self._tables.jobs.values(), criteria, lot(session_id, grant_seq))
        shapes = [(job.job_id, job.num_nodes, job.node_packing_count) for job in able[: criteria.candidates]]
        granted: list[GrantedRow] = []
        chosen = fitting(shapes, criteria)
        lengths = {job.id: _length(job) for job in self.jobs(chosen)}
        for job_id in light_enough(chosen, lengths, selections.MAX_GRANT_LENGTH):
            job = self._tables.jobs[job_id]
            job = replace(job, token=job.token + 1, session_id=session_id, grant_seq=grant_seq)
            self._set(self._tables.jobs, job_id, job)
            granted.append(_granted(job))
        return granted

    def unlock(self, session_id: int, jobs: Sequence[HotJob]) -> None:
        for job in jobs:
            row = self._tables.jobs.get(job.id)
            if row is None or row.session_id != session_id or row.state is JobState.RUNNING:
                raise GuardFailed(f"S6: Job {job.id} was not held by Session {session_id}")
            self._set(self._tables.jobs, job.id, replace(row, session_id=None))

    def change_jobs(self, changes: Mapping[int, Mapping[str, Any]], at: int) -> None:
        for job_id, columns in changes.items():
            if foreign := set(columns) - CHANGEABLE_COLUMNS:
                raise ValueError(f"S4: {sorted(foreign)} of a Job are not changed this way")
            if job_id not in self._tables.jobs:
                raise GuardFailed(f"Job {job_id} is gone")
            row = replace(self._tables.jobs[job_id], last_update=at, **columns)
            self._set(self._tables.jobs, job_id, row)

    def delete_jobs(self, job_ids: Sequence[int]) -> None:
        self.delete_transfer_items(job_ids)
        for job in self.jobs(job_ids):
            self._unset(self._tables.jobs, job.id)
            self._unset(self._tables.events, job.id)
            self._unset(self._tables.rows[ResultRow], job.id)
            self._unset(self._tables.children, job.id)
            for parent in job.parent_ids:
                rest = tuple(child for child in self._tables.children.get(parent, ()) if child != job.id)
                self._set(self._tables.children, parent, rest)


def _length(job: JobRow) -> int:
    return sum(len(to_json(value).decode()) for value in (job.parameters, job.data))


def _hot(job: JobRow) -> HotJob:
    return HotJob(*[*(getattr(job, name) for name in _HOT), bool(job.tags)])


def _granted(job: JobRow) -> GrantedRow:
    return GrantedRow(*(getattr(job, name) for name in _GRANTED))


def _new_row(job: NewJob, job_id: int, at: int) -> JobRow:
    shape = job.shape
    facts: JobFacts = shape.decision.after
    return JobRow(
        id=job_id,
        owner_id=shape.owner_id,
        site_id=shape.site_id,
        app_id=shape.app_id,
        state=facts.state,
        priority=shape.priority,
        num_nodes=shape.num_nodes,
        ranks_per_node=shape.ranks_per_node,
        threads_per_rank=shape.threads_per_rank,
        threads_per_core=shape.threads_per_core,
        gpus_per_rank=shape.gpus_per_rank,
        node_packing_count=shape.node_packing_count,
        wall_time_min=shape.wall_time_min,
        max_attempts=shape.max_attempts,
        steps=shape.steps,
        token=0,
        attempt=0,
        lost_attempts=0,
        session_id=None,
        grant_seq=0,
        batch_job_id=None,
        cancel_requested=False,
        was_preprocessed=facts.was_preprocessed,
        event_seq=len(shape.decision.transitions),
        return_code=None,
        pending_file_cleanup=shape.pending_file_cleanup,
        created_at=at,
        last_update=at,
        started_at=None,
        ended_at=None,
        spent_attempts=0,
        failure=facts.failure,
        submitter_id=shape.submitter_id,
        workdir=job.workdir,
        parameters=json.loads(job.parameters),
        tags=dict(job.tags),
        data=json.loads(job.data),
        launch_params=json.loads(job.launch_params),
        transfers=json.loads(job.transfers),
        parent_ids=list(job.parent_ids),
    )
