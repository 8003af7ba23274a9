"""Steps of Jobs within one transaction: decide, collect, write once, then do what the decisions demand.

Used by every use case and sweep that moves a Job. Several steps of one Job become one row update (S4) and one event row
each (S5); waiting children and wakes follow from the effects of the decisions.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from balsam.domain.lifecycle import AWAITED_HOOKS, Decision, Effect, JobFacts, Request, decide
from balsam.domain.roles import CAMPAIGN_TAG, campaign_key
from balsam.domain.states import RUNNABLE_STATES, Actor, JobEvent, JobState
from balsam.server.store.protocol import Tx, Wake
from balsam.server.store.records import HotJob, JobUpdate, Json, ShareRow, Step, micros
from balsam.server.usecases.due_transfers import follow_jobs

_NOTED_EFFECTS = frozenset({Effect.KILL_RUN, Effect.BECAME_RUNNABLE, Effect.AWAITS_HOOK})


class Transitions:
    """The Jobs that one transaction moves."""

    def __init__(self, tx: Tx, now: datetime) -> None:
        self._tx = tx
        self._at = micros(now)
        self._jobs: dict[int, HotJob] = {}
        self._children: dict[int, list[int]] = {}
        self._updates: dict[int, JobUpdate] = {}
        self._decisions: dict[tuple[JobFacts, Request], Decision] = {}
        self._same: dict[tuple[int, int], tuple[Request, Decision]] = {}
        self._runnable_sites: set[int] = set()
        self._hook_sites: set[int] = set()

    def load(self, job_ids: Iterable[int]) -> None:
        """Read the Jobs that are not read yet; ids that do not exist are left out."""
        if missing := [job_id for job_id in job_ids if job_id not in self._jobs]:
            self._jobs.update(self._tx.hot_jobs(missing))

    def add(self, jobs: Iterable[HotJob]) -> None:
        """Take Jobs that were read already."""
        self._jobs.update((job.id, job) for job in jobs)

    def add_children(self, parent_ids: Iterable[int], links: Iterable[tuple[int, int]]) -> None:
        """Take the (parent, child) pairs of these parents, which were read after the parents were."""
        self._children.update((parent, []) for parent in parent_ids)
        for parent, child in links:
            self._children[parent].append(child)

    def get(self, job_id: int) -> HotJob | None:
        """The Job as it was read."""
        return self._jobs.get(job_id)

    def present(self, job_ids: Iterable[int]) -> list[int]:
        """Those of the ids that were read: another process may have deleted the others since they were found."""
        return [job_id for job_id in job_ids if job_id in self._jobs]

    def facts(self, job_id: int) -> JobFacts:
        """The Job as it is after the steps taken so far."""
        update = self._updates.get(job_id)
        return self._jobs[job_id].facts if update is None else update.after

    def take(
        self, job_id: int, request: Request, *, reported_at: int | None = None, data: Json | None = None
    ) -> JobUpdate | None:
        """Take one step. Returns the update in which the caller may set what goes with it; None when nothing changed.

        Raises Refused; nothing changes then.
        """
        job, update = self._jobs[job_id], self._updates.get(job_id)
        before = job.facts if update is None else update.after
        decision = self._decide(before, request)
        if not decision.transitions and decision.after == before:
            self._note_effects(job_id, decision)
            return None
        if update is None:
            update = JobUpdate(job, [], job.batch_job_id, job.return_code, job.started_at, job.ended_at)
            self._updates[job_id] = update
        update.steps.append(Step(decision, reported_at, data or {}))
        self._note_effects(job_id, decision)
        return update

    def _decide(self, before: JobFacts, request: Request) -> Decision:
        """Decided once for Jobs that are alike, as those of a report are."""
        same = (id(before), id(request))  # of objects that live as long as the decision: facts and requests are shared
        if (found := self._same.get(same)) is not None:
            return found[1]
        known = self._decisions.get((before, request))
        if known is None:
            known = self._decisions[before, request] = decide(before, request)
        if known.before is before:
            self._same[same] = (request, known)
        return known

    def _note_effects(self, job_id: int, decision: Decision) -> None:
        if decision.effects.isdisjoint(_NOTED_EFFECTS):
            return
        site_id = self._jobs[job_id].site_id
        if Effect.KILL_RUN in decision.effects and decision.after.session_id is not None:
            stop = {"job_ids": [job_id]}
            if decision.before.state in AWAITED_HOOKS:
                self._tx.wake(Wake("site", site_id, "cancel", stop))
            else:
                self._tx.wake(Wake("session", decision.after.session_id, "cancel", stop))
        if Effect.BECAME_RUNNABLE in decision.effects:
            self._runnable_sites.add(site_id)
        if Effect.AWAITS_HOOK in decision.effects:
            self._hook_sites.add(site_id)

    def released(self, jobs: Iterable[HotJob]) -> None:
        """The Jobs were unlocked without a step; they can be granted again."""
        for job in jobs:
            if job.state in RUNNABLE_STATES:
                self._runnable_sites.add(job.site_id)
            elif job.state in AWAITED_HOOKS:
                self._hook_sites.add(job.site_id)

    def flush(self) -> int:
        """Write everything, then the consequences for children, until there are none. Returns how many Jobs moved."""
        moved = 0
        while self._updates:
            updates = list(self._updates.values())
            self._updates = {}
            moved += len(updates)
            self._tx.apply(updates, self._at)
            self._announce(updates)
            for update in updates:
                self._jobs.pop(update.job.id)
            self._move_children(updates)
            self._pass_staged(follow_jobs(self._tx, updates, self._at))
        for site_id in self._runnable_sites:
            self._tx.wake(Wake("work", site_id, "work", {}))
        for site_id in self._hook_sites:
            self._tx.wake(Wake("site", site_id, "hooks", {}))
        self._runnable_sites, self._hook_sites = set(), set()
        return moved

    def _announce(self, updates: list[JobUpdate]) -> None:
        changed: dict[tuple[int, int], list[list[object]]] = {}
        tagged: dict[int, dict[int, list[object]]] = {}
        for update in updates:
            if update.transition_count:
                job = update.job
                entry: list[object] = [job.id, str(update.after.state), update.return_code]
                changed.setdefault((job.owner_id, job.site_id), []).append(entry)
                if job.tagged:
                    tagged.setdefault(job.owner_id, {})[job.id] = entry
        for (owner_id, site_id), entries in changed.items():
            self._tx.wake(Wake("jobs", owner_id, "states", {"jobs": entries}))
            self._tx.wake(Wake("site_jobs", site_id, "states", {"jobs": entries}))
        for owner_id, of_jobs in tagged.items():
            self._announce_campaigns(owner_id, of_jobs)

    def _announce_campaigns(self, owner_id: int, entries: Mapping[int, list[object]]) -> None:
        """Those with whom a campaign is shared hear of its Jobs and of no others."""
        shared = {share.campaign for share in self._tx.find(ShareRow, owner_id=owner_id, site_id=None)}
        campaigns: dict[str, list[list[object]]] = {}
        for job in self._tx.jobs(entries) if shared else ():
            name = job.tags.get(CAMPAIGN_TAG)
            if name is not None and name in shared:
                campaigns.setdefault(name, []).append(entries[job.id])
        for name, changes in campaigns.items():
            self._tx.wake(Wake("campaign", campaign_key(owner_id, name), "states", {"jobs": changes}))

    def _move_children(self, updates: list[JobUpdate]) -> None:
        finished: list[int] = []
        failed: dict[int, JobState] = {}
        for update in updates:
            effects = update.steps[-1].decision.effects
            if Effect.RELEASE_CHILDREN in effects:
                finished.append(update.job.id)
            elif Effect.FAIL_CHILDREN in effects:
                failed[update.job.id] = update.after.state
        if not finished and not failed:
            return
        ended = sorted([*finished, *failed])
        if unknown := [parent for parent in ended if parent not in self._children]:
            self.add_children(unknown, self._tx.children(unknown))
        links = [(parent, child) for parent in ended for child in self._children[parent]]
        if not links:
            return
        self.load({child for _, child in links})
        for parent, child in links:
            if parent in failed and self._waits(child):
                why = f"its parent Job {parent} is {failed[parent]}"
                self.take(child, Request(JobEvent.PARENT_FAILED, Actor.SERVICE, message=why))
        waiting = {child for parent, child in links if parent not in failed and self._waits(child)}
        for child in sorted(waiting - self._tx.waiting_children(waiting)) if waiting else ():
            self.take(child, Request(JobEvent.PARENTS_FINISHED, Actor.SERVICE))

    def _pass_staged(self, job_ids: Sequence[int]) -> None:
        """Jobs that are READY once more, and whose inputs have been at the Site since the first time."""
        self.load(job_ids)
        for job_id in job_ids:
            self.take(job_id, Request(JobEvent.STAGE_IN_DONE, Actor.SERVICE))

    def _waits(self, job_id: int) -> bool:
        return job_id in self._jobs and self.facts(job_id).state is JobState.AWAITING_PARENTS
