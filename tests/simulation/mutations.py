"""Protections of the shipping code, each switched off: a simulation that does not notice proves nothing.

A mutation is a function that gives attributes to replace while a world lives. `within` is how many seeds it may take to
be noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from balsam.client import outbox as outbox_module
from balsam.client.outbox import Outbox
from balsam.domain import lifecycle
from balsam.domain.lease import CallOrder, HeldLease, LeaseKind
from balsam.domain.states import EDGES, Lease
from balsam.launcher import guardian as guardian_module
from balsam.launcher.attempts import Attempts
from balsam.launcher.fleet import Fleet
from balsam.launcher.machine import Machine
from balsam.launcher.machine_messages import Gone
from balsam.launcher.node_watch import NodeWatch
from balsam.launcher.runs import Runs
from balsam.server.usecases import acquire as acquire_module
from balsam.server.usecases import report as report_module
from balsam.server.usecases import sessions as sessions_module
from balsam.site.services import allocations as allocations_module
from balsam.site.services import processing as processing_module
from balsam.site.services.delivery import Delivery
from balsam.site.services.hook_session import HookSession
from balsam.site.services.processing import Processing
from balsam.wire.sessions import Report, ReportRecord
from tests.simulation import guardian as sim_guardian
from tests.simulation.cluster import Cluster
from tests.simulation.faults import Profile, directed, draw
from tests.simulation.guardian import SimGuardian
from tests.simulation.hooks import SimWorkers
from tests.simulation.kernel import Kernel, Task
from tests.simulation.launcher import SimCourier
from tests.simulation.nodes import SimNode
from tests.simulation.users import Users

Changes = list[tuple[object, str, Any]]


@dataclass(frozen=True)
class Mutation:
    """`takes_away`: the protection; `changes`: how it is switched off."""

    takes_away: str
    within: int
    changes: Callable[[], Changes]
    kinds: tuple[str, ...] = ()
    lease_kind: LeaseKind = LeaseKind.HEARTBEAT
    hooks: bool = False

    def profile(self, seed: int) -> Profile | None:
        """The usual world of the seed, or one with faults of `kinds` alone, where rare protections matter."""
        if self.kinds:
            return directed(Kernel(seed).random("directed"), self.kinds, self.lease_kind, self.hooks)
        return replace(draw(Kernel(seed).random("profile")), hooks=True) if self.hooks else None


def _no_idempotency_key() -> Changes:
    return [(Users, "sends_keys", False)]


def _no_durable_outbox() -> Changes:
    """Nobody delivers what a dead launcher wrote down."""

    def forget(self: Delivery, entry: Any) -> bool:
        for path in self._directory(entry).glob("session-*.outbox"):
            path.unlink()
        return True

    def forget_predecessors(self: SimCourier) -> Task:
        yield self.sleep(0.0)

    return [(Delivery, "deliver", forget), (SimCourier, "_deliver_predecessors", forget_predecessors)]


def _reports_not_repeated() -> Changes:
    """Records are sent once, and forgotten when no answer comes."""

    def tell(self: SimCourier, batch: list[dict[str, Any]]) -> Task:
        try:
            yield from self._request(self.world.service.report(self._session, _as_report(batch)), 0.0)
        except Exception:
            self.world.say("records are lost")
        self._say(**{"is": "reported", "acked_seq": batch[-1]["seq"], "fenced": [], "cancel": []})

    return [(SimCourier, "_tell", tell)]


def _as_report(batch: list[dict[str, Any]]) -> Report:
    return Report(records=[ReportRecord.model_validate(record) for record in batch])


def _acquire_not_idempotent() -> Changes:
    return [(acquire_module, "call_order", lambda last, number: CallOrder.NEW)]


def _equal_instead_of_ordered() -> Changes:
    def order(last: int, number: int) -> CallOrder:
        return CallOrder.REPEAT if number == last else CallOrder.NEW

    return [(acquire_module, "call_order", order)]


def _no_guardian_for_dead_launchers() -> Changes:
    """The guardian starts the launcher again and kills nothing."""

    def leave_alive(self: SimGuardian, reason: str) -> Task:
        if self.launcher is not None and self.launcher.alive:
            self.launcher.die()
        yield self.sleep(0.0)

    return [(SimGuardian, "_kill_all", leave_alive)]


def _no_deadline_in_guardian() -> Changes:
    """The launcher alone watches its lease."""
    return [(guardian_module.Guardian, "_take_line", lambda self, line: None)]


def _no_fencing_token() -> Changes:
    """A report is judged by the Job's state and Session alone."""

    def judge(self: Any, record: Any) -> None:
        job = self.steps.get(record.job_id)
        if job is not None:
            shipping_judge(self, record.model_copy(update={"token": job.token}))

    shipping_judge = report_module._Work.judge
    return [(report_module._Work, "judge", judge)]


