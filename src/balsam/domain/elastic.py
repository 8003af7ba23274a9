"""How many allocations to ask for: from what waits, what will take it and what is allowed, to one request and why.

The elastic queue of a Site's agent calls `decide` once per period and carries out what it says. All of it is arithmetic
on what was counted: called again before anything has changed it says the same, and called again after its request
stands among the supplies it asks only for what is still not covered.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

# What of an allocation's time a launcher needs for its own start and end: no Job is counted on it.
MARGIN_MIN = 1
_EPSILON = 1e-9
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Demand:
    """Jobs alike that nobody holds: `number` of them, `packing` to a node. `wall_time_min` 0: nobody knows how long."""

    num_nodes: int
    wall_time_min: int
    packing: int
    number: int

    @property
    def size(self) -> float:
        """Nodes of one of them."""
        return self.num_nodes / self.packing

    @property
    def nodes(self) -> float:
        """Nodes of all of them at the same time."""
        return self.number * self.size


Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Supply:
    """Nodes that take Jobs soon: of an allocation that waits, or what one that runs has free.

    `takes`: the name of what it takes, where its tags or its mode let it take a part of the demands only.
    """

    num_nodes: int
    free_nodes: float
    minutes: float
    takes: int | None = None


@dataclass(frozen=True, slots=True)
class OwnAllocation:
    """One that was asked for here and has not ended; `waited_min` None: it runs."""

    batch_job_id: int
    waited_min: float | None


@dataclass(frozen=True, slots=True)
class Window:
    """Nodes that are idle until somebody else's allocation needs them."""

    num_nodes: int
    wall_time_min: int


@dataclass(frozen=True, slots=True)
class ElasticLimits:
    """The settings of the elastic queue, as far as queue and scheduler allow them. Times in minutes."""

    min_num_nodes: int
    max_num_nodes: int
    min_wall_time_min: int
    max_wall_time_min: int
    wall_time_pad_min: int
    max_queue_wait_time_min: int
    max_queued_jobs: int
    use_backfill: bool

    @property
    def longest_ask_min(self) -> int:
        """What is asked for where no window says less."""
        return max(self.min_wall_time_min, self.max_wall_time_min - self.wall_time_pad_min)

    @property
    def longest_job_min(self) -> int:
        """The longest Job for which an allocation is asked for."""
        return self.longest_ask_min - MARGIN_MIN


