"""Registering and submitting Apps with `run()`: parameters of any kind, versions, limits, every fault named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from balsam.client import pickling
from balsam.client.client import Client
from balsam.client.errors import ValidationFailed
from balsam.domain.app import AppSpec
from balsam.domain.envelope import is_envelope
from balsam.wire.limits import MAX_PYTHON_PARAMETERS_BYTES
from tests.client.runner import Runner


@pytest.fixture
def adds(client: Client, site: Any) -> Any:
    at = site.name

    class Adds(client.ApplicationDefinition):  # type: ignore[misc,name-defined]
        """Adds two things."""

        site = at

        def run(self, a: Any, b: Any = 1) -> Any:
            return a + b

    return Adds


def test_an_app_with_run_is_registered_with_source_and_code(adds: Any, client: Client) -> None:
    adds.sync()
    row = client.App.objects.get(name="Adds", site_id=adds.resolve_site_id())
    assert "return a + b" in row.source_code
    assert (row.command_template, row.parameters["a"]["required"], row.parameters["b"]["required"]) == (
        None,
        True,
        False,
    )
    assert row.code is not None and row.code["runs"] and is_envelope(row.code["envelope"])
    assert AppSpec.from_view(row.display_dict()).content_hash == row.content_hash


def test_json_stays_json_and_all_else_gets_an_envelope(adds: Any, client: Client, runner: Runner) -> None:
    job = adds.submit("a", a={"x": [1, None]}, b=(1, 2))
    again = client.Job.objects.get(id=job.id)
    assert again.parameters["a"] == {"x": [1, None]}
    assert is_envelope(again.parameters["b"])
    assert again.get_parameters() == {"a": {"x": [1, None]}, "b": (1, 2)}
    assert job.get_parameters() == again.get_parameters()
    again.data = {"note": 1}
    again.save()
    again.parameters["a"] = 5
    again.save()
    assert client.Job.objects.get(id=job.id).get_parameters() == {"a": 5, "b": (1, 2)}
    again.set_parameters({"a": {1, 2}, "b": Path("x")})
    again.save()
    assert client.Job.objects.get(id=job.id).get_parameters() == {"a": {1, 2}, "b": Path("x")}
    assert runner.acquire() == [job.id]


def test_a_dict_with_the_mark_of_envelopes_is_a_value_like_others(adds: Any) -> None:
    value = {"$envelope": 1, "python": "3.11"}
    assert adds.submit("a", a=value).get_parameters()["a"] == value


def test_parameters_by_id_and_name_travel_as_by_class(adds: Any, client: Client) -> None:
    app_id = adds._ensure_synced()
    for app in (app_id, "Adds"):
        job = client.Job(app_id=app, site_name=adds.site, workdir="a", parameters={"a": (1,)})
        job.save()
        assert client.Job.objects.get(id=job.id).get_parameters() == {"a": (1,)}


def test_what_can_t_be_pickled_is_named_at_submit(adds: Any, client: Client) -> None:
    before = client.Job.objects.count()
    with pytest.raises(ValidationFailed, match=r"parameters\.b can't be sent to the Site: TypeError") as caught:
        adds.submit("a", a=1, b=(item for item in ()))
    assert [problem.where for problem in caught.value.details] == ["parameters.b"]
    with pytest.raises(ValidationFailed, match=r"jobs\[1\].*parameters\.a") as caught:
        client.Job.objects.bulk_create(
            [adds.submit("a", a=1, save=False), adds.submit("b", a=(item for item in ()), save=False)]
        )
    assert client.Job.objects.count() == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "missing: a"),
        ({"a": 1, "c": 2}, "unknown: c"),
        ({"a": b"x" * 600_000}, r"parameters\.a can't be sent .*6000.. bytes.*file"),
        ({"a": "x" * 300_000, "b": "y" * 300_000}, f"at most {MAX_PYTHON_PARAMETERS_BYTES} are stored"),
    ],
)
def test_what_does_not_fit_is_said(adds: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationFailed, match=f"(?s){said}"):
        adds.submit("a", **given)


def test_up_to_the_limit_is_taken(adds: Any, client: Client) -> None:
    text = "x" * (MAX_PYTHON_PARAMETERS_BYTES - 20)
    assert client.Job.objects.get(id=adds.submit("a", a=text).id).parameters["a"] == text


def test_none_is_a_value_for_run(adds: Any) -> None:
    assert adds.submit("a", a=None).get_parameters() == {"a": None}


def test_a_command_takes_no_envelopes(hello: Any, client: Client) -> None:
    with pytest.raises(ValidationFailed, match="is no JSON value"):
        hello.submit("a", name=object())
    envelope = pickling.seal((1,)).as_json()
    with pytest.raises(ValidationFailed, match="a command line takes text, numbers, lists and dicts only"):
        client.Job(app_id=hello._ensure_synced(), workdir="a", parameters={"name": envelope}).save()
    job = hello.submit("a", name="x")
    job.parameters = {"name": envelope}
    with pytest.raises(ValidationFailed, match="takes text, numbers"):
        job.save()


@pytest.mark.parametrize("python", ["3.9", "3.99"])
def test_an_app_of_another_python_than_the_sites_is_refused_here(client: Client, site: Any, python: str) -> None:
    client.transport.request("PATCH", f"/sites/{site.id}", body=_python(python))
    at = site.name

    class Newer(client.ApplicationDefinition):  # type: ignore[misc,name-defined]
        site = at

        def run(self) -> None:
            pass

    for use in (Newer.sync, lambda: Newer.submit("a")):
        with pytest.raises(ValidationFailed) as caught:
            use()
        assert f"Python {pickling.python_version()} here" in str(caught.value)
        assert f"its Site runs Python {python}" in str(caught.value)
    Newer.python_exe = "/opt/python/bin/python"
    assert Newer.submit("a").state == "PREPROCESSED"
    assert client.Site.objects.get(id=site.id).python == python


def _python(version: str) -> Any:
    from balsam.wire.sites import SitePatch

    return SitePatch(python=version)


def test_values_of_another_python_than_the_apps_are_refused_here(
    adds: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    app_id = adds._ensure_synced()
    monkeypatch.setattr("balsam.client.parameters.python_version", lambda: "3.99")
    job = client.Job(app_id=app_id, workdir="a", parameters={"a": (1,)})
    with pytest.raises(ValidationFailed, match=r"parameters\.a is pickled by Python 3\.99 here, and the App is of"):
        job.save()
    client.Job(app_id=app_id, workdir="a", parameters={"a": [1]}).save()


def test_definitions_that_can_t_work(client: Client, site: Any) -> None:
    at = site.name

    class Both(client.ApplicationDefinition):  # type: ignore[misc,name-defined]
        site = at
        command_template = "echo"

        def run(self) -> None:
            pass

    class Line(client.ApplicationDefinition):  # type: ignore[misc,name-defined]
        site = at

        def run(self) -> None:
            pass

        def get_arg_str(self) -> str:
            return ""

    for app, said in ((Both, "command_template and run"), (Line, "get_arg_str() and run()")):
        with pytest.raises(ValidationFailed) as caught:
            app.sync()
        assert said in str(caught.value)


def test_methods_of_the_base_class_are_no_methods_of_the_app(client: Client, hello: Any, site: Any) -> None:
    hello.sync()
    assert client.App.objects.get(name="Hello", site_id=site.id).code is None


def test_a_loaded_app_is_submitted_like_its_class(adds: Any, client: Client) -> None:
    adds.sync()
    loaded = client.ApplicationDefinition.load_by_name("Adds", site_name=adds.site)
    job = loaded.submit("a", a=(1, 2))
    assert client.Job.objects.get(id=job.id).get_parameters() == {"a": (1, 2)}
    assert client.App.objects.get(name="Adds", site_id=job.site_id).code is not None
