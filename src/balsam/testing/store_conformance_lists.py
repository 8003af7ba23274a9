"""The part of the store conformance suite that is about look-ups, groups and pages. See store_conformance.

What a condition means is `server.store.conditions.holds`: the suite asks it about each row, and the store about all.
"""
# ruff: noqa: S101 -- tests that are shipped

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balsam.domain.failure import Failure
from balsam.domain.states import JobState
from balsam.server.errors import Invalid
from balsam.server.store.conditions import MISSING, Condition, groups, holds, value_at
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import EventRow, JobRow
from balsam.server.store.selections import EventSelection, JobSelection, PageWindow
from balsam.testing.store_world import StoreWorld
from balsam.wire.kinds import EVENT_FIELDS, JOB_FIELDS, OPS_OF, Kind
from balsam.wire.lookups import Lookup
from balsam.wire.sessions import LaunchEvent

COLUMNS = sorted(JOB_FIELDS.keys() - {"app_name", "submitted_by"})  # which use cases turn into ids
KEYS = ["x", "y z", "ü"]
NUMBERS: list[Any] = [0, 1, 2, -3, 1.0, 2.5, 1e20]
TEXTS: list[Any] = ["", "a", "ab", "b", "%", "1", "ä\U0001f600"]
SCALARS: list[Any] = [*NUMBERS, *TEXTS, True, False, None]
LISTS: list[Any] = [[], ["a"], [1, 2], [1, "a", None]]
VALUES: list[Any] = [*SCALARS, *LISTS, {"x": 1}, {"x": {"x": "a"}}]
DOCUMENTS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)
SHAPES = st.fixed_dictionaries(
    {
        "num_nodes": st.integers(1, 3),
        "gpus_per_rank": st.sampled_from([0, 0.5, 1, 2]),
        "max_attempts": st.sampled_from([None, 1, 3]),
        "workdir": st.sampled_from(["a", "a/b", "b", "ab%"]),
        "tags": st.dictionaries(st.sampled_from("kl"), st.sampled_from(["1", "12", "x"]), max_size=2),
        "data": DOCUMENTS,
    }
)
ROWS = st.lists(SHAPES, min_size=1, max_size=6)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """Any condition on a Job that a look-up can become."""
    column = draw(st.sampled_from(COLUMNS))
    kind = JOB_FIELDS[column]
    op = draw(st.sampled_from(sorted(OPS_OF[kind])))
    path = draw(st.lists(st.sampled_from([*KEYS, "k"]), min_size=1, max_size=2)) if kind is Kind.JSON else []
    one = st.sampled_from(_values(kind))
    value = draw(st.booleans() if op == "isnull" else st.lists(one, max_size=3) if op == "in" else one)
    if kind is not Kind.TIME and Lookup(field=column, path=path, op=op, value=value).problem(JOB_FIELDS):
        value = [1, "a"] if op == "in" else "a" if op in ("contains", "startswith", "endswith") else 1
    return Condition(column, op, tuple(value) if isinstance(value, list) else value, tuple(path))


def event_conditions() -> Iterator[Condition]:
    """Every condition on an event with one of a few values."""
    for column, kind in EVENT_FIELDS.items():
        states = [JobState.CREATED, JobState.READY, JobState.RUNNING]
        values = states if kind is Kind.JOB_STATE else [0, 1, 2, 3] if kind is Kind.TIME else [0, 1, 2, 3, "a"]
        path = ["return_code"] if kind is Kind.JSON else []
        for op, value in product(sorted(OPS_OF[kind]), values):
            asked: Any = [value] if op == "in" else bool(value) if op == "isnull" else value
            if kind is Kind.TIME or not Lookup(field=column, path=path, op=op, value=asked).problem(EVENT_FIELDS):
                yield Condition(column, op, tuple(asked) if isinstance(asked, list) else asked, tuple(path))


def _values(kind: Kind) -> list[Any]:
    match kind:
        case Kind.INTEGER:
            return [0, 1, 2, 3, 2**40]
        case Kind.NUMBER:
            return [0, 0.5, 1, 1.5]
        case Kind.TEXT:
            return [*TEXTS, "a/b"]
        case Kind.TIME:
            return [0, 10**15, 2 * 10**15]
        case Kind.FLAG:
            return [True, False]
        case Kind.JSON:
            return [*SCALARS, ["a"], [1, 2]]
        case Kind.FAILURE:
            return list(Failure)
        case _:
            return list(JobState)


