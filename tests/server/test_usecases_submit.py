"""Submitting: every fault named by its row, nothing created; parents; whose Apps and Jobs one may name."""

from typing import Any

import pytest

from balsam.domain.envelope import Envelope
from balsam.domain.states import JobState
from balsam.server.errors import Conflict, Forbidden, Invalid, NotFound, ServiceError
from balsam.server.principal import Principal
from balsam.server.store.memory import MemoryStore
from balsam.server.usecases import apps
from balsam.server.usecases.submit import submit_jobs
from balsam.testing.store_world import StoreWorld
from balsam.wire.apps import AppParameter, AppView, PythonCode
from balsam.wire.jobs import JobsCreate
from balsam.wire.limits import MAX_JSON_DEPTH, MAX_PARAMETERS_BYTES
from balsam.wire.sessions import LaunchEvent

CODE = Envelope.seal(b"a class", python="3.11", pickler="cloudpickle 3.1.2").as_json()


@pytest.fixture
def world() -> StoreWorld:
    return StoreWorld(MemoryStore())


def refused(world: StoreWorld, *rows: dict[str, object]) -> ServiceError:
    with pytest.raises(ServiceError) as error:
        world.submit_all([world.job(**row) for row in rows])
    assert world.count() == 0, "something was created"
    return error.value


