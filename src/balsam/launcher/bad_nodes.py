"""Which node fails Jobs as they start, told apart from Apps that fail wherever they run. Pure; part of the machine.

A node is suspect after N different Jobs in a row failed there at their start, each of an App that started well on
another node meanwhile, and on as many as it fails on besides. An App that fails now and then anywhere makes such rows
too: how often it does is counted on nodes that are well, and a row that may be chance is not held against the node.
What is open is never counted: neither Jobs of several nodes one of which was set aside, nor ends that we or the loss of
a node brought about.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from balsam.domain.packing import Placement
from balsam.launcher.machine_messages import LaunchJob

# Who ends with an error before this age failed at its start; who gets older, or ends well, started well.
START_SEC = 5.0
# A row of failures that good nodes would show more often than this is not the node's fault.
BY_CHANCE = 1e-6
# So much of a row is remembered.
LONGEST_ROW = 100


class Suspect(NamedTuple):
    """A node by index, and how many different Jobs in a row failed at their start there."""

    node: int
    jobs: int


class _Start(NamedTuple):
    job_id: int
    app_id: int
    nodes: tuple[int, ...]
    at: float


@dataclass(slots=True)
class _Tally:
    """Starts of an App on nodes that are well; `well_at`: when the last that went well on each node was made."""

    well: int = 0
    failed: int = 0
    well_at: dict[int, float] = field(default_factory=dict)

    @property
    def failure_rate(self) -> float:
        """Once it was seen to fail rather too high: what is seen of an App at first is little."""
        return (self.failed + 1) / (self.well + self.failed + 1) if self.failed else 0.0


class BadNodes:
    """What became of starts on the nodes of a partition. `most_failed`: N; with 0 no node is ever suspect."""

    def __init__(self, most_failed: int) -> None:
        self._most_failed = most_failed
        self._longest_row = max(most_failed, LONGEST_ROW)
        self._young: OrderedDict[int, _Start] = OrderedDict()
        self._brief: dict[int, _Start] = {}
        self._rows: dict[int, dict[int, _Start]] = {}
        self._apps: dict[int, _Tally] = {}
        self._aside: set[int] = set()

    def began(self, now: float, job: LaunchJob, placement: Placement) -> None:
        """The process of a Job runs, or was tried to start."""
        if self._most_failed:
            nodes = tuple([share.node for share in placement.shares])
            self._young[job.id] = _Start(job.id, job.app_id, nodes, now)

    def exited(self, now: float, job_id: int, is_well: bool) -> None:
        """The first process of a Job ended; whose fault that is may be known only at its `over`."""
        self._grow_up(now)
        start = self._young.pop(job_id, None)
        if start is None:
            return
        if is_well:
            self._went_well(start)
        else:
            self._brief[job_id] = start

    def over(self, job_id: int, is_own_end: bool) -> Suspect | None:
        """The run is over; `is_own_end`: nobody else ended it. Returns the node that is suspect by now, if one is."""
        self._young.pop(job_id, None)
        start = self._brief.pop(job_id, None)
        if start is None or not is_own_end or not self._aside.isdisjoint(start.nodes):
            return None
        for node in start.nodes:
            row = self._rows.setdefault(node, {})
            row.setdefault(job_id, start)
            if len(row) > self._longest_row:
                del row[next(iter(row))]
        # Of the nodes of one Job one is suspect at a time: the others may prove themselves without it.
        worst = max(start.nodes, key=lambda node: len(self._rows[node]))
        against = self._held_against(worst)
        return Suspect(worst, against) if against else None

    def set_aside(self, node: int) -> None:
        """Nothing that has to do with this node says anything of others."""
        self._aside.add(node)

    def _grow_up(self, now: float) -> None:
        while self._young and now - next(iter(self._young.values())).at >= START_SEC:
            self._went_well(self._young.popitem(last=False)[1])

    def _went_well(self, start: _Start) -> None:
        tally, at = self._tally(start.app_id), start.at
        tally.well += 1
        for node in start.nodes:
            if tally.well_at.get(node, at) <= at:
                tally.well_at[node] = at
            # What was started before the row began does not say that the node is still well.
            if node in self._rows and at >= _began_at(self._rows[node]):
                self._forgive(node)

    def _tally(self, app_id: int) -> _Tally:
        tally = self._apps.get(app_id)
        if tally is None:
            tally = self._apps[app_id] = _Tally()
        return tally

    def _forgive(self, node: int) -> None:
        """The node starts Jobs: what failed there failed by itself, or by another node that is still open."""
        for failed in self._rows.pop(node).values():
            if not any(failed.job_id in self._rows.get(other, ()) for other in failed.nodes):
                self._tally(failed.app_id).failed += 1

    def _held_against(self, node: int) -> int:
        """How many Jobs make the node suspect; 0: it is not."""
        row = self._rows[node]
        if len(row) < self._most_failed:
            return 0
        since = _began_at(row)
        well_on = {app: self._well_elsewhere(app, node, since) for app in {start.app_id for start in row.values()}}
        held = [start.app_id for start in row.values() if well_on[start.app_id]]
        if len(held) < self._most_failed or prod(self._apps[app].failure_rate for app in held) > BY_CHANCE:
            return 0
        return len(held) if all(well_on[app] >= self._fails_elsewhere(app, node) for app in set(held)) else 0

    def _well_elsewhere(self, app_id: int, node: int, since: float) -> int:
        """On how many other nodes the App started well since then."""
        tally = self._apps.get(app_id)
        return 0 if tally is None else sum(at >= since for other, at in tally.well_at.items() if other != node)

    def _fails_elsewhere(self, app_id: int, node: int) -> int:
        """On how many other nodes the App failed when it was tried last, without this one."""
        return sum(
            any(start.app_id == app_id and node not in start.nodes for start in row.values())
            for other, row in self._rows.items()
            if other != node and other not in self._aside
        )


def _began_at(row: dict[int, _Start]) -> float:
    return next(iter(row.values())).at