def _no_session_check_on_start() -> Changes:
    edges = {key: replace(edge, lease=Lease.NONE) if edge.lease is Lease.RUN else edge for key, edge in EDGES.items()}
    return [(lifecycle, "EDGES", edges)]


def _lease_comes_back() -> Changes:
    """A renewal that is answered late revives a lease that was over: at the holder and at its guardian."""

    def is_over(self: HeldLease, now: float) -> bool:
        return self._over or (self.until is not None and now >= self.until)

    def renewed(self: HeldLease, sent_at: float) -> bool:
        self.sent_at = max(self.sent_at, sent_at)
        return True

    def lease_is_over(self: Machine) -> bool:
        return self._lease is not None and self._lease.is_over(self._now)

    def watch(self: SimGuardian) -> Task:
        """Ranks are killed at the deadline, the launcher is not."""
        rules = self.rules
        while self.launcher is not None and self.launcher.alive:
            sim_guardian.TIME.clock = self.room.clock
            for what, line in self._news.take():
                if what == "line":
                    rules._take_line(line)
            reason = rules._reason_to_kill()
            if reason == "its lease ended":
                self.room.kill_all_ranks()
                rules._lease_until = None
            elif reason:
                return reason
            timeout = rules._timeout_ms()
            yield self._news.wait(1.0 if timeout is None else timeout / 1000 + 0.01)
        self._news.take()
        return ""

    return [
        (HeldLease, "is_over", is_over),
        (HeldLease, "renewed", renewed),
        (Machine, "_lease_is_over", property(lease_is_over)),
        (SimGuardian, "_watch", watch),
    ]


def _no_search_before_submit() -> Changes:
    """Nor does the Session of a launcher tell that there was a submission."""
    no_word = (sessions_module, "_note_start", lambda tx, batch_job, now: None)
    return [(Cluster, "find", lambda self, name: None), no_word]


def _no_waiting_in_doubt() -> Changes:
    """A submission that was cut off is made again as soon as its name is not found."""
    return [(Cluster, "doubt_sec", 0.0)]


def _slot_freed_at_exit() -> Changes:
    """The cores of a Job are given away when its first process ends."""
    shipping = Attempts.exited

    def exited(self: Attempts, now: float, happened: Any) -> None:
        shipping(self, now, happened)
        self.gone(now, Gone(happened.job_id))

    return [(Attempts, "exited", exited)]


def _absence_is_an_end() -> Changes:
    return [(allocations_module, "MISSES", 1), (allocations_module, "MISSING_SEC", 0.0)]


def _finished_before_delivery() -> Changes:
    """The agent says that an allocation ended before it handed in what was left."""
    return [(Delivery, "deliver", lambda self, entry: True)]


def _failed_append_left_behind() -> Changes:
    """After ENOSPC the part that was written stays before the next try."""
    return [(Outbox, "_write", _write_without_truncate)]


def _write_without_truncate(self: Any, data: bytes) -> None:
    written = 0
    try:
        while written < len(data):
            written += outbox_module.os.pwrite(self._fd, data[written:], self._size + written)
    except OSError as error:
        raise outbox_module._trouble(self.path, error) from error
    finally:
        self._size += written


def _no_waiting_for_old_hooks() -> Changes:
    """The next agent begins while hooks of the dead one still run."""
    return [(SimWorkers, "kill_leftovers", lambda self: True)]


def _no_settling_of_old_hooks() -> Changes:
    """Nobody hands in the verdicts of a dead agent, nor ends its Session."""
    return [(processing_module, "settle_others", lambda *_: True)]


def _hooks_outlive_the_lease() -> Changes:
    def lease_until(self: SimWorkers, until: float) -> None:
        self.until = float("inf")

    return [(SimWorkers, "lease_until", lease_until), (Processing, "_is_over", lambda self, session: False)]


def _hooks_asked_for_anew() -> Changes:
    """A question for Jobs that was not answered is forgotten."""
    shipping = HookSession.acquire

    def acquire(self: HookSession, most: int, known_apps: dict[int, str]) -> Any:
        self._asked = None
        return shipping(self, most, known_apps)

    return [(HookSession, "acquire", acquire)]


def _unreachable_is_dead() -> Changes:
    """The Jobs of a node that can't be reached are given up at once."""
    shipping = Fleet._went

    def went(self: Fleet, node: int) -> None:
        shipping(self, node)
        self._give_up(self._remotes[node], "it can't be reached")

    return [(Fleet, "_went", went)]


def _no_lease_of_nodes() -> Changes:
    return [(SimNode, "minds_its_lease", False)]


def _no_waiting_for_nodes() -> Changes:
    """A launcher that was started again reports for the first one though nodes may not have heard of its end."""
    return [(Fleet, "is_settled", property(lambda self: True))]