def nested(depth: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


BAD_ROWS = [
    ({"workdir": "../x"}, "workdir", "contains '..'"),
    ({"workdir": "/etc"}, "workdir", "is absolute"),
    ({"workdir": "a\nb"}, "workdir", "control character"),
    ({"parameters": {}}, "parameters", "missing: name"),
    ({"parameters": {"name": "x", "nmae": "y"}}, "parameters", "unknown: nmae"),
    ({"parameters": {"name": "a\0b"}}, "parameters", "NUL"),
    ({"parameters": {"name": None}}, "parameters", "is None"),
    ({"parameters": {"name": float("nan")}}, "parameters", "NaN or an infinity"),
    ({"parameters": {"name": "x" * MAX_PARAMETERS_BYTES}}, "parameters", f"at most {MAX_PARAMETERS_BYTES}"),
    ({"data": {"d": [float("inf")]}}, "data", "NaN or an infinity"),
    ({"data": nested(MAX_JSON_DEPTH + 2)}, "data", f"deeper than {MAX_JSON_DEPTH}"),
    ({"tags": {"a:b": "c"}}, "tags", "':'"),
    ({"tags": {"": "c"}}, "tags", "empty"),
    ({"num_nodes": 2, "node_packing_count": 2}, "resources", "only single-node Jobs"),
    ({"gpus_per_rank": 1.5}, "resources", "whole number"),
    ({"num_nodes": 10_000, "ranks_per_node": 10_000}, "resources", "ranks"),
    ({"transfers": {"result": "client:/x"}}, "transfers.result", "no such transfer slot; it has: none"),
]


@pytest.mark.parametrize(("row", "where", "said"), BAD_ROWS, ids=[f"{where}-{said}" for _, where, said in BAD_ROWS])
def test_a_bad_row_is_named(world: StoreWorld, row: dict[str, object], where: str, said: str) -> None:
    error = refused(world, {}, {}, row)
    assert isinstance(error, Invalid)
    assert [detail.where for detail in error.details] == [f"jobs[2].{where}"]
    assert said in error.details[0].message
    assert said in error.message


def test_limits_are_kept_to_the_last_one(world: StoreWorld) -> None:
    room = MAX_PARAMETERS_BYTES - len('{"name":""}')
    ids = world.submit_all([world.job(parameters={"name": "x" * room}, data=nested(MAX_JSON_DEPTH))]).ids
    assert world.get(ids[0]).parameters == {"name": "x" * room}


def test_s2_ten_thousand_rows_with_one_bad_one_create_nothing(world: StoreWorld) -> None:
    jobs = [world.job() for _ in range(10_000)]
    jobs[7_777] = world.job(workdir="a/../../b")
    with pytest.raises(Invalid, match=r"jobs\[7777\]\.workdir"):
        world.submit_all(jobs)
    assert world.count() == 0
    assert world.counts() == {}


def test_all_faults_are_told_at_once(world: StoreWorld) -> None:
    error = refused(world, {"workdir": ".."}, {}, {"parameters": {}, "tags": {"a:": ""}}, {"app_id": 99})
    wheres = [detail.where for detail in error.details]
    assert wheres == ["jobs[0].workdir", "jobs[2].tags", "jobs[2].parameters", "jobs[3].app_id"]
    assert "(and 3 more)" in error.message


def test_s14_unknown_and_foreign_apps_and_parents_look_the_same(world: StoreWorld) -> None:
    eve = world.add_user("eve")
    foreign_app = world.add_app(eve, world.add_site(eve))
    (foreign_job,) = world.submit_all([world.job(app_id=foreign_app.id)], eve).ids
    for theirs, nobodys, where in (
        ({"app_id": foreign_app.id}, {"app_id": 4711}, "jobs[0].app_id"),
        ({"parent_ids": [foreign_job]}, {"parent_ids": [4711]}, "jobs[0].parent_ids[0]"),
    ):
        answers = [refused(world, row) for row in (theirs, nobodys)]
        assert [answer.status for answer in answers] == [404, 404]
        assert [answer.details[0].where for answer in answers] == [where, where]
        number = next(iter(theirs.values()))
        text = str(number[0] if isinstance(number, list) else number)
        assert answers[0].details[0].message.replace(text, "4711") == answers[1].details[0].message
        assert [answer.message for answer in answers] == [f"{where}: {answer.details[0].message}" for answer in answers]


def test_s14_code_at_a_site_submits_to_that_site_only(world: StoreWorld) -> None:
    other = world.add_site(name="other")
    there = world.add_app(site=other, name="there")
    (mine,) = world.submit_all([world.job()], world.agent()).ids
    assert world.get(mine).state is JobState.PREPROCESSED
    (elsewhere,) = world.submit(app_id=there.id)
    for job in (world.job(app_id=there.id), world.job(parent_ids=[elsewhere])):
        with pytest.raises(NotFound) as refused:
            world.submit_all([job], world.agent())
        assert "or it is not of this Site" in refused.value.details[0].message
    launcher = Principal(world.ada.user_id, "ada", "launcher", site_id=world.site.id, batch_job_id=1)
    with pytest.raises(Forbidden):
        world.submit_all([world.job()], launcher)


def test_the_answer_is_in_the_order_of_the_request(world: StoreWorld) -> None:
    other = world.add_app(site=world.add_site(name="other"), name="other")
    failed = world.submit()
    world.cancel(failed)
    waiting = world.submit()
    made = world.submit_all(
        [
            world.job(),
            world.job(app_id=other.id),
            world.job(parent_ids=waiting),
            world.job(parent_ids=[*waiting, *failed]),
        ]
    )
    assert made.ids == sorted(made.ids)
    assert made.site_ids == [world.site.id, other.site_id, world.site.id, world.site.id]
    assert made.states == [
        JobState.PREPROCESSED,
        JobState.PREPROCESSED,
        JobState.AWAITING_PARENTS,
        JobState.FAILED,
    ]
    assert made.created_at == world.now
    assert [world.state(job_id) for job_id in made.ids] == made.states
    assert world.events(made.ids[3])[-1].data == {
        "message": f"its parent Job {failed[0]} is CANCELLED",
        "failure": "parent",
    }


def test_submitting_wakes_the_launchers_of_the_site(world: StoreWorld) -> None:
    world.wakes.clear()
    world.submit(5)
    assert [(wake.topic, wake.key) for wake in world.wakes] == [("work", world.site.id)]


def test_a_job_is_stored_as_it_was_sent(world: StoreWorld) -> None:
    sent = world.job(
        workdir="runs//./a/",
        parameters={"name": "x y\n'é"},
        tags={"k": "v:w"},
        data={"deep": [{"a": None}, 1.5, "ü"]},
        num_nodes=2,
        ranks_per_node=3,
        threads_per_rank=4,
        threads_per_core=2,
        gpus_per_rank=0.5,
        wall_time_min=9,
        launch_params={"cpu_bind": "none"},
        priority=-4,
        max_attempts=3,
    )
    job = world.get(world.submit_all([sent]).ids[0])
    for name, value in sent.model_dump(exclude={"pending_file_cleanup"}).items():
        assert getattr(job, name) == ("runs/a" if name == "workdir" else value), name
    assert (job.app_name, job.site_id, job.attempt, job.return_code) == ("hello", world.site.id, 0, None)
    assert job.created_at == job.last_update == world.now


# Parents


def test_children_run_when_the_last_parent_has_finished(world: StoreWorld) -> None:
    parents = world.submit(2)
    (child,) = world.submit(parent_ids=[*parents, parents[0]])
    session = world.open_session()
    first, second = world.acquire(session.id)
    world.tell(session.id, first, LaunchEvent.STARTED, LaunchEvent.RUN_DONE)
    assert world.state(child) is JobState.AWAITING_PARENTS
    world.wakes.clear()
    world.tell(session.id, second, LaunchEvent.STARTED, LaunchEvent.RUN_DONE)
    assert world.state(child) is JobState.PREPROCESSED
    assert ("work", world.site.id) in {(wake.topic, wake.key) for wake in world.wakes}
    assert world.get(child).parent_ids == [*parents, parents[0]]


def test_the_failure_of_a_parent_goes_down_all_generations(world: StoreWorld) -> None:
    parent = world.submit()
    child = world.submit(parent_ids=parent)
    grandchildren = world.submit(2, parent_ids=child)
    session = world.open_session()
    (job,) = world.acquire(session.id)
    world.tell(session.id, job, LaunchEvent.STARTED, LaunchEvent.RUN_ERROR, return_code=1)
    assert {world.state(job_id) for job_id in (*parent, *child, *grandchildren)} == {JobState.FAILED}
    assert world.events(child[0])[-1].data["message"] == f"its parent Job {parent[0]} is FAILED"
    assert world.events(grandchildren[1])[-1].data["message"] == f"its parent Job {child[0]} is FAILED"


# Apps


def test_apps_are_checked_when_they_are_synced(world: StoreWorld) -> None:
    for fields, said in (
        ({"command_template": "echo '{{ name }}'"}, "single quotes"),
        ({"command_template": "echo {{ a | b }}"}, "plain parameter name"),
        ({"command_template": None}, "command_template is missing"),
        ({"name": "no name"}, "Python identifier"),
        ({"parameters": {"name": AppParameter(required=False)}}, "needs a default"),
        ({"hooks": ["preprocess"]}, "the code of the class is missing"),
        ({"code": PythonCode(envelope={"no": "envelope"})}, "format None"),
        ({"code": PythonCode(envelope=CODE, runs=True)}, "both there"),
        (
            {"code": PythonCode(envelope=CODE, runs=True, launch_methods=["get_arg_str"]), "command_template": None},
            "get_arg_str",
        ),
    ):
        with pytest.raises(Invalid, match=said):
            world.add_app(**fields)
    assert world.read(lambda tx: apps.get_app(tx, world.ada, world.app.id)) == world.app


def python_app(world: StoreWorld, **fields: Any) -> AppView:
    code = PythonCode(envelope=CODE, runs=True, **fields)
    parameters = {"a": AppParameter(), "b": AppParameter(required=False)}
    return world.add_app(name="python", command_template=None, parameters=parameters, code=code)


def test_parameters_of_run_are_of_any_kind_and_of_a_larger_size(world: StoreWorld) -> None:
    app = python_app(world)
    (job_id,) = world.submit(app_id=app.id, parameters={"a": "x" * 300_000, "b": CODE}, tags={"t": "u"}, data={"d": 1})
    assert world.get(job_id).parameters["b"] == CODE
    for parameters, said in (
        ({"b": 1}, "missing: a"),
        ({"a": 1, "c": 1}, "unknown: c"),
        ({"a": "x" * 512_000}, "at most 512000 are stored"),
        ({"a": {**CODE, "payload": "AAAA"}}, "parameter 'a': the payload .* is not what its hash says"),
    ):
        with pytest.raises(Invalid, match=said):
            world.submit(app_id=app.id, parameters=parameters)
    with pytest.raises(Invalid, match="at most 65536"):
        world.submit(parameters={"name": "x" * 300_000})
    with pytest.raises(Invalid, match="is no JSON value"):
        world.submit(parameters={"name": CODE})
    (plain,) = world.submit()
    granted = {job.id: job for job in world.acquire(world.open_session().id)}
    assert (granted[job_id].tags, granted[job_id].data) == ({"t": "u"}, {"d": 1})
    assert (granted[plain].tags, granted[plain].data) == ({}, {}), "nothing looks at them there"


def test_run_may_take_any_parameters(world: StoreWorld) -> None:
    app = python_app(world, accepts_any=True)
    assert world.submit(app_id=app.id, parameters={"a": 1, "anything": 2})


def test_a_sync_replaces_the_app_of_that_name(world: StoreWorld) -> None:
    same = world.add_app()
    assert (same.id, same.content_hash) == (world.app.id, world.app.content_hash)
    changed = world.add_app(command_template="echo {{ name }} {{ other }}")
    assert changed.id == world.app.id
    assert changed.content_hash != world.app.content_hash
    assert changed.parameters["other"].required, "what only the template names is a required parameter"
    assert changed.content_hash == changed.spec().content_hash, "a Site computes the hash again (S15)"
    with pytest.raises(Invalid, match="missing: other"):
        world.submit()


def test_defaults_are_filled_in_when_a_job_is_granted(world: StoreWorld) -> None:
    app = world.add_app(
        name="two",
        command_template="echo {{ name }} {{ n }}",
        parameters={"n": AppParameter(required=False, default="7")},
    )
    (job_id,) = world.submit(app_id=app.id)
    assert world.get(job_id).parameters == {"name": "world"}
    session = world.open_session()
    assert world.acquire(session.id)[0].parameters == {"name": "world", "n": "7"}


def test_an_app_with_jobs_is_not_deleted(world: StoreWorld) -> None:
    world.submit(2)
    with pytest.raises(Conflict, match="has 2 Jobs; delete them first"):
        world.write(lambda tx: apps.delete_app(tx, world.ada, world.app.id))
    world.delete()
    assert world.write(lambda tx: apps.delete_app(tx, world.ada, world.app.id)).deleted == 1
    with pytest.raises(NotFound):
        world.read(lambda tx: apps.get_app(tx, world.ada, world.app.id))


def test_an_empty_list_selects_nothing_and_no_list_everything(world: StoreWorld) -> None:
    world.submit(2)
    assert world.count(id=[]) == 0
    assert world.count(state=[]) == 0
    assert world.count(site_id=[]) == 0
    assert world.count() == 2
    assert world.count(app_name="hello") == 2
    assert world.count(app_name="hallo") == 0
    with pytest.raises(Invalid, match=r"tags\[0\]"):
        world.count(tags=["no colon"])


def test_a_bulk_shares_its_decisions(world: StoreWorld) -> None:
    """Equal facts give equal decisions: a bulk of 10,000 asks decide() once."""
    message = JobsCreate(jobs=[world.job(max_attempts=number % 2 + 1) for number in range(10)])
    made = world.write(lambda tx: submit_jobs(tx, world.ada, message, world.now))
    assert set(made.states) == {JobState.PREPROCESSED}
    assert [job.max_attempts for job in world.page()] == [1, 2] * 5