@dataclass(frozen=True, slots=True)
class Ask:
    """One allocation to ask for."""

    num_nodes: int
    wall_time_min: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, and why, in words."""

    reason: str
    ask: Ask | None = None
    cancel: tuple[int, ...] = ()


def decide(
    demands: Sequence[Demand],
    parts: Mapping[int, Sequence[Demand]],
    supplies: Sequence[Supply],
    own: Sequence[OwnAllocation],
    windows: Sequence[Window],
    limits: ElasticLimits,
    paused: str = "",
) -> Decision:
    """One period's decision. `parts`: by the name in `Supply.takes`, what of the demands it takes.

    >>> limits = ElasticLimits(1, 8, 10, 60, 5, 30, 4, use_backfill=False)
    >>> decide([Demand(2, 0, 1, 3)], {}, [], [], [], limits).ask
    Ask(num_nodes=6, wall_time_min=55)
    """
    late = tuple(one.batch_job_id for one in own if (one.waited_min or 0) > limits.max_queue_wait_time_min)
    if late:
        text = f"ends {_named(late)}: queued for longer than {limits.max_queue_wait_time_min} min"
        return Decision(f"{text} (max_queue_wait_time_min)", cancel=late)
    left = uncovered(demands, parts, supplies)
    if not left:
        what = "the allocations that are there take all that waits" if demands else "no Job waits that it could run"
        return Decision(f"asks for nothing: {what}")
    if paused:
        return Decision(f"paused: {paused}")
    if len(own) >= limits.max_queued_jobs:
        return Decision(f"asks for nothing: {len(own)} of its allocations wait or run (max_queued_jobs)")
    return _asking(left, windows, limits)


def uncovered(
    demands: Iterable[Demand], parts: Mapping[int, Sequence[Demand]], supplies: Iterable[Supply]
) -> list[Demand]:
    """What no supply will take. The widest and longest Jobs choose first, and take the shortest supply that fits."""
    rooms = [_Room(one, one.free_nodes) for one in sorted(supplies, key=lambda one: (one.minutes, one.free_nodes))]
    allowed = {name: {_shape(part): part.number for part in some} for name, some in parts.items()}
    left = []
    for demand in sorted(demands, key=_widest_first):
        number = demand.number
        for room in rooms:
            number -= room.take(replace(demand, number=number), allowed)
        if number:
            left.append(replace(demand, number=number))
    return left


@dataclass(slots=True)
class _Room:
    """What is left of a supply."""

    supply: Supply
    free_nodes: float

    def take(self, demand: Demand, allowed: dict[int, dict[Shape, int]]) -> int:
        """Take as many of the Jobs as fit."""
        supply = self.supply
        if demand.num_nodes > supply.num_nodes or demand.wall_time_min > supply.minutes:
            return 0
        fitting = min(demand.number, math.floor(self.free_nodes / demand.size + _EPSILON))
        if supply.takes is not None:
            most = allowed.get(supply.takes, {})
            fitting = min(fitting, most.get(_shape(demand), 0))
            most[_shape(demand)] = most.get(_shape(demand), 0) - fitting
        fitting = max(0, fitting)
        self.free_nodes -= fitting * demand.size
        return fitting


def _shape(demand: Demand) -> Shape:
    return demand.num_nodes, demand.wall_time_min, demand.packing


def _widest_first(demand: Demand) -> tuple[int, int, int]:
    return -demand.num_nodes, -demand.wall_time_min, demand.packing


def _asking(left: Sequence[Demand], windows: Sequence[Window], limits: ElasticLimits) -> Decision:
    """The request for what is not covered: in the window that serves most of it, else in the queue."""
    waiting = f"{sum(demand.number for demand in left)} Jobs wait that no allocation will take"
    options = [(_ask(left, window, limits), window) for window in windows] if limits.use_backfill else []
    fitting = [(ask, window) for ask, window in options if ask is not None]
    if fitting:
        ask, window = max(fitting, key=lambda option: (option[0].num_nodes, option[0].wall_time_min))
        idle = f"; {window.num_nodes} nodes are idle for {window.wall_time_min} min"
        return Decision(f"asks for {_words(ask)}: {waiting}{idle}", ask)
    widest = Window(limits.max_num_nodes, limits.longest_ask_min + limits.wall_time_pad_min)
    found = _ask(left, widest, limits)
    if found is None:
        most = f"{limits.max_num_nodes} nodes for {limits.longest_job_min} min"
        return Decision(f"asks for nothing: {waiting}, and each needs more than {most}, the most it may ask for")
    return Decision(f"asks for {_words(found)}: {waiting}", found)


def _ask(left: Sequence[Demand], window: Window, limits: ElasticLimits) -> Ask | None:
    """The request within a window; None when the window is too small or too short for all of it."""
    num_nodes = min(limits.max_num_nodes, window.num_nodes)
    wall_time_min = min(limits.longest_ask_min, window.wall_time_min - limits.wall_time_pad_min)
    if num_nodes < limits.min_num_nodes or wall_time_min < limits.min_wall_time_min:
        return None
    supply = Supply(num_nodes, num_nodes, wall_time_min - MARGIN_MIN)
    rest = uncovered(left, {}, [supply])
    served = sum(demand.nodes for demand in left) - sum(demand.nodes for demand in rest)
    if served <= _EPSILON:
        return None
    return Ask(max(limits.min_num_nodes, math.ceil(served - _EPSILON)), wall_time_min)


def _words(ask: Ask) -> str:
    return f"{ask.num_nodes} node{'s' if ask.num_nodes != 1 else ''} for {ask.wall_time_min} min"


def _named(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:_SHOWN])) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
    return f"BatchJob{'s' if len(ids) > 1 else ''} {shown}"