def _lost_nodes_stay_in_use() -> Changes:
    return [(Runs, "lose", lambda self, node: self._on(node))]


def _no_doubt_about_ends() -> Changes:
    """What an mpirun says counts at once."""
    return [(NodeWatch, "is_doubtful", lambda self, order, return_code: False)]


def _no_trying_of_nodes() -> Changes:
    """A node is there as long as the batch system says so."""
    return [(Machine, "_nodes_silent", lambda self, now, happened: None)]


def _allocations_stay_without_launcher() -> Changes:
    return [(allocations_module, "_lost_its_script", lambda entry, job: False)]


def _cancelled_runs_end_as_they_may() -> Changes:
    """What a run came to before its kill was seen counts, whatever it was."""
    return [(lifecycle, "_BAD_ENDS", ())]


NODES = ("cut node", "kill launcher")
BY_SCHEDULER = LeaseKind.ALLOCATION

MUTATIONS = [
    Mutation("the idempotency key of submissions (S2)", 60, _no_idempotency_key),
    Mutation("delivery of a dead launcher's outbox (L2)", 200, _no_durable_outbox),
    Mutation("repeating a report until it is answered (S3)", 100, _reports_not_repeated),
    Mutation("answering a repeated acquire from memory (S3)", 100, _acquire_not_idempotent),
    Mutation("comparing acquires by order, not equality (S3)", 300, _equal_instead_of_ordered),
    Mutation("killing what a dead launcher left (S6)", 60, _no_guardian_for_dead_launchers),
    Mutation("the deadline at the guardian (S6)", 100, _no_deadline_in_guardian, ("stop launcher",)),
    Mutation(
        "that only the holder starts a Job (S6)", 300, _no_session_check_on_start, ("cut machine", "kill launcher")
    ),
    Mutation("searching the name before submitting (S11)", 100, _no_search_before_submit),
    Mutation("waiting while a submission is in doubt (S11)", 200, _no_waiting_in_doubt),
    Mutation("a slot is free only when its processes are gone (S9)", 60, _slot_freed_at_exit),
    Mutation("absence is not an end (S12)", 300, _absence_is_an_end),
    Mutation("finished is told after delivery (L3)", 300, _finished_before_delivery),
    Mutation(
        "cutting off a failed append (F10)",
        300,
        _failed_append_left_behind,
        ("disk full", "cut machine", "kill launcher"),
        LeaseKind.ALLOCATION,
    ),
    Mutation("waiting for the end of a dead agent's hooks (S6)", 100, _no_waiting_for_old_hooks, hooks=True),
    Mutation("handing in a dead agent's verdicts (L3)", 100, _no_settling_of_old_hooks, hooks=True),
    Mutation("the end of hooks with their lease (S6)", 100, _hooks_outlive_the_lease, ("cut agent",), hooks=True),
    Mutation("repeating an unanswered question for hooks (S3)", 100, _hooks_asked_for_anew, hooks=True),
    Mutation("that an unreachable node is not a dead one (S6)", 100, _unreachable_is_dead, NODES, BY_SCHEDULER),
    Mutation("the leases of nodes (S6)", 200, _no_lease_of_nodes, NODES, BY_SCHEDULER),
    Mutation("waiting for all nodes after a restart (S6)", 200, _no_waiting_for_nodes, NODES, BY_SCHEDULER),
    Mutation(
        "that a lost node is out of use for good (S9)", 60, _lost_nodes_stay_in_use, ("crash node",), BY_SCHEDULER
    ),
    Mutation("doubts about ends on other nodes (S10)", 100, _no_doubt_about_ends, ("crash node",), BY_SCHEDULER),
    Mutation("trying the nodes of such an end (S10)", 100, _no_trying_of_nodes, ("crash node",), BY_SCHEDULER),
    Mutation(
        "ending what has lost its first node (L1)",
        60,
        _allocations_stay_without_launcher,
        ("crash head",),
        BY_SCHEDULER,
    ),
    Mutation(
        "that what was cancelled is not run again (S8)",
        60,
        _cancelled_runs_end_as_they_may,
        ("user cancels", "cut machine", "kill launcher"),
    ),
]

# Not missed in the worlds tried so far, as another protection stands behind each: a report is also judged by its
# Session; a guardian whose deadline passed kills launcher and ranks, and the machine drains at the end of its lease.
# `python -m tests.simulation --without "fencing token"` looks for a world that does miss one.
DOUBLED = [
    Mutation("the fencing token (S7)", 1000, _no_fencing_token, ("cut machine", "kill launcher", "stop launcher")),
    Mutation(
        "that the end of a lease is one-way (S6)",
        1000,
        _lease_comes_back,
        ("freeze machine", "stop launcher", "cut machine"),
    ),
]
