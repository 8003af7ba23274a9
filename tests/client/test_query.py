"""Queries: what is asked of the service, and what is not asked at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from balsam.client import errors
from balsam.client.client import Client
from balsam.client.transport import Transport
from balsam.domain.states import JobState
from tests.client.conftest import hello_app, new_site


class Requests:
    """Counts requests by method and path."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, str, Any]] = []
        call = Transport._call

        def counted(transport: Transport, method: str, path: str, content: bytes, query: Any, *how: Any) -> Any:
            self.seen.append((method, path, query or content))
            return call(transport, method, path, content, query, *how)

        monkeypatch.setattr(Transport, "_call", counted)

    def __len__(self) -> int:
        return len(self.seen)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


@pytest.fixture(scope="module")
def stock(service: Any) -> Any:
    """25 Jobs in a Site of their own: workdirs stock/00 ... stock/24, tags n=0..4."""
    from balsam.client.settings import ClientSettings

    client = Client(ClientSettings(service.url, service.token))
    site = new_site(client)
    hello = hello_app(client, site)
    jobs = [hello.submit(f"stock/{i:02}", name=str(i), tags={"n": str(i % 5)}, save=False) for i in range(25)]
    client.Job.objects.bulk_create(jobs)
    yield site, jobs
    client.close()


@pytest.fixture
def mine(stock: Any, client: Client) -> Any:
    return client.Job.objects.filter(site_id=stock[0].id)


def test_a_query_asks_nothing_before_it_is_needed(mine: Any, requests: Requests) -> None:
    chained = mine.filter(state="PREPROCESSED").order_by("-id")[2:10]
    assert len(requests) == 0
    assert "state=" in repr(chained)
    assert len(requests) == 0
    assert len(list(chained)) == 8
    assert len(requests) == 1
    assert len(chained) == 8 and next(iter(chained)) and chained[3]
    assert len(requests) == 1


def test_an_empty_list_selects_nothing_and_asks_nothing(client: Client, requests: Requests) -> None:
    nothing = client.Job.objects.filter(id=[])
    assert list(nothing) == [] and len(nothing) == 0 and not nothing and nothing.count() == 0
    assert nothing.count_by("state") == {} and nothing.update(num_nodes=2) == 0 and nothing.delete() == 0
    assert client.Job.objects.cancel([]) == 0 and client.Job.objects.cancel(nothing) == 0
    assert list(client.Job.objects.filter(state=[])) == []
    with pytest.raises(client.Job.DoesNotExist):
        nothing.get()
    with pytest.raises(IndexError):
        nothing.first()
    assert len(requests) == 0


def test_filters(mine: Any, stock: Any, client: Client) -> None:
    _, jobs = stock
    assert mine.count() == 25
    assert mine.filter(tags={"n": "3"}).count() == 5
    assert mine.filter(tags="n:3").count() == mine.filter(tags=["n:3"]).count() == 5
    assert mine.filter(tags={"n": "3"}).filter(tags={"n": "4"}).count() == 0
    assert mine.filter(workdir__contains="ock/0").count() == 10
    assert mine.filter(state=["PREPROCESSED", "RUNNING"], state__ne="RUNNING").count() == 25
    assert mine.filter(state=JobState.RUNNING).count() == 0
    assert mine.filter(app_name="Hello").count() == 25
    assert mine.filter(app_id=jobs[0].app_id).count() == 25
    assert mine.filter(id=jobs[0]).get() == jobs[0]
    assert mine.filter(id=(jobs[0].id, jobs[1])).count() == 2
    assert mine.filter(id=range(jobs[0].id, jobs[0].id + 3)).count() == 3
    now = datetime.now(UTC)
    assert mine.filter(last_update_after=now - timedelta(hours=1), last_update_before=now).count() == 25
    assert mine.filter(last_update_after=now + timedelta(hours=1)).count() == 0
    assert mine.filter(id=[jobs[0].id, jobs[1].id]).filter(id=[jobs[1].id, jobs[2].id]).get() == jobs[1]
    assert client.Job.objects.filter(site_id=stock[0]).count() == 25


