"""The part of the store conformance suite that is about Jobs that can be granted behind what was granted before.

A store may remember how far the last acquire came; nothing that comes to stand before that may be passed over. There
are always more Jobs than are asked for: who finds too few looks everywhere. See store_conformance.
"""
# ruff: noqa: S101 -- tests that are shipped

from collections.abc import Callable

import pytest

from balsam.testing.store_conformance_turns import shared, submitted
from balsam.testing.store_world import StoreWorld
from balsam.wire.sessions import LaunchEvent

MANY = 30


class OrderRules:
    """The next acquire begins with the first Job there is."""

    @pytest.fixture(params=["all", "tags"])
    def take(self, world: StoreWorld, request: pytest.FixtureRequest) -> Callable[[int], list[int]]:
        """Grants Jobs to one Session after five of many were granted to it; all Jobs have the tag."""
        tags = {"a": "1"} if request.param == "tags" else {}
        world.submit(MANY, tags={"a": "1"})
        session = world.open_session().id

        def take(count: int) -> list[int]:
            return [job.id for job in world.acquire(session, count, filter_tags=tags, max_wall_time_min=60)]

        take(5)
        return take

    def test_one_of_higher_priority_that_came_later_is_next(
        self, world: StoreWorld, take: Callable[[int], list[int]]
    ) -> None:
        (urgent,) = world.submit(priority=1, tags={"a": "1"})
        late = world.submit(MANY, tags={"a": "1"})
        assert take(2)[0] == urgent
        assert set(take(2 * MANY)) >= set(late)

    def test_one_whose_priority_was_raised_is_next(self, world: StoreWorld, take: Callable[[int], list[int]]) -> None:
        *_, last = world.submit(3, tags={"a": "1"})
        take(1)
        world.write(lambda tx: tx.change_jobs({last: {"priority": 7}}, 9))
        assert take(2)[0] == last

    def test_one_that_was_given_back_is_next(self, world: StoreWorld, take: Callable[[int], list[int]]) -> None:
        session = world.open_session().id
        job = world.acquire(session, 1)[0]
        take(3)
        world.tell(session, job, LaunchEvent.RELEASED)
        assert take(2)[0] == job.id

    def test_what_a_dead_launcher_held_is_next(self, world: StoreWorld, take: Callable[[int], list[int]]) -> None:
        session = world.open_session().id
        granted, started = world.acquire(session, 2)
        world.tell(session, started, LaunchEvent.STARTED)
        take(3)
        world.close(session, lost=True)
        assert take(3)[:2] == [granted.id, started.id]

    def test_one_that_is_tried_again_is_next(self, world: StoreWorld, take: Callable[[int], list[int]]) -> None:
        session = world.open_session().id
        job = world.acquire(session, 1)[0]
        world.tell(session, job, LaunchEvent.STARTED, LaunchEvent.RUN_ERROR, return_code=1)
        take(3)
        world.retry([job.id])
        assert take(2)[0] == job.id

    def test_somebody_who_had_no_job_has_a_turn(self, world: StoreWorld, take: Callable[[int], list[int]]) -> None:
        (bob,) = shared(world, "bob")
        few = submitted(world, bob, 2, tags={"a": "1"})
        assert set(take(4)) >= set(few)

    def test_somebody_whose_jobs_were_all_too_long_has_a_turn(
        self, world: StoreWorld, take: Callable[[int], list[int]]
    ) -> None:
        (bob,) = shared(world, "bob")
        submitted(world, bob, 2, tags={"a": "1"}, wall_time_min=600)
        take(2)
        (short,) = submitted(world, bob, 1, tags={"a": "1"}, wall_time_min=5)
        assert short in take(3)

    def test_a_child_is_next_once_its_parent_has_finished(
        self, world: StoreWorld, take: Callable[[int], list[int]]
    ) -> None:
        session = world.open_session().id
        parent = world.acquire(session, 1)[0]
        (child,) = world.submit(parent_ids=[parent.id], tags={"a": "1"})
        world.submit(MANY, tags={"a": "1"})
        take(MANY)  # past the child
        take(1)
        world.tell(session, parent, LaunchEvent.STARTED, LaunchEvent.RUN_DONE, return_code=0)
        assert child in take(1)

    def test_one_that_got_the_tag_is_next(self, world: StoreWorld) -> None:
        (plain,) = world.submit()
        world.submit(MANY, tags={"a": "1"})
        session = world.open_session().id
        world.acquire(session, 5, filter_tags={"a": "1"})
        world.write(lambda tx: tx.change_jobs({plain: {"tags": {"a": "1"}}}, 9))
        assert world.acquire(session, 2, filter_tags={"a": "1"})[0].id == plain

    def test_hooks_that_are_awaited_again_are_next(self, world: StoreWorld) -> None:
        app = world.add_app_with_hooks()
        world.submit(MANY, app_id=app.id)
        first, second = world.open_processing().id, world.open_processing().id
        job = world.acquire(first, 1)[0]
        world.acquire(second, 5)
        world.tell(first, job, LaunchEvent.RELEASED)
        assert world.acquire(second, 2)[0].id == job.id
