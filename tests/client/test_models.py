"""Models against the service: create, change, read again, delete, compare, show, pickle."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from balsam.api import BatchJobPartition
from balsam.client import errors
from balsam.client.client import Client
from balsam.client.transport import Transport
from balsam.domain.states import BatchJobState, JobState
from balsam.wire.apps import AppSync
from balsam.wire.base import dump_body
from tests.client.runner import Runner


def test_the_first_steps_of_the_guide(api: Any) -> None:
    site = api.Site.objects.create(name="guide", path="/home/ann/guide")

    class Hello(api.ApplicationDefinition):  # type: ignore[misc,name-defined]
        """Says hello."""

        site = "guide"
        command_template = "echo Hello, {{ first_name }}"

    job = Hello.submit(workdir="hello/1", first_name="World")
    assert (job.state, job.site_id, job.app_name) == ("PREPROCESSED", site.id, "Hello")
    assert job.get_parameters() == {"first_name": "World"}
    assert job.app is not None and job.app.command_template == Hello.command_template
    assert api.Job.objects.get(id=job.id) == job
    app = api.App.objects.get(name="Hello", site_name="guide")
    assert app.description == "Says hello."
    assert "class Hello" in app.source_code
    assert Hello.resolve_site_id() == site.id


def test_only_changed_fields_are_sent(hello: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    job = hello.submit("a", name="x", tags={"kind": "test"})
    sent: list[Any] = []
    request = Transport.request
    monkeypatch.setattr(
        Transport, "request", lambda self, *a, **kw: (sent.append(kw.get("body")), request(self, *a, **kw))[1]
    )
    job.save()
    assert sent == []
    job.num_nodes = 2
    job.save()
    assert sent[0].model_dump(exclude_unset=True) == {"patches": {job.id: {"num_nodes": 2}}}
    job.save()
    assert len(sent) == 1


def test_a_change_in_place_of_dicts_and_lists_is_noticed(hello: Any, client: Client) -> None:
    job = hello.submit("a", name="x", data={"deep": {"list": [1]}})
    job.data["deep"]["list"].append(2)
    job.tags["new"] = "tag"
    job.save()
    again = client.Job.objects.get(id=job.id)
    assert again.data == {"deep": {"list": [1, 2]}}
    assert again.tags == {"new": "tag"}
    again.data["deep"]["list"].clear()
    again.refresh_from_db()
    assert again.data == {"deep": {"list": [1, 2]}}


def test_what_the_user_still_holds_does_not_change_a_saved_job(hello: Any) -> None:
    given = {"name": "x"}
    job = hello.submit("a", save=False, **given)
    job.data = {"held": given}
    job.save()
    given["name"] = "y"
    assert job.data == {"held": {"name": "x"}}


def test_job_by_class_name_and_id(hello: Any, client: Client, site: Any) -> None:
    hello.sync()
    app = client.App.objects.get(name="Hello", site_name=site.name)
    jobs = [
        client.Job(app_id=hello, workdir="a", parameters={"name": "x"}),
        client.Job(app_id="Hello", site_name=site.name, workdir="a", parameters={"name": "x"}),
        client.Job(app_id=app.id, workdir="a", parameters={"name": "x"}),
        client.Job(app_id=app, workdir="a", parameters={"name": "x"}),
    ]
    for job in jobs:
        job.save()
        assert (job.app_id, job.app_name, job.app.__name__) == (app.id, "Hello", "Hello")


def test_parents_as_jobs_or_ids(hello: Any) -> None:
    first, second = hello.submit("a", name="x"), hello.submit("b", name="y")
    child = hello.submit("c", name="z", parent_ids=[first, second.id])
    assert child.parent_ids == {first.id, second.id}
    assert child.state is JobState.AWAITING_PARENTS
    assert set(child.parent_query()) == {first, second}
    child.refresh_from_db()
    assert child.parent_ids == {first.id, second.id}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"workdir": "/abs"}, "workdir"),
        ({"workdir": "a/../../b"}, "workdir"),
        ({"num_nodes": 0}, "^num_nodes: .*; it is 0$"),
        ({"ranks_per_node": -1}, "^ranks_per_node: .*; it is -1$"),
        ({"parent_ids": [10**9]}, r"^parent_ids\[0\]: there is no Job 1000000000"),
        ({"tags": {"a": "\n"}}, "tags"),
        ({"data": {"when": object()}}, "data.when: a object is no JSON value"),
        ({"data": {"where": SimpleNamespace(id=3)}}, "data.where: a SimpleNamespace is no JSON value; give its id"),
        ({"data": {"deep": [1, {"x": float("nan")}]}}, r"data.deep\[1\].x: nan"),
        ({"data": {1: 2}}, "data: the key 1 is no text"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_created(hello: Any, client: Client, fields: Any, says: str) -> None:
    before = client.Job.objects.count()
    with pytest.raises((errors.ValidationFailed, errors.NotFound), match=says) as caught:
        hello.submit(**{"workdir": "a", "name": "x", **fields})
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert len(set(lines)) == len(lines)
    assert "jobs[0]" not in str(caught.value)
    assert client.Job.objects.count() == before


@pytest.mark.parametrize("parents", ["12", 12])
def test_parents_that_are_no_list_are_refused(hello: Any, parents: Any) -> None:
    with pytest.raises(TypeError, match=r"parent_ids is '?12'?; give a list of Jobs or of their ids"):
        hello.submit("a", name="x", parent_ids=parents)


@pytest.mark.parametrize("verb", ["wait", "as_completed", "bulk_create", "bulk_update", "bulk_refresh"])
def test_verbs_on_jobs_say_what_they_take(hello: Any, client: Client, verb: str) -> None:
    job = hello.submit("a", name="x", save=verb != "bulk_create")
    call = getattr(client.Job.objects, verb)
    with pytest.raises(TypeError, match=rf"not one Job; put it in brackets: {verb}\(\[job\]\)"):
        list(call(job))
    with pytest.raises(TypeError, match=rf"jobs\[1\] is 7, and {verb}\(\) takes Jobs"):
        list(call([job, 7]))


@pytest.mark.parametrize(
    ("given", "says"),
    [({}, "missing: name"), ({"name": "x", "nam": 1}, "unknown: nam"), ({"name": None}, "is None")],
)
def test_parameters_are_checked_before_anything_is_sent(hello: Any, client: Client, given: Any, says: str) -> None:
    with pytest.raises(errors.ValidationFailed, match=says):
        hello.submit("a", **given)
    with pytest.raises(errors.ValidationFailed, match=says):
        client.Job(app_id=hello, workdir="a", parameters=given).save()


def test_unknown_names_are_named_with_the_nearest(client: Client, site: Any, hello: Any) -> None:
    with pytest.raises(TypeError, match="did you mean 'num_nodes'"):
        client.Job(app_id=1, workdir="a", num_node=2)
    with pytest.raises(TypeError, match="needs workdir"):
        client.Job(app_id=1)
    job = hello.submit("a", name="x")
    with pytest.raises(AttributeError, match="did you mean 'num_nodes'"):
        job.num_node = 3
    with pytest.raises(errors.ValidationFailed, match="did you mean 'Hello'"):
        client.Job(app_id="Helo", site_name=site.name, workdir="a").save()

    class Elsewhere(client.ApplicationDefinition):  # type: ignore[misc,name-defined]
        site = f"{hello.site}x"
        command_template = "true"

    with pytest.raises(errors.ValidationFailed, match=f"no Site '{hello.site}x'; did you mean '{hello.site}'"):
        Elsewhere.submit("a")


def test_fields_of_the_service_are_read_only(hello: Any) -> None:
    job = hello.submit("a", name="x")
    with pytest.raises(AttributeError, match="site_id is set by the service"):
        job.site_id = 3
    with pytest.raises(AttributeError, match="can't be changed once it is saved"):
        job.parent_ids = {1}


def test_cancel_retry_and_history(hello: Any, client: Client) -> None:
    job = hello.submit("a", name="x")
    job.cancel()
    assert job.state is JobState.CANCELLED
    job.cancel()
    job.retry()
    assert job.state is JobState.RESTART_READY
    with pytest.raises(errors.Conflict):
        job.retry()
    events = client.EventLog.objects.filter(job_id=job.id).order_by("timestamp")
    assert [event.to_state.value for event in events] == [
        "READY", "STAGED_IN", "PREPROCESSED", "CANCELLED", "RESTART_READY",
    ]  # fmt: skip
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]


def test_delete(hello: Any, client: Client) -> None:
    job = hello.submit("a", name="x")
    twin = client.Job.objects.get(id=job.id)
    kept = job.id
    job.delete()
    twin.delete()
    for act in (twin.refresh_from_db, lambda: client.Job.objects.get(id=kept)):
        with pytest.raises(client.Job.DoesNotExist):
            act()
    twin.num_nodes = 3
    with pytest.raises(errors.BalsamError):
        twin.save()


def test_equality_hash_and_repr(hello: Any, client: Client) -> None:
    job = hello.submit("a", name="x")
    same = client.Job.objects.get(id=job.id)
    assert job == same and hash(job) == hash(same) and len({job, same}) == 1
    fresh = hello.submit("b", name="x", save=False)
    assert fresh != job
    with pytest.raises(TypeError, match="unsaved"):
        hash(fresh)
    assert repr(job) == f"Job(id={job.id}, state='PREPROCESSED', workdir='a', app_id={job.app_id})"
    assert "workdir: a" in str(job)
    assert job.display_dict()["app_name"] == "Hello"


def test_instances_pickle_and_come_back_to_their_service(hello: Any, client: Client, api: Any) -> None:
    job = hello.submit("a", name="x")
    job.tags["later"] = "saved"
    again = pickle.loads(pickle.dumps(job))
    assert again == job
    again.save()
    job.refresh_from_db()
    assert job.tags == {"later": "saved"}
    plain = pickle.loads(pickle.dumps(api.Job.objects.get(id=job.id)))
    assert type(plain) is api.Job
    assert plain == job
    unsaved = pickle.loads(pickle.dumps(hello.submit("b", name="y", save=False)))
    unsaved.save()
    assert unsaved.state is JobState.PREPROCESSED


@pytest.mark.parametrize("reads", [False, True])
def test_a_default_is_a_change_where_a_part_of_the_row_is_known(hello: Any, client: Client, reads: bool) -> None:
    """As in code of Apps at a Site, whose Job is known in part."""
    job = hello.submit("a", name="x", priority=5, max_attempts=3)
    known = client.Job._known_in_part({"id": job.id, "workdir": "a"})
    known.priority = 0
    if reads:
        assert known.max_attempts == 3
    known.save()
    job.refresh_from_db()
    assert (job.priority, job.max_attempts) == (0, 3)


def test_what_is_set_on_a_copy_is_not_set_on_the_original(hello: Any, client: Client) -> None:
    template = hello.submit("a", name="x", num_nodes=2, save=False)
    other = copy.copy(template)
    other.workdir, other.num_nodes = "b", 3
    assert (template.workdir, template.num_nodes) == ("a", 2)
    client.Job.objects.bulk_create([template, other])
    assert template != other
    template.delete()
    assert copy.copy(template).id is None and pickle.loads(pickle.dumps(template)).id is None, "it was deleted"


def test_several_clients_do_not_meet(client: Client, hello: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    from balsam.client.settings import ClientSettings
    from tests.services import running_service

    job = hello.submit("a", name="x")
    with (
        running_service(tmp_path_factory.mktemp("other") / "balsam") as other,
        Client(ClientSettings(other.url, other.token)) as far,
    ):
        assert far.Job.objects.count() == 0
        with pytest.raises(far.Job.DoesNotExist):
            far.Job.objects.get(id=job.id)
        site = far.Site.objects.create(name="far", path="/far")
        assert client.Site.objects.filter(name="far").count() == 0
        assert far.Site.objects.get(id=site.id) == site


def test_site_fields(client: Client, site: Any) -> None:
    site.transfer_locations = {"here": "local:///data"}
    site.allowed_queues["big"] = {"max_nodes": 100, "max_walltime": 60}
    site.save()
    again = client.Site.objects.get(name=site.name)
    assert again.allowed_queues["big"] == {"max_nodes": 100, "max_walltime": 60, "max_queued_jobs": 0}
    assert again.transfer_locations == {"here": "local:///data"}
    assert not again.is_active
    again.delete()
    with pytest.raises(client.Site.DoesNotExist):
        site.refresh_from_db()


def test_batch_job(client: Client, site: Any) -> None:
    made = client.BatchJob.objects.create(
        site_id=site.id,
        num_nodes=3,
        wall_time_min=30,
        job_mode="mpi",
        queue="local",
        project="local",
        filter_tags={"kind": "test"},
        partitions=[
            {"job_mode": "serial", "num_nodes": 1, "filter_tags": {"size": "small"}},
            BatchJobPartition(job_mode="mpi", num_nodes=2),
        ],
    )
    assert made.state is BatchJobState.PENDING_SUBMISSION
    assert made.partitions_to_cli_args() == " --part serial:1:size=small --part mpi:2"
    assert client.BatchJob.objects.get(filter_tags={"kind": "test"}, site_id=site.id) == made
    assert client.BatchJob.objects.filter(state="pending_submission", site_id=[site.id]).count() == 1
    made.validate(site.allowed_queues, site.allowed_projects, {})
    with pytest.raises(ValueError, match=r"queue 'local' is not allowed.*project 'local' is not allowed"):
        made.validate({}, [], {})
    made.state = "pending_deletion"
    made.save()
    assert client.BatchJob.objects.get(id=made.id).state is BatchJobState.PENDING_DELETION
    made.cancel()
    with pytest.raises(ValueError, match="no_such_state"):
        made.state = "no_such_state"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num_nodes": 0}, "num_nodes"),
        ({"num_nodes": 99}, "nodes"),
        ({"queue": "nope"}, "nope"),
        ({"project": "nope"}, "nope"),
        ({"site_id": 10**9}, "."),
        ({"site_id": "mine"}, "BatchJob.site_id: .*; it is 'mine'"),
        ({"num_nodes": 0}, "BatchJob.num_nodes: .*; it is 0"),
        ({"partitions": [{"job_mode": "mpi", "num_nodes": 7}]}, "partition"),
    ],
)
def test_a_wrong_allocation_is_refused(client: Client, site: Any, wrong: Any, says: str) -> None:
    good = {
        "site_id": site.id, "num_nodes": 1, "wall_time_min": 5, "job_mode": "mpi", "queue": "local", "project": "local",
    }  # fmt: skip
    with pytest.raises(errors.BalsamError, match=says):
        client.BatchJob.objects.create(**{**good, **wrong})


def test_apps_load_back_as_classes(client: Client, hello: Any, site: Any) -> None:
    hello.sync()
    loaded = client.ApplicationDefinition.load_by_site(site.name)["Hello"]
    assert loaded.__doc__ == "Says hello."
    assert loaded.source_code == client.App.objects.get(name="Hello", site_id=site.id).source_code
    loaded.sync()
    job = loaded.submit("a", name="x")
    assert job.app_id == loaded._state.app_id
    by_name = client.ApplicationDefinition.load_by_name("Hello", site.name)
    by_id = client.ApplicationDefinition.load_by_id(loaded._state.app_id)
    assert by_name.command_template == by_id.command_template == hello.command_template
    with pytest.raises(errors.ValidationFailed, match="did you mean 'Hello'"):
        client.ApplicationDefinition.load_by_name("Hallo", site.name)
    with pytest.raises(errors.ValidationFailed, match=rf"^there is no Site '{site.name}x'; did you mean '{site.name}'"):
        client.ApplicationDefinition.load_by_name("Hello", f"{site.name}x")
    assert set(client.ApplicationDefinition.load_by_site(site.id)) == {"Hello"}


def test_a_definition_is_sent_once_and_again_when_it_changed(
    client: Client, hello: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[str] = []
    sync = type(client.apps).sync
    monkeypatch.setattr(
        type(client.apps), "sync", lambda self, d, old: (syncs.append(d.command_template), sync(self, d, old))[1]
    )
    for number in range(3):
        hello.submit(f"a/{number}", name="x")
    assert len(syncs) == 1
    hello.command_template = "echo Bye, {{ name }}"
    hello.submit("a/4", name="x")
    assert syncs == ["echo Hello, {{ name }}", "echo Bye, {{ name }}"]


def test_monitors_of_an_app_are_kept_loaded_and_synced_when_they_change(client: Client, hello: Any, site: Any) -> None:
    assert "monitors" not in hello.to_dict() or hello.to_dict()["monitors"] == {}
    hello.monitors = {"bad": {"action": "kill", "file": "e.dat", "not_finite": True}}
    job = hello.submit("a", name="x")
    app = client.App.objects.get(id=job.app_id)
    assert (app.monitors["bad"]["file"], app.monitors["bad"]["restarts"]) == ("e.dat", 0)
    assert client.ApplicationDefinition.load_by_id(app.id).monitors == app.monitors
    hello.monitors = {}
    hello.submit("b", name="x")
    assert client.App.objects.get(id=job.app_id).monitors == {}


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ({"action": "kill", "pattern": "("}, "monitors.bad.pattern"),
        ({"action": "kill"}, "monitors.bad"),
        ({"action": "stop", "pattern": "x"}, "monitors.bad.action"),
        ({"action": "kill", "pattern": "x", "files": "x"}, "monitors.bad.files"),
    ],
)
def test_a_monitor_that_can_not_be_is_refused_before_it_is_sent(hello: Any, rule: dict[str, Any], where: str) -> None:
    hello.monitors = {"bad": rule}
    with pytest.raises(errors.ValidationFailed) as caught:
        hello.sync()
    assert [problem.where.removeprefix("App Hello.") for problem in caught.value.details] == [where]


def test_a_service_from_before_monitors_is_told_of_none(
    client: Client, hello: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    request = Transport.request

    def spy(self: Transport, method: str, path: str, **fields: Any) -> Any:
        sent.append(fields.get("body"))
        return request(self, method, path, **fields)

    monkeypatch.setattr(Transport, "request", spy)
    hello.sync()
    assert [b"monitors" in dump_body(body) for body in sent if isinstance(body, AppSync)] == [False]


def test_an_app_is_renamed_with_its_jobs(client: Client, hello: Any, site: Any) -> None:
    job = hello.submit("a", name="x")
    attributes = {"site": site.name, "command_template": "echo Bye, {{ name }}"}
    bye = type("Bye", (client.ApplicationDefinition,), attributes)
    with pytest.raises(errors.ValidationFailed, match="this Site has no App 'Helo'"):
        bye.sync(rename_from="Helo")
    bye.sync(rename_from="Hello")
    bye.sync(rename_from="Hello")
    assert {app.name: app.id for app in client.App.objects.filter(site_id=site.id)} == {"Bye": job.app_id}
    assert client.Job.objects.get(id=job.id).app_name == "Bye"
    assert bye.submit("b", name="y").app_id == job.app_id
    assert client.ApplicationDefinition.load_by_name("Bye", site.name).command_template == "echo Bye, {{ name }}"
    with pytest.raises(errors.ValidationFailed, match="no App 'Hello'"):
        client.ApplicationDefinition.load_by_name("Hello", site.name)
    hello._state.synced = None
    hello.sync()
    with pytest.raises(errors.Conflict, match="has an App 'Bye' already, beside 'Hello'"):
        bye.sync(rename_from="Hello")


def test_a_class_without_source_works(client: Client, site: Any) -> None:
    made = type("Made", (client.ApplicationDefinition,), {"site": site.id, "command_template": "true"})
    assert made.submit("a").state is JobState.PREPROCESSED


def test_a_class_rebuilt_without_source_does_not_replace_the_app(client: Client, hello: Any) -> None:
    hello.sync()
    before = client.App.objects.get(name="Hello", site_id=hello.resolve_site_id())
    attributes = {"site": hello.site, "command_template": hello.command_template, "__doc__": hello.__doc__}
    rebuilt = type("Hello", (client.ApplicationDefinition,), attributes)
    job = rebuilt.submit("a", name="x")
    after = client.App.objects.get(id=job.app_id)
    assert (after.content_hash, after.source_code) == (before.content_hash, before.source_code)
    rebuilt.command_template = "echo Bye, {{ name }}"
    rebuilt.sync()
    after.refresh_from_db()
    assert after.command_template == "echo Bye, {{ name }}"


def test_an_app_that_was_deleted_is_synced_again_after_one_clear_error(client: Client, hello: Any) -> None:
    job = hello.submit("a", name="x")
    job.delete()
    client.App.objects.get(id=job.app_id).delete()
    with pytest.raises(errors.BalsamError, match="App"):
        hello.submit("b", name="x")
    assert hello.submit("b", name="x").state is JobState.PREPROCESSED


@pytest.mark.parametrize(
    ("attributes", "kind", "says"),
    [
        ({"command_template": "echo '{{ name }}'"}, errors.ValidationFailed, "quotes"),
        ({"command_template": "echo {{ name|x }}"}, errors.ValidationFailed, "plain parameter name"),
        ({"command_template": None}, errors.ValidationFailed, "command_template is missing"),
        ({"parameters": {"other": {"required": True}}}, errors.ValidationFailed, "not used"),
        ({"parameters": {"name": {"defualt": "x"}}}, errors.ValidationFailed, "defualt"),
        ({"parameters": {"name": {"required": True, "default": "x"}}}, errors.ValidationFailed, "choose one"),
        ({"run": lambda self: 1}, errors.ValidationFailed, r"command_template and run\(\) are both there"),
        ({"run": lambda self, *x: 1, "command_template": None}, errors.ValidationFailed, "takes 'x' by position"),
        ({"site": None}, errors.ValidationFailed, "site is missing"),
        ({"parameters": ["name"]}, errors.ValidationFailed, r"parameters must be a dict, not \['name'\]"),
        ({"transfers": {"r": "x"}}, errors.ValidationFailed, r"transfers\.r must be a dict, not 'x'"),
        ({"transfers": {"r": 3}}, errors.ValidationFailed, r"transfers\.r must be a dict, not 3"),
        (
            {"transfers": {"r": {"required": True, "direction": "out", "local_path": "../x"}}},
            errors.ValidationFailed,
            r"^App Faulty: transfers\.r\.local_path: local_path '\.\./x' contains",
        ),
        ({"cleanup_files": ["../x"]}, errors.ValidationFailed, r"^App Faulty: cleanup_files: "),
        (
            {"python_exe": "/usr/bin/python3"},
            errors.ValidationFailed,
            r"python_exe is the interpreter for run\(\), which",
        ),
        ({"command_template": 3}, errors.ValidationFailed, "command_template must be text, not 3"),
        ({"environment_variables": "A=1"}, errors.ValidationFailed, "environment_variables must be a dict, not 'A=1'"),
        (
            {"cleanup_files": "*.tmp"},
            errors.ValidationFailed,
            r"cleanup_files must be a list of patterns, not '\*.tmp'",
        ),
    ],
)
def test_a_faulty_definition_says_what_to_change(
    client: Client, site: Any, attributes: Any, kind: type[Exception], says: str
) -> None:
    good = {"site": site.name, "command_template": "echo {{ name }}"}
    app = type("Faulty", (client.ApplicationDefinition,), {**good, **attributes})
    with pytest.raises(kind, match=says):
        app.sync()
    with pytest.raises(kind, match=says):
        app.submit("a", name="x")


def test_a_default_makes_a_parameter_optional(client: Client, site: Any) -> None:
    class Greet(client.ApplicationDefinition):  # type: ignore[misc,name-defined]
        site_ = site

        command_template = "echo {{ word }} {{ name }}"
        parameters = {"word": {"required": False, "default": "Hi", "help": "the greeting"}}  # noqa: RUF012

    Greet.site = site
    job = Greet.submit("a", name="x")
    assert job.parameters == {"name": "x"}
    app = client.App.objects.get(id=job.app_id)
    assert app.parameters["word"] == {"required": False, "default": "Hi", "help": "the greeting"}
    assert app.parameters["name"]["required"]


def test_a_launchers_view_of_a_session(client: Client, site: Any, hello: Any, runner: Runner) -> None:
    found = client.Session.objects.get(id=runner.session)
    assert (found.site_id, found.kind.value) == (site.id, "heartbeat")
    assert found.heartbeat == found.renewed_at
    with pytest.raises(TypeError, match="can't be changed"):
        found._manager()._update(found, {"label": "x"})


def test_events_are_not_made_by_hand(client: Client) -> None:
    with pytest.raises(TypeError, match="written by the service"):
        client.EventLog(job_id=1)


def test_what_is_no_parent_and_what_is_no_site_is_named(client: Client, hello: Any) -> None:
    with pytest.raises(TypeError, match="parent_ids has 'first'; give a list of Jobs or of their ids"):
        hello.submit("a", name="x", parent_ids=["first"])
    with pytest.raises(ValueError, match="this Job is not saved yet"):
        hello.submit("a", name="x", parent_ids=[hello.submit("b", name="x", save=False)])
    asked = {"num_nodes": 1, "wall_time_min": 5, "job_mode": "mpi", "queue": "local", "project": "local"}
    with pytest.raises(errors.NotFound, match="there is no Site 999999, or it is not yours; `balsam site ls` lists"):
        client.BatchJob.objects.create(site_id=999_999, **asked)