def fill(world: StoreWorld, shapes: list[dict[str, Any]]) -> list[JobRow]:
    """Only these Jobs, one of which ran, one of which runs. Returns all rows."""
    for held in world.page(state=["RUNNING"]):
        world.close(held.session_id or 0)
    world.delete()
    for shape in shapes:
        world.submit(**shape)
    session = world.open_session()
    for number, job in enumerate(world.acquire(session.id, 2)):
        world.tell(session.id, job, LaunchEvent.STARTED)
        if number:
            world.tell(session.id, job, LaunchEvent.RUN_ERROR, return_code=1)
    return world.read(lambda tx: tx.job_page(JobSelection(world.ada.user_id), PageWindow()))


class ListRules:
    """Look-ups, groups and pages."""

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(shapes=ROWS, asked=st.lists(conditions(), min_size=6, max_size=6))
    def test_a_condition_selects_what_it_means(self, world: StoreWorld, shapes: Any, asked: list[Condition]) -> None:
        rows = fill(world, shapes)
        for condition in asked:
            selection = JobSelection(world.ada.user_id, conditions=(condition,))
            wanted = [row for row in rows if holds(condition, getattr(row, condition.column))]
            assert world.read(partial(_ids, selection=selection)) == [row.id for row in wanted]
            assert world.read(partial(_count, selection=selection)) == len(wanted)
            assert world.read(partial(_counts, selection=selection)) == Counter(row.state for row in wanted)

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(shapes=ROWS)
    def test_groups_are_what_counting_gives(self, world: StoreWorld, shapes: Any) -> None:
        rows = fill(world, shapes)
        for column, part in product(COLUMNS, (None, "a")):
            selection = JobSelection(world.ada.user_id, workdir_contains=part)
            for path in [(key,) for key in [*KEYS, "k"]] if JOB_FIELDS[column] is Kind.JSON else [()]:
                found = world.read(partial(_groups, selection=selection, column=column, path=path))
                values = [value_at(getattr(row, column), path) for row in rows if (part or "") in row.workdir]
                assert found == groups(((None if value is MISSING else value, 1) for value in values), 100)

    def test_conditions_on_events(self, world: StoreWorld) -> None:
        """All that look-ups can ask of events, times as well, which are compared like numbers."""
        fill(world, [{}, {}, {}])
        every, window = EventSelection(world.ada.user_id), PageWindow("timestamp")
        events = world.read(lambda tx: tx.events(every, window))
        for condition in event_conditions():
            some = EventSelection(world.ada.user_id, conditions=(condition,))
            wanted = [event for event in events if holds(condition, getattr(event, condition.column))]
            assert world.read(partial(_events, selection=some, window=window)) == wanted, condition
            assert world.read(partial(_event_count, selection=some)) == len(wanted), condition

    def test_a_nul_or_an_endless_number_stands_in_nobody_s_way(self, world: StoreWorld) -> None:
        """They are stored as they are; what stands beside them is found, and no question fails."""
        odd: list[dict[str, Any]] = [
            {"x": "a", "y z": "\u0000"},
            {"x": "a", "y z": "b\u0000\u0000\\u0000", "\u0000": 1},
            {"x": "a", "y z": ["\u0000", "c"]},
            {"x": "a", "y z": {"\u0000": {"x": "\\\u0000"}}},
            {"x": "a", "y z": 10**400},
            {"x": "a", "y z": -(10**400)},
            {"x": "\\u0000", "y z": "a"},
        ]
        rows = fill(world, [{"data": data} for data in odd])
        assert [row.data for row in rows] == odd
        for value in SCALARS:
            for op in sorted(OPS_OF[Kind.JSON]):
                asked: Any = (value,) if op == "in" else bool(value) if op == "isnull" else value
                if Lookup(field="data", path=["x"], op=op, value=[value] if op == "in" else asked).problem(JOB_FIELDS):
                    continue
                for key in ("x", "y z"):
                    condition = Condition("data", op, asked, (key,))
                    selection = JobSelection(world.ada.user_id, conditions=(condition,))
                    found = world.read(partial(_ids, selection=selection))
                    # What a text with a NUL is equal to, and what is a part of it, is not the same everywhere.
                    if key == "x" or (op in ("gt", "gte", "lt", "lte") and not isinstance(value, str)):
                        assert found == [row.id for row in rows if holds(condition, row.data)], condition
        every = JobSelection(world.ada.user_id)
        assert world.read(partial(_groups, selection=every, column="data", path=("x",)))[0] == ("a", 6)
        assert world.read(partial(_groups, selection=every, column="data", path=("y z",)))

    def test_s14_conditions_never_cross_owners(self, world: StoreWorld) -> None:
        eve = world.add_user("eve")
        site = world.add_site(eve)
        app = world.add_app(eve, site)
        world.submit(3, num_nodes=2, data={"x": 1})
        world.submit_all([world.job(app_id=app.id, num_nodes=2, data={"x": 1})], eve)
        for condition in (Condition("num_nodes", "eq", 2), Condition("data", "eq", 1, ("x",))):
            for who, number in ((eve, 1), (world.ada, 3)):
                selection = JobSelection(who.user_id, conditions=(condition,))
                rows = world.read(partial(_page, selection=selection))
                assert [row.owner_id for row in rows] == [who.user_id] * number
                assert world.read(partial(_groups, selection=selection, column="data", path=("x",))) == [(1, number)]
                assert world.read(partial(_groups, selection=selection, column="num_nodes", path=())) == [(2, number)]

    def test_pages_go_on_after_their_last_row_in_every_order(self, world: StoreWorld) -> None:
        for number in range(25):
            world.submit(workdir=f"w{number % 4}")
            world.clock.advance(number % 2)
        world.cancel([3, 9, 11])
        for ordering in ("id", "-id", "last_update", "-last_update", "state", "-state", "workdir", "-workdir"):
            whole = [job.id for job in world.page(ordering=ordering)]
            seen: list[int] = []
            after: dict[str, Any] = {}
            while page := world.page(ordering=ordering, limit=4, **after):
                seen += [job.id for job in page]
                last = page[-1]
                value = None if ordering in ("id", "-id") else getattr(last, ordering.removeprefix("-"))
                after = {"after": last.id} if value is None else {"after": last.id, "after_value": _text(value)}
            assert seen == whole, ordering
            assert sorted(seen) == list(range(1, 26))

    def test_pages_of_events_go_on_after_their_last_row(self, world: StoreWorld) -> None:
        for number in range(9):
            world.submit()
            world.clock.advance(number % 2)
        for ordering in ("timestamp", "-timestamp"):
            whole = world.event_page(ordering=ordering)
            seen: list[Any] = []
            after: dict[str, Any] = {}
            while page := world.event_page(ordering=ordering, limit=4, **after):
                seen += page
                after = {"after": page[-1].id, "after_value": page[-1].timestamp.isoformat()}
            assert seen == whole
            assert len(seen) == 27

    def test_a_page_that_can_not_go_on_is_refused(self, world: StoreWorld) -> None:
        for ordering, value in (("state", "NO_STATE"), ("last_update", "yesterday"), ("-workdir", None)):
            with pytest.raises(Invalid, match="after_value"):
                world.page(ordering=ordering, after=1, after_value=value)


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _page(tx: ReadTx, selection: JobSelection) -> list[JobRow]:
    return tx.job_page(selection, PageWindow())


def _groups(tx: ReadTx, selection: JobSelection, column: str, path: tuple[str, ...]) -> list[tuple[Any, int]]:
    return tx.job_groups(selection, column, path, 100)


def _ids(tx: ReadTx, selection: JobSelection) -> list[int]:
    return tx.job_ids(selection, 0, 100)


def _count(tx: ReadTx, selection: JobSelection) -> int:
    return tx.job_count(selection)


def _counts(tx: ReadTx, selection: JobSelection) -> dict[JobState, int]:
    return tx.job_counts(selection)


def _events(tx: ReadTx, selection: EventSelection, window: PageWindow) -> list[EventRow]:
    return tx.events(selection, window)


def _event_count(tx: ReadTx, selection: EventSelection) -> int:
    return tx.event_count(selection)