def test_unknown_filters_and_orders_are_named(client: Client, requests: Requests) -> None:
    objects = client.Job.objects
    with pytest.raises(TypeError, match="no filter 'sate'; did you mean 'state'"):
        objects.filter(sate="RUNNING")
    with pytest.raises(
        errors.ValidationFailed, match=r"state\[0\]: must be one of: CREATED, .*mean 'RUNNING'\?$"
    ) as caught:
        objects.filter(state="RUNING")
    assert str(caught.value).count("CREATED") == 1  # aliases of states are not listed again
    with pytest.raises(TypeError, match="one of: id, -id"):
        objects.order_by("workdri")
    with pytest.raises(TypeError, match="filtered twice"):
        objects.filter(app_name="a").filter(app_name="b")
    with pytest.raises(TypeError, match="on a slice"):
        objects.all()[:3].filter(state="RUNNING")
    with pytest.raises(ValueError, match="from its end"):
        objects.all()[-3:]
    with pytest.raises(ValueError, match="negative"):
        objects.all()[-1]
    assert len(requests) == 0


def test_order_slices_and_steps(mine: Any, stock: Any) -> None:
    jobs = stock[1]
    ids = [job.id for job in jobs]
    down = mine.order_by("-id")
    assert [job.id for job in down] == ids[::-1]
    assert [job.id for job in down[2:5]] == ids[::-1][2:5]
    assert [job.id for job in mine[20:100]] == ids[20:]
    assert [job.id for job in mine[1:20:6]] == ids[1:20:6]
    assert [job.id for job in mine[5:20][2:4]] == ids[7:9]
    assert [job.workdir for job in mine.order_by("-workdir")[:2]] == ["stock/24", "stock/23"]
    assert mine[24] == jobs[24] and mine.first() == jobs[0] and down.first() == jobs[24]
    with pytest.raises(IndexError):
        mine[25]
    assert mine[5:20].count() == 15 and mine[20:99].count() == 5 and mine[30:].count() == 0
    assert list(mine[5:5]) == []


def test_get_of_none_and_of_many(mine: Any, client: Client) -> None:
    with pytest.raises(client.Job.DoesNotExist, match="no Job matches"):
        mine.get(workdir__contains="nowhere")
    with pytest.raises(client.Job.MultipleObjectsReturned, match="more than one Job"):
        mine.get(workdir__contains="stock")
    assert issubclass(client.Job.DoesNotExist, errors.NotFound)


