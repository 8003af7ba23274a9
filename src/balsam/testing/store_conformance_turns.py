"""The part of the store conformance suite that is about people who share a Site. See store_conformance."""
# ruff: noqa: S101 -- tests that are shipped

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from balsam.domain.job_order import FIELDS
from balsam.domain.roles import Role
from balsam.server.principal import Principal
from balsam.testing.store_world import StoreWorld


def shared(world: StoreWorld, *names: str) -> list[Principal]:
    """People who may submit at the Site."""
    people = [world.add_user(name) for name in names]
    team = world.team(world.ada, *people)
    world.share(world.ada, team, Role.SUBMITTER, site_id=world.site.id)
    return people


def submitted(world: StoreWorld, who: Principal, count: int, **fields: Any) -> list[int]:
    return world.submit_all([world.job(**fields) for _ in range(count)], who).ids


class TurnRules:
    """Nobody waits for the end of another one's Jobs."""

    @pytest.mark.parametrize("tags", [{}, {"a": "1"}])
    @pytest.mark.parametrize("sort", FIELDS)
    def test_people_who_share_a_site_take_turns(self, world: StoreWorld, sort: str, tags: dict[str, str]) -> None:
        (bob,) = shared(world, "bob")
        many = world.submit(60, tags=tags, wall_time_min=50)
        few = submitted(world, bob, 10, tags=tags, wall_time_min=5)
        session = world.open_session()
        taken = [job.id for job in world.acquire(session.id, 24, sort_by=sort, filter_tags=tags)]
        assert [job_id for job_id in taken if job_id in few] == few
        assert [job_id for job_id in taken if job_id in many] == many[:14]
        first = taken[:20]
        assert all((one in few) != (next_one in few) for one, next_one in pairwise(first))

    def test_who_asks_for_one_job_at_a_time_comes_to_everybody(self, world: StoreWorld) -> None:
        people = [world.ada, *shared(world, "bob", "cleo")]
        owners = {job_id: who.username for who in people for job_id in submitted(world, who, 40)}
        session = world.open_session()
        had = Counter(owners[world.acquire(session.id, 1)[0].id] for _ in range(40))
        assert min(had[who.username] for who in people) >= 5, had

    def test_a_higher_priority_goes_before_turns(self, world: StoreWorld) -> None:
        (bob,) = shared(world, "bob")
        plain = world.submit(3)
        urgent = world.submit(3, priority=1)
        late = submitted(world, bob, 3, priority=-1)
        between = submitted(world, bob, 2)
        session = world.open_session()
        taken = [job.id for job in world.acquire(session.id, 20)]
        assert taken[:3] == urgent
        assert sorted(taken[3:8]) == sorted([*plain, *between])
        assert {taken[3], taken[4]} == {plain[0], between[0]}
        assert taken[8:] == late

    def test_who_has_nothing_that_fits_costs_nobody_a_turn(self, world: StoreWorld) -> None:
        bob, cleo = shared(world, "bob", "cleo")
        submitted(world, bob, 5, wall_time_min=500)
        submitted(world, cleo, 5, num_nodes=7)
        mine = world.submit(5)
        session = world.open_session()
        found = world.acquire(session.id, 10, max_wall_time_min=60, max_nodes_per_job=2)
        assert [job.id for job in found] == mine

    def test_room_that_is_left_is_given_in_turns(self, world: StoreWorld) -> None:
        (bob,) = shared(world, "bob")
        many = world.submit(9)
        few = submitted(world, bob, 2)
        session = world.open_session()
        taken = {job.id for job in world.acquire(session.id, 10, max_aggregate_nodes=5)}
        assert taken == {*few, *many[:3]}

    def test_hooks_are_granted_in_turns(self, world: StoreWorld) -> None:
        (bob,) = shared(world, "bob")
        app = world.add_app_with_hooks()
        world.submit(20, app_id=app.id)
        few = submitted(world, bob, 3, app_id=app.id)
        taken = {job.id for job in world.acquire(world.open_processing().id, 6)}
        assert taken >= set(few)

    def test_the_backlog_has_everybodys_jobs(self, world: StoreWorld) -> None:
        (bob,) = shared(world, "bob")
        world.submit(20, wall_time_min=5)
        submitted(world, bob, 3, wall_time_min=50)
        waiting = {one.wall_time_min: one.number for one in world.backlog(max_jobs=8).waiting}
        assert waiting == {5: 5, 50: 3}
