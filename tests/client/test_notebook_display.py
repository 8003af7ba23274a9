"""Tables in notebooks, and progress bars where somebody looks."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

import pytest

from balsam.client import display
from balsam.client.client import Client
from balsam.client.progress import progress_bar
from balsam.client.settings import ClientSettings
from tests.client.runner import Runner
from tests.services import RunningService

EVIL = "<script>alert(1)</script>"


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def test_a_query_is_a_table_of_its_first_rows(hello: Any, client: Client, site: Any) -> None:
    client.Job.objects.bulk_create(
        [hello.submit(f"t/{i}", name=EVIL, tags={"n": str(i)}, save=False) for i in range(30)]
    )
    query = client.Job.objects.filter(site_id=site.id)
    html = query._repr_html_()
    table = cells(html)
    assert table[0] == ["id", "app_name", "workdir", "state", "parameters", "tags", "return_code", "last_update"]
    assert len(table) == 1 + display.ROWS
    assert table[1][1:6] == [
        "Hello",
        "t/0",
        "PREPROCESSED",
        f"name={EVIL}".replace("<", "&lt;").replace(">", "&gt;"),
        "n=0",
    ]
    assert html.endswith(f"<p>&lt;Job query: site_id={site.id}&gt;: the first 20 of 30</p>")
    assert EVIL not in html
    few = query[25:]
    assert len(cells(few._repr_html_())) == 6 and few._repr_html_().endswith(" [25:]&gt;: 5</p>")
    list(query)
    assert query._repr_html_() == html
    assert client.Job.objects.filter(id=[])._repr_html_().endswith(": 0</p>")


def test_every_model_has_a_table(hello: Any, client: Client, site: Any) -> None:
    job = hello.submit("one", name="x" * 300, data={"deep": {"x": EVIL}})
    html = job._repr_html_()
    facts = dict(row for row in cells(html)[1:])
    assert (facts["workdir"], facts["state"], facts["app_name"]) == ("one", "PREPROCESSED", "Hello")
    assert facts["return_code"] == "" and facts["data"].startswith("deep=x=&lt;script")
    assert facts["parameters"] == f"name={'x' * 195} ..."
    assert EVIL not in html
    assert "<td>c</td>" in client.Job(app_id="Hello", workdir="c", parameters={"name": "x"})._repr_html_()
    fields = {
        "site_id": site.id,
        "num_nodes": 1,
        "wall_time_min": 5,
        "job_mode": "mpi",
        "queue": "local",
        "project": "local",
    }
    client.BatchJob.objects.create(**fields)
    for query, number in (
        (client.BatchJob.objects.filter(site_id=site.id), 1),
        (client.Site.objects.filter(id=site.id), 1),
        (client.App.objects.filter(site_id=site.id), 1),
        (client.EventLog.objects.filter(job_id=job.id), 3),
        (client.Session.objects.filter(id=[10**9]), 0),
        (client.TransferItem.objects.all(), 0),
    ):
        assert len(cells(query._repr_html_())) == 1 + number, query
        for row in query:
            assert len(cells(row._repr_html_())) > 3


def test_a_cell_does_not_wait_for_an_absent_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "DEADLINE_SEC", 0.3)
    begin = time.monotonic()
    with Client(ClientSettings("http://127.0.0.1:1", "blsm_user_x")) as lost:
        html = lost.Job.objects.all()._repr_html_()
    assert "&lt;Job query: all&gt;: GET /api/jobs: service at http://127.0.0.1:1 can&#x27;t be reached" in html
    assert time.monotonic() - begin < 20


# Progress


def test_a_bar_is_drawn_when_asked_for(hello: Any, client: Client, runner: Runner, capfd: Any) -> None:
    jobs = [hello.submit(f"p/{i}", name="x", save=False) for i in range(3)]
    client.Job.objects.bulk_create(jobs, progress=True)
    assert "creating" in (shown := capfd.readouterr()).err and "3/3" in shown.err and shown.out == ""
    runner.run_all()
    assert len(client.Job.objects.wait(jobs, timeout=30, progress=True).done) == 3
    assert "waiting" in (shown := capfd.readouterr()).err and "3/3" in shown.err
    client.Job.objects.bulk_refresh(jobs)
    assert len(list(client.Job.objects.as_completed(jobs, timeout=30, progress=True))) == 3
    assert "3/3" in capfd.readouterr().err
    client.Job.objects.wait(jobs)
    client.Job.objects.bulk_create([hello.submit("p", name="x", save=False)])
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", ""), "a script is not disturbed"


def test_without_tqdm_rich_draws(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with progress_bar(4, "counting", show=True) as advance:
        advance(1)
        advance(3)
    shown = capfd.readouterr()
    assert "counting" in shown.err and "4/4" in shown.err and shown.out == ""


def test_where_somebody_types_a_bar_comes_after_a_second(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with progress_bar(2, "quick") as advance:
        advance(2)
    assert capfd.readouterr().err == ""
    with progress_bar(2, "slow") as advance:
        advance(1)
        time.sleep(1.2)
        advance(1)
    assert "slow" in capfd.readouterr().err


def test_a_bar_ends_with_its_block(service: RunningService, capfd: Any) -> None:
    with pytest.raises(KeyError), progress_bar(9, "broken", show=True) as advance:
        advance(4)
        raise KeyError("x")
    assert "4/9" in capfd.readouterr().err