def test_iteration_streams_pages_by_keyset(
    mine: Any, stock: Any, client: Client, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balsam.client.objects.FIRST_PAGE", 10)
    monkeypatch.setattr("balsam.client.objects.NEXT_PAGES", 10)
    rows = iter(mine)
    assert next(rows) == stock[1][0]
    assert len(requests) == 1
    assert [job.id for job in mine] == [job.id for job in stock[1]]
    assert [ask.get("after") for _, _, ask in requests.seen[1:4]] == [None, stock[1][9].id, stock[1][19].id]
    ids = [job.id for job in stock[1]]
    for ordering, wanted in (
        ("-id", ids[::-1]),
        ("workdir", ids),
        ("-workdir", ids[::-1]),
        ("last_update", ids),
        ("-last_update", ids[::-1]),
        ("state", ids),
    ):
        before = len(requests)
        assert [job.id for job in mine.order_by(ordering)] == wanted
        assert ["offset" in ask for _, _, ask in requests.seen[before:]] == [False] * 3
        assert [job.id for job in mine.order_by(ordering)[3:17]] == wanted[3:17]
    events = client.EventLog.objects.filter(job_id=ids[:9])
    assert [event.id for event in events] == sorted((event.id for event in events.all()), reverse=True)
    assert len(events) == 27


@pytest.mark.slow
def test_more_rows_than_a_page(client: Client) -> None:
    """5,001 at a time was one too many for Balsam; iterating and `len` cross the pages as they are."""
    hello = hello_app(client, new_site(client))
    made = client.Job.objects.bulk_create([hello.submit(f"l/{i}", name="x", save=False) for i in range(6_002)])
    ids = [job.id for job in made]
    mine = client.Job.objects.filter(app_id=hello)
    assert [job.id for job in mine] == ids
    assert [job.id for job in mine.order_by("-id")[:5_001]] == ids[:-5_002:-1]
    assert len(client.Job.objects.filter(id=ids)) == 6_002
    for job in made:
        job.tags = {"seen": "yes"}
    client.Job.objects.bulk_update(made)
    assert mine.filter(tags={"seen": "yes"}).update(priority=1) == 6_002
    assert mine.filter(priority=1).delete() == 6_002


def test_a_long_list_is_still_one_request(mine: Any, stock: Any, requests: Requests) -> None:
    ids = [job.id for job in stock[1]]
    some = mine.filter(id=[*range(10**9, 10**9 + 5_000), *ids[::-1]])
    for asked, wanted in (
        (lambda: [job.id for job in some], ids),
        (lambda: [job.id for job in some.order_by("-id")[3:6]], ids[::-1][3:6]),
        (lambda: some.all().count(), 25),
        (lambda: some.count_by("state"), {JobState.PREPROCESSED: 25}),
        (lambda: some.count_by("app_name"), {"Hello": 25}),
    ):
        before = len(requests)
        assert asked() == wanted
        assert {(method, path.endswith("/search")) for method, path, _ in requests.seen[before:]} == {("POST", True)}
        assert len(requests) == before + 1


def test_look_ups(mine: Any, stock: Any, client: Client) -> None:
    jobs = stock[1]
    assert mine.filter(workdir__startswith="stock/1", num_nodes__gt=0).count() == 10
    assert mine.filter(workdir__endswith="4").count() == 3
    assert mine.filter(parameters={"name": "7"}).get() == jobs[7]
    assert mine.filter(parameters__name__in=["7", "8"]).count() == 2
    assert mine.filter(parameters="name:7").get() == mine.filter(parameters=["name:7"]).get() == jobs[7]
    assert mine.filter(parameters__name__ne="7").count() == 24
    assert mine.filter(parameters__other=None).count() == mine.filter(parameters__name__isnull=False).count() == 25
    assert mine.filter(tags__n__in=[1, 2]).count() == mine.filter(tags__n__gt="0", tags__n__lte="2").count() == 10
    assert mine.filter(tags__n=3).count() == mine.filter(tags={"n": 3}).count() == 5
    assert mine.filter(num_nodes=[1, 2], app_name=["Hello", "Other"]).count() == 25
    assert mine.filter(num_nodes=[]).count() == mine.filter(id__in=[]).count() == 0
    assert mine.filter(id__range=(jobs[3].id, jobs[5].id)).count() == 3
    assert mine.filter(id__in=jobs[:2]).count() == mine.filter(id__lte=jobs[1]).count() == 2
    assert mine.filter(app_name__contains="ell", state__ne="RUNNING", state__in=[JobState.PREPROCESSED]).count() == 25
    assert mine.filter(return_code=None).count() == 25 and mine.filter(return_code__ne=0).count() == 25
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert mine.filter(created_at__before=soon, created_at__after=soon - timedelta(hours=1)).count() == 25
    assert mine.filter(created_at__gt=soon).count() == 0
    naive = soon.replace(tzinfo=None)
    assert mine.filter(last_update_before=naive, created_at__lt=naive).count() == 25, "a time without a zone is UTC"
    assert repr(mine.filter(num_nodes__gt=2, parameters__x="y")).endswith("num_nodes__gt=2, parameters__x='y'>")
    assert client.Site.objects.filter(name__startswith="site", id=stock[0].id).get() == stock[0]
    assert client.App.objects.filter(name__in=["Hello"], site_id=stock[0].id).count() == 1


@pytest.mark.parametrize(
    ("filters", "kind", "says"),
    [
        ({"num_node__gt": 2}, TypeError, "did you mean 'num_nodes'"),
        ({"num_nodes__above": 2}, TypeError, "there are: num_nodes__eq"),
        ({"num_nodes__": 2}, TypeError, "no filter"),
        ({"num_nodes__gt": "many"}, errors.ValidationFailed, "num_nodes__gt: 'many' is not a whole number"),
        ({"num_nodes__contains": "1"}, errors.ValidationFailed, "it can by: eq"),
        ({"num_nodes__range": 3}, errors.ValidationFailed, "takes a pair"),
        ({"num_nodes__range": (1, 2, 3)}, errors.ValidationFailed, "takes a pair"),
        ({"state__in": ["RUNING"]}, errors.ValidationFailed, "'RUNING' is not a state of a Job"),
        ({"parameters": 3}, errors.ValidationFailed, "say which key"),
        ({"parameters__x": object()}, errors.ValidationFailed, "no JSON value"),
        ({"parameters__gt": 3}, errors.ValidationFailed, "say which key"),
    ],
)
def test_a_wrong_look_up_is_named_before_anything_is_sent(
    client: Client, requests: Requests, filters: Any, kind: Any, says: str
) -> None:
    with pytest.raises(kind, match=says):
        client.Job.objects.filter(**filters)
    assert len(requests) == 0


def test_counting_by_anything(mine: Any, requests: Requests) -> None:
    assert mine.count_by("state") == {JobState.PREPROCESSED: 25}
    assert mine.count_by("tags__n") == {str(n): 5 for n in range(5)}
    assert list(mine.filter(tags__n__in=["1", "2"], id__lt=10**9).count_by("tags__n")) == ["1", "2"]
    assert mine.count_by("parameters__nothing") == {None: 25}
    assert mine.count_by("num_nodes") == {1: 25}
    assert len(requests) == 5
    with pytest.raises(errors.ValidationFailed, match="is a time"):
        mine.count_by("created_at")
    with pytest.raises(errors.ValidationFailed, match="can't be looked up"):
        mine.count_by("nothing")
    with pytest.raises(TypeError, match="on a slice"):
        mine[:3].count_by("state")


def test_verbs_over_a_query_are_one_request(client: Client, requests: Requests) -> None:
    site = new_site(client)
    hello = hello_app(client, site)
    jobs = client.Job.objects.bulk_create([hello.submit(f"v/{i}", name="x", save=False) for i in range(12)])
    mine = client.Job.objects.filter(site_id=site.id)
    start = len(requests)
    assert mine.filter(id=jobs[:4]).update(tags={"set": "yes"}, num_nodes=2) == 4
    assert mine.filter(tags={"set": "yes"}).count() == 4
    cancelled = client.Job.objects.cancel(mine.filter(id=jobs[:3]), reason="test")
    assert (cancelled, cancelled.changed, cancelled.refused) == (3, 3, {})
    assert mine.count_by("state") == {JobState.PREPROCESSED: 9, JobState.CANCELLED: 3}
    assert client.Job.objects.retry(jobs[:2]) == 2
    assert mine.filter(state="CANCELLED").delete() == 1
    assert len(requests) - start == 6
    with pytest.raises(TypeError, match="did you mean 'num_nodes'"):
        mine.update(num_node=1)
    assert mine.delete() == 11
    assert mine.count() == 0


def test_verbs_over_batch_jobs_are_one_request(client: Client, requests: Requests) -> None:
    site = new_site(client)
    fields = {"site_id": site.id, "num_nodes": 1, "job_mode": "mpi", "queue": "local", "project": "local"}
    made = [client.BatchJob.objects.create(**fields, wall_time_min=minutes) for minutes in (5, 50, 60)]
    mine = client.BatchJob.objects.filter(site_id=site.id)
    start = len(requests)
    assert mine.filter(wall_time_min__gte=50).update(filter_tags={"a": "b"}) == 2
    assert mine.filter(filter_tags={"a": "b"}, wall_time_min__lt=60).get() == made[1]
    ended = mine.filter(id=made[0]).update(state="pending_deletion")
    assert (ended, ended.refused) == (1, {})
    assert len(requests) - start == 3
    deleted = mine.delete()
    assert (deleted, sorted(deleted.refused)) == (0, [one.id for one in made]), "they are asked to end first"
    assert mine.filter(state="pending_deletion").count() == 3
    assert mine.filter(scheduler_id=1234).count() == mine.filter(scheduler_id="1234").count() == 0
    assert client.EventLog.objects.filter(scheduler_id=1234).count() == 0
    with pytest.raises(TypeError, match="did you mean 'state'"):
        mine.update(stat="pending_deletion")
    with pytest.raises(errors.Forbidden, match="you can ask for pending_deletion"):
        mine.update(state="running")


def test_bulk_update_sends_each_its_own_changes(client: Client, hello: Any, requests: Requests) -> None:
    jobs = client.Job.objects.bulk_create([hello.submit(f"u/{i}", name="x", save=False) for i in range(4)])
    for number, job in enumerate(jobs[:3]):
        job.tags = {"number": str(number)}
    start = len(requests)
    client.Job.objects.bulk_update(jobs)
    assert len(requests) - start == 1
    client.Job.objects.bulk_refresh(jobs)
    assert [job.tags for job in jobs] == [{"number": "0"}, {"number": "1"}, {"number": "2"}, {}]
    client.Job.objects.get(id=jobs[3].id).delete()
    for number, job in enumerate(jobs):
        job.tags = {"again": str(number)}
    for act in (client.Job.objects.bulk_refresh, client.Job.objects.bulk_update):
        with pytest.raises(client.Job.DoesNotExist, match=str(jobs[3].id)):
            act(jobs)
    client.Job.objects.bulk_refresh(jobs[:3])
    assert [job.tags for job in jobs[:3]] == [{"number": "0"}, {"number": "1"}, {"number": "2"}], "all or none"


def test_of_two_that_are_the_same_no_change_is_lost(client: Client, site: Any, hello: Any) -> None:
    job = hello.submit("twice", name="x")
    one, other = (client.Job.objects.get(id=job.id) for _ in range(2))
    one.num_nodes = 2
    client.Job.objects.bulk_update([one, other, one])
    other.num_nodes, one.num_nodes = 3, 4
    with pytest.raises(ValueError, match=f"Job {job.id} is there twice, with different changes"):
        client.Job.objects.bulk_update([one, other])
    job.refresh_from_db()
    assert job.num_nodes == 2
    allocation = client.BatchJob.objects.create(
        site_id=site.id, num_nodes=1, wall_time_min=5, job_mode="mpi", queue="local", project="local"
    )
    changed, unchanged = (client.BatchJob.objects.get(id=allocation.id) for _ in range(2))
    changed.state = "pending_deletion"
    client.BatchJob.objects.bulk_update([changed, unchanged])
    allocation.refresh_from_db()
    assert allocation.state == "pending_deletion"


def test_bulk_create_fills_the_given_jobs_and_returns_them(client: Client, hello: Any) -> None:
    jobs = [hello.submit(f"b/{i}", name="x", save=False) for i in range(3)]
    made = client.Job.objects.bulk_create(iter(jobs))
    assert made == jobs and made is not jobs
    assert all(job.id is not None and job.state is JobState.PREPROCESSED for job in jobs)
    with pytest.raises(ValueError, match=r"jobs\[0\] is saved already"):
        client.Job.objects.bulk_create(jobs)
    assert client.Job.objects.bulk_create([]) == []


@pytest.mark.slow
def test_s2_one_bad_row_in_10000_is_named_and_nothing_is_created(client: Client, hello: Any, site: Any) -> None:
    jobs = [hello.submit(f"many/{i}", name="x", save=False) for i in range(10_000)]
    jobs[7_345].workdir = "/absolute"
    with pytest.raises(errors.ValidationFailed, match=r"jobs\[7345\].workdir"):
        client.Job.objects.bulk_create(jobs)
    assert client.Job.objects.filter(site_id=site.id).count() == 0
    jobs[7_345].workdir = "many/7345"
    client.Job.objects.bulk_create(jobs)
    assert client.Job.objects.filter(site_id=site.id).count() == 10_000
    assert sum(1 for _ in client.Job.objects.filter(site_id=site.id)) == 10_000


def test_more_than_one_call_is_checked_whole_before_the_first(
    client: Client, hello: Any, site: Any, monkeypatch: pytest.MonkeyPatch, requests: Requests
) -> None:
    monkeypatch.setattr("balsam.client.submission.MAX_BULK", 10)
    jobs = [hello.submit(f"many/{i}", name="x", save=False) for i in range(25)]
    jobs[23].num_nodes = -1
    with pytest.raises(errors.ValidationFailed, match=r"jobs\[23\].num_nodes"):
        client.Job.objects.bulk_create(jobs)
    assert not any(path == "/jobs" for _, path, _ in requests.seen)
    jobs[23].num_nodes, jobs[22].tags["kind"] = 1, "x" * 300
    with pytest.raises(errors.ValidationFailed, match=r"jobs\[22\].tags.kind"):
        client.Job.objects.bulk_create(jobs)
    jobs[22].tags, jobs[21].workdir = {}, "x" * 300
    with pytest.raises(errors.ValidationFailed, match=r"jobs\[21\].workdir"):
        client.Job.objects.bulk_create(jobs)
    jobs[21].workdir = "fits"
    jobs[24].workdir = "../out"  # only the service sees that
    with pytest.raises(errors.ValidationFailed, match=r"jobs\[24\].workdir"):
        client.Job.objects.bulk_create(jobs)
    assert [job.id is None for job in jobs] == [False] * 20 + [True] * 5
    jobs[24].workdir = "out"
    client.Job.objects.bulk_create([job for job in jobs if job.id is None])
    assert client.Job.objects.filter(site_id=site.id).count() == 25


def test_large_bodies_are_split_by_size(
    client: Client, hello: Any, site: Any, monkeypatch: pytest.MonkeyPatch, requests: Requests
) -> None:
    monkeypatch.setattr("balsam.client.submission.BODY_BYTES", 20_000)
    jobs = [hello.submit(f"many/{i}", name="x" * 4_000, save=False) for i in range(9)]
    client.Job.objects.bulk_create(jobs)
    assert sum(method == "POST" for method, _, _ in requests.seen) == 3
    assert [job.id for job in client.Job.objects.filter(site_id=site.id)] == [job.id for job in jobs]


def test_other_models_have_queries_too(client: Client, site: Any) -> None:
    assert client.Site.objects.get(name=site.name) == site
    assert client.Site.objects.filter(path="ann").exists()
    assert site in list(client.Site.objects.all())
    assert client.EventLog.objects.filter(job_id=[]).count() == 0
    with pytest.raises(TypeError, match="can't be updated"):
        client.Site.objects.all().update(name="x")
    with pytest.raises(AttributeError, match="belongs to the class"):
        site.objects  # noqa: B018
