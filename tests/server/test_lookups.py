"""Look-ups, groups, long queries and slow ones, from the use cases and over HTTP."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from balsam.domain.roles import Role
from balsam.domain.states import BatchJobState, JobState
from balsam.server.errors import Invalid, TooSlow
from balsam.server.store.memory import MemoryStore
from balsam.server.store.selections import JobSelection
from balsam.server.store.sqlite import SqliteStore
from balsam.server.usecases import apps, batch_job_lists, jobs, sites
from balsam.server.usecases.filters import job_selections
from balsam.testing.store_world import StoreWorld, run
from balsam.wire.apps import AppFilter
from balsam.wire.batch_jobs import BatchJobFilter, BatchJobPatch, BatchJobQuery, BatchJobsSelect, BatchJobsUpdate
from balsam.wire.jobs import JobFilter
from balsam.wire.limits import MAX_BULK, MAX_TAGS
from balsam.wire.lookups import MAX_LOOKUPS, Lookup
from balsam.wire.sites import SiteFilter
from tests.server.world import make_app, make_jobs, make_site, ok
from tests.services import RunningService, running_service


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreWorld]:
    store: Any = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "balsam.sqlite", durable=False)
    yield StoreWorld(store)
    store.close()


def look(field: str, op: Any = "eq", value: Any = None, *path: str) -> Lookup:
    return Lookup(field=field, op=op, value=value, path=list(path))


def ids(world: StoreWorld, *lookups: Lookup, **more: Any) -> list[int]:
    found = [job.id for job in world.page(where=list(lookups), **more)]
    assert world.count(where=list(lookups), **more) == len(found)
    return found


def test_what_people_ask(world: StoreWorld) -> None:
    start = world.now
    small = world.submit(2, num_nodes=1, tags={"n": "1"}, data={"grid": {"x": 3, "kind": "fine"}})
    world.clock.advance(10)
    large = world.submit(2, num_nodes=8, priority=3, workdir="big/run", data={"grid": {"x": 4.5}, "steps": [1, 2]})
    every = [*small, *large]
    assert ids(world, look("num_nodes", "gt", 1)) == large
    assert ids(world, look("num_nodes", "in", [1, 2])) == small
    assert ids(world, look("num_nodes", "ne", 8)) == small
    assert ids(world, look("workdir", "startswith", "big")) == ids(world, look("workdir", "endswith", "/run")) == large
    assert ids(world, look("data", "gte", 3, "grid", "x")) == every
    assert ids(world, look("data", "gt", 3, "grid", "x"), look("num_nodes", "lt", 9)) == large
    assert ids(world, look("data", "eq", 3.0, "grid", "x")) == small
    assert ids(world, look("data", "contains", "in", "grid", "kind")) == small
    assert ids(world, look("data", "contains", 2, "steps")) == large
    assert ids(world, look("data", "isnull", True, "steps")) == small
    assert ids(world, look("data", "ne", "fine", "grid", "kind")) == large, "what is missing differs from everything"
    assert ids(world, look("parameters", "eq", "world", "name")) == every
    assert ids(world, look("tags", "eq", "1", "n")) == ids(world, look("tags", "startswith", "", "n")) == small
    assert ids(world, look("app_name", "contains", "ell")) == every
    assert ids(world, look("app_name", "ne", "hello")) == []
    assert ids(world, look("created_at", "gt", start.isoformat())) == large
    assert ids(world, look("last_update", "lte", start.isoformat())) == small
    assert ids(world, look("last_update", "lt", start.isoformat())) == []
    assert ids(world, look("last_update", "gte", (start + timedelta(seconds=10)).isoformat())) == large
    assert ids(world, look("state", "ne", "PREPROCESSED")) == []
    assert ids(world, look("id", "in", [1, 4, 99])) == [1, 4]
    assert ids(world, look("id", "eq", 4), id=[1, 4]) == [4]
    assert ids(world, look("id", "eq", 2), id=[1, 4]) == []
    assert ids(world, look("return_code", "isnull", True)) == every


@pytest.mark.parametrize(
    ("lookup", "says"),
    [
        (look("owner_id", "eq", 1), "can't be looked up; there are: app_id"),
        (look("token", "eq", 1), "can't be looked up"),
        (look("num_nodes", "contains", "1"), "can't be looked up by 'contains'; it can by: eq, ne, in, gt"),
        (look("num_nodes", "gt", "many"), "'many' is not a whole number"),
        (look("num_nodes", "eq", True), "True is not a whole number"),
        (look("num_nodes", "eq", None), "None is not a whole number"),
        (look("num_nodes", "eq", 2**63), "is not a whole number"),
        (look("data", "gt", 2**63, "x"), "9223372036854775808 has more than 64 bits"),
        (look("data", "in", [1, -(10**400)], "x"), "... (402 digits) has more than 64 bits"),
        (look("workdir", "in", ["a", "a\0b"]), "a text with a NUL can't be looked up"),
        (look("data", "contains", "\0", "x"), "a text with a NUL can't be looked up"),
        (look("num_nodes", "in", 3), "in takes a list"),
        (look("num_nodes", "in", [3, "x"]), "'x' is not"),
        (look("num_nodes", "isnull", 1), "isnull is true or false"),
        (look("num_nodes", "eq", 1, "x"), "there is nothing below it"),
        (look("state", "eq", "RUNING"), "'RUNING' is not a state of a Job"),
        (look("failure", "eq", "bad_luck"), "'bad_luck' is not a failure class"),
        (look("state", "gt", "RUNNING"), "can't be looked up by 'gt'"),
        (look("created_at", "gt", "yesterday"), "not a time with its zone"),
        (look("created_at", "gt", "2026-01-01T00:00:00"), "not a time with its zone"),
        (look("parameters", "eq", 1), "say which key in it"),
        (look("parameters", "eq", 1, 'a"b'), "can't be looked up"),
        (look("parameters", "eq", 1, "a\\b"), "can't be looked up"),
        (look("parameters", "eq", {"a": 1}, "x"), "is not a JSON value"),
        (look("parameters", "gt", [1], "x"), "is not a JSON value"),
        (look("cancel_requested", "gt", True), "can't be looked up by 'gt'"),
    ],
)
def test_a_wrong_look_up_says_what_is_wrong(world: StoreWorld, lookup: Lookup, says: str) -> None:
    with pytest.raises(Invalid) as refusal:
        ids(world, look("id", "gt", 0), lookup)
    assert refusal.value.details[0].where == "where[1]"
    assert says in refusal.value.details[0].message


def test_look_ups_go_through_the_index_that_the_filter_of_that_name_has(world: StoreWorld) -> None:
    """However it is written, a million Jobs are not read one by one for it."""

    def selection(*lookups: Lookup, **more: Any) -> JobSelection:
        message = JobFilter(where=list(lookups), **more)
        [found] = world.read(lambda tx: job_selections(tx, world.ada, message, Role.VIEWER))
        return found

    now = world.now
    for lookup, filters in (
        (look("id", "in", [1, 2]), {"id": [1, 2]}),
        (look("app_id", "eq", 7), {"app_id": [7]}),
        (look("batch_job_id", "eq", 7), {"batch_job_id": [7]}),
        (look("state", "in", ["RUNNING"]), {"state": ["RUNNING"]}),
        (look("failure", "in", ["signal", "hook"]), {"failure": ["signal", "hook"]}),
        (look("tags", "eq", "v", "k"), {"tags": ["k:v"]}),
        (look("last_update", "gt", now.isoformat()), {"last_update_after": now}),
        (look("last_update", "lt", now.isoformat()), {"last_update_before": now}),
    ):
        assert selection(lookup) == selection(**filters)
        assert selection(lookup).conditions == ()


def test_groups(world: StoreWorld) -> None:
    world.submit(3, tags={"kind": "a"}, num_nodes=2)
    world.submit(2, tags={"kind": "b"}, data={"x": 1})
    other = world.add_app(name="other")
    world.submit(1, app_id=other.id)
    world.cancel([1])
    assert world.groups("state") == {JobState.PREPROCESSED: 5, JobState.CANCELLED: 1}
    assert world.groups("app_id") == {world.app.id: 5, other.id: 1}
    assert world.groups("app_name") == {"hello": 5, "other": 1}
    assert world.groups("site_id") == {world.site.id: 6}
    assert list(world.groups("num_nodes").items()) == [(1, 3), (2, 3)]
    assert world.groups("tags", "kind") == {"a": 3, "b": 2, None: 1}
    assert world.groups("data", "x") == {None: 4, 1: 2}
    assert world.groups("num_nodes", where=[look("tags", "eq", "a", "kind")]) == {2: 3}
    assert world.groups("state", id=[]) == {}
    assert world.groups("cancel_requested", state=["CANCELLED"]) == {False: 1}
    for by, path, says in (
        ("created_at", [], "is a time"),
        ("owner_id", [], "can't be looked up"),
        ("tags", [], "say which key"),
        ("state", ["x"], "nothing below"),
    ):
        with pytest.raises(Invalid, match=says):
            world.groups(by, *path)


def test_too_many_groups_are_refused(world: StoreWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_GROUPS", 3)
    for number in range(4):
        world.submit(data={"x": number})
    with pytest.raises(Invalid, match="more than 3 different values"):
        world.groups("data", "x")
    assert len(world.groups("data", "x", id=[1, 2, 3])) == 3


def test_small_tables_have_look_ups_too(world: StoreWorld) -> None:
    small = world.submit_batch_job()
    large = world.submit_batch_job(num_nodes=3, wall_time_min=50)
    world.report_batch_job(large.id, BatchJobState.RUNNING, start_time=world.now, scheduler_id="77")

    def batch_jobs(*lookups: Lookup) -> list[int]:
        message = BatchJobQuery(where=list(lookups))
        page = world.read(lambda tx: batch_job_lists.list_batch_jobs(tx, world.ada, message))
        assert page.count == len(page.results)
        return [row.id for row in page.results]

    assert batch_jobs(look("num_nodes", "gt", 1)) == [large.id]
    assert batch_jobs(look("start_time", "isnull", True)) == [small.id]
    assert batch_jobs(look("start_time", "lte", world.now.isoformat())) == [large.id]
    assert batch_jobs(look("state", "in", ["running", "queued"])) == [large.id]
    assert batch_jobs(look("scheduler_id", "startswith", "7")) == [large.id]
    with pytest.raises(Invalid, match="not a state of a BatchJob"):
        batch_jobs(look("state", "eq", "RUNNING"))

    def names(message: Any, list_them: Any) -> list[str]:
        return [row.name for row in world.read(lambda tx: list_them(tx, message)).results]

    world.add_site(name="cluster")
    of_sites = SiteFilter(where=[look("name", "startswith", "clu"), look("creation_date", "gt", "2020-01-01T00:00Z")])
    assert names(of_sites, lambda tx, it: sites.list_sites(tx, world.ada, it, world.now)) == ["cluster"]
    world.add_app(name="other", description="of another kind")
    of_apps = AppFilter(where=[look("description", "contains", "another")])
    assert names(of_apps, lambda tx, it: apps.list_apps(tx, world.ada, it)) == ["other"]


def test_batch_jobs_are_changed_and_deleted_by_filter(world: StoreWorld) -> None:
    waiting, running, ended = (world.submit_batch_job().id for _ in range(3))
    world.report_batch_job(running, BatchJobState.RUNNING)
    world.report_batch_job(ended, BatchJobState.FINISHED)

    def update(select: BatchJobFilter, **fields: Any) -> tuple[int, dict[int, str]]:
        message = BatchJobsUpdate(filter=select, patch=BatchJobPatch(**fields))
        found = run(batch_job_lists.update_selected(world.store, world.ada, message, world.now))
        return found.changed, found.refused

    def delete(select: BatchJobFilter) -> tuple[int, list[int]]:
        found = run(batch_job_lists.delete_selected(world.store, world.ada, BatchJobsSelect(filter=select), world.now))
        return found.deleted, found.skipped

    changed, refused = update(BatchJobFilter(), filter_tags={"a": "b"})
    assert (changed, list(refused)) == (1, [running, ended]), "those that were submitted keep their tags"
    assert "already" in refused[running] or "can't be changed" in refused[running]
    assert update(BatchJobFilter(state=["running"]), state="pending_deletion") == (1, {})
    assert update(BatchJobFilter(), state="pending_deletion") == (1, {}), "those that ended need no end"
    changed, refused = update(BatchJobFilter(id=[ended]), state="pending_deletion")
    assert (changed, list(refused)) == (0, [ended])
    assert update(BatchJobFilter(id=[]), state="pending_deletion") == (0, {})
    assert delete(BatchJobFilter()) == (1, [waiting, running])


def test_a_selection_that_reads_too_much_is_given_up(tmp_path: Path) -> None:
    """S16: a filter nobody indexed does not keep a reader for ever, and writes go on meanwhile."""
    store = SqliteStore(tmp_path / "balsam.sqlite", durable=False)
    world = StoreWorld(store)
    body = [world.job(data={"x": number, "text": "y" * 500}) for number in range(MAX_BULK)]
    world.submit_all(body)
    store.close()
    store = SqliteStore(tmp_path / "balsam.sqlite", durable=False, read_limit_sec=0.001)
    world.store = store
    try:
        with pytest.raises(TooSlow, match=r"given up after 0\.001 s.*Narrow it by"):
            ids(world, look("data", "eq", -1, "x"))
        with pytest.raises(TooSlow):
            world.groups("data", "x")
        assert world.submit() and world.get(1).id == 1
    finally:
        store.close()
    store = SqliteStore(tmp_path / "balsam.sqlite", durable=False, read_limit_sec=60)
    world.store = store
    try:
        assert ids(world, look("data", "eq", 77, "x")) == [78]
    finally:
        store.close()


# Over HTTP


@pytest.fixture(scope="module")
def stocked(service: RunningService) -> int:
    with service.client() as client:
        app_id = make_app(client, make_site(client)["site"]["id"])
        make_jobs(client, app_id, 5001)
        make_jobs(client, app_id, 3, tags={"n": "1"}, data={"x": "ä&b"})
    return app_id


def test_look_ups_travel_in_the_query_and_in_the_body(client: httpx2.Client, stocked: int) -> None:
    where = [{"field": "data", "path": ["x"], "op": "eq", "value": "ä&b"}]
    asked = ok(client.get("/api/jobs", params={"where": [json.dumps(one) for one in where], "app_id": stocked}))
    searched = ok(client.post("/api/jobs/search", json={"where": where, "app_id": [stocked]}))
    assert asked == searched
    assert asked["count"] == 3
    groups = ok(client.get(f"/api/jobs/groups?by=tags&path=n&app_id={stocked}"))["groups"]
    assert groups == [{"value": None, "count": 5001}, {"value": "1", "count": 3}]
    assert groups == ok(client.post("/api/jobs/groups/search", json={"by": "tags", "path": ["n"]}))["groups"]


def test_a_page_of_5001_and_a_search_of_5001_ids(client: httpx2.Client, stocked: int) -> None:
    page = ok(client.get(f"/api/jobs?limit=5001&app_id={stocked}"))
    assert (len(page["results"]), page["count"]) == (5001, 5004)
    found = [row["id"] for row in page["results"]]
    assert found == sorted(set(found))
    searched = ok(client.post("/api/jobs/search", json={"id": found[::-1], "limit": 10_000}))
    assert [row["id"] for row in searched["results"]] == found
    assert client.get("/api/jobs?limit=10001").status_code == 422


@pytest.mark.parametrize(
    ("where", "status", "says"),
    [
        ("nonsense", 422, "where: .*is no JSON"),
        ("{}", 422, r"where\[0\].field"),
        ('{"field":"num_nodes","op":"like","value":1}', 422, r"where\[0\].op"),
        ('{"field":"num_nodes","op":"gt","value":"x"}', 422, r"where\[0\].*not a whole number"),
        ('{"field":"nope","value":1}', 422, r"where\[0\].*can't be looked up"),
    ],
)
def test_wrong_look_ups_are_422(client: httpx2.Client, where: str, status: int, says: str) -> None:
    reply = client.get("/api/jobs", params={"where": where})
    error = reply.json()["error"]
    text = error["message"] + " " + " ".join(f"{one['where']}: {one['message']}" for one in error["details"])
    assert reply.status_code == status
    assert re.search(says, text), text
    many = {"where": [{"field": "id", "value": 1}] * (MAX_LOOKUPS + 1)}
    assert client.post("/api/jobs/search", json=many).status_code == 422


@pytest.mark.parametrize("path", ["jobs", "events", "transfers", "batch-jobs"])
def test_more_tags_than_a_job_can_have_are_422(client: httpx2.Client, path: str) -> None:
    """Thousands of them would be more conditions than SQLite takes."""
    name = "filter_tags" if path == "batch-jobs" else "tags"
    for number, status in ((MAX_TAGS, 200), (MAX_TAGS + 1, 422), (1500, 422)):
        reply = client.post(f"/api/{path}/search", json={name: [f"a:{value}" for value in range(number)]})
        assert reply.status_code == status, reply.text


def test_a_slow_selection_is_an_error_with_a_name(tmp_path: Path) -> None:
    with running_service(tmp_path / "balsam", options=["--read-limit-sec", "0.001"]) as slow, slow.client() as client:
        app_id = make_app(client, make_site(client)["site"]["id"])
        for _ in range(2):
            make_jobs(client, app_id, 10_000, data={"text": "y" * 500})
        where = json.dumps({"field": "data", "path": ["x"], "value": 1})
        begin = time.monotonic()
        reply = client.get("/api/jobs", params={"where": where})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "too_slow")
        assert time.monotonic() - begin < 5
        assert ok(client.get("/api/jobs?limit=1"))["results"]
