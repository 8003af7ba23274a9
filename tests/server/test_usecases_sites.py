"""Sites, agents, BatchJobs, accounts, changes and explanations."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from pydantic import ValidationError

from balsam.domain.lease import LeaseKind
from balsam.domain.states import BatchJobState, JobMode, JobState
from balsam.server.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from balsam.server.principal import Principal
from balsam.server.store.memory import MemoryStore
from balsam.server.store.records import BatchJobRow, IdempotencyRow, SiteRow, TokenRow
from balsam.server.store.selections import JobSelection
from balsam.server.sweeps import prune
from balsam.server.sweeps.expire_sessions import SessionExpiry
from balsam.server.usecases import (
    accounts,
    batch_job_lists,
    batch_jobs,
    change,
    events,
    explain,
    logins,
    selection,
    sessions,
    sites,
    users,
)
from balsam.server.usecases.idempotent import once
from balsam.testing.store_world import StoreWorld, run
from balsam.wire.batch_jobs import BatchJobPartition, BatchJobPatch, BatchJobQuery, BatchJobsPatch, BatchJobView
from balsam.wire.events import EventQuery
from balsam.wire.jobs import JobExplanation, JobFilter, JobPatch, JobsPatch, JobsUpdate
from balsam.wire.limits import MAX_TAGS
from balsam.wire.sessions import LaunchEvent
from balsam.wire.sites import AgentLeaseRequest, QueueLimits, SiteFilter, SitePatch

E, S, B = LaunchEvent, JobState, BatchJobState


@pytest.fixture
def world() -> StoreWorld:
    return StoreWorld(MemoryStore())


# Accounts and tokens


def authenticate(world: StoreWorld, secret: str) -> Principal:
    return world.read(lambda tx: accounts.authenticate(tx, secret, world.now)).principal


def test_a_token_is_known_by_its_hash_only(world: StoreWorld) -> None:
    world.write(lambda tx: accounts.issue_user_token(tx, world.ada.user_id, "blsm_user_secret", None, "cli", world.now))
    principal = authenticate(world, "blsm_user_secret")
    assert (principal.user_id, principal.kind, principal.is_admin) == (world.ada.user_id, "user", True)
    assert "secret" not in str(world.read(lambda tx: tx.find(TokenRow)))
    with pytest.raises(Unauthenticated):
        authenticate(world, "blsm_user_other")


def test_tokens_expire_and_are_revoked(world: StoreWorld) -> None:
    soon = world.now + timedelta(minutes=5)
    for secret, until in (("short", soon), ("long", None)):
        world.write(lambda tx, s=secret, u=until: accounts.issue_user_token(tx, 1, s, u, "cli", world.now))
    assert authenticate(world, "short")
    world.clock.advance(300)
    with pytest.raises(Unauthenticated, match="expired"):
        authenticate(world, "short")
    principal = authenticate(world, "long")
    world.wakes.clear()
    world.write(lambda tx: accounts.logout(tx, principal, world.now))
    assert [wake.topic for wake in world.wakes] == ["tokens"]
    with pytest.raises(Unauthenticated):
        authenticate(world, "long")


def test_each_start_of_the_local_service_has_a_token_of_its_own(world: StoreWorld) -> None:
    first = world.write(lambda tx: accounts.ensure_local_user(tx, "ada", "one", world.now))
    second = world.write(lambda tx: accounts.ensure_local_user(tx, "ada", "two", world.now))
    assert first.user_id == second.user_id == world.ada.user_id
    assert authenticate(world, "two").is_admin
    with pytest.raises(Unauthenticated):
        authenticate(world, "one")


def test_a_local_token_that_was_revoked_is_known_to_be(world: StoreWorld) -> None:
    first = world.write(lambda tx: accounts.ensure_local_user(tx, "ada", "one", world.now))
    assert not world.read(lambda tx: accounts.was_revoked(tx, "one") or accounts.was_revoked(tx, "never made"))
    world.write(lambda tx: accounts.logout(tx, first, world.now))
    assert world.read(lambda tx: accounts.was_revoked(tx, "one"))


def test_only_administrators_make_users(world: StoreWorld) -> None:
    made = world.write(lambda tx: users.create_user(tx, world.ada, "eve", "hash", False, world.now))
    assert [user.username for user in world.read(lambda tx: users.list_users(tx, world.ada))] == ["ada", "eve"]
    eve = Principal(made.id, "eve")
    for who in (eve, world.agent()):
        with pytest.raises(Forbidden):
            world.write(lambda tx, who=who: users.create_user(tx, who, "bob", "hash", False, world.now))
    with pytest.raises(Conflict, match="there is a user"):
        world.write(lambda tx: users.create_user(tx, world.ada, "eve", "hash", False, world.now))


def test_a_new_password_ends_logins_and_leaves_sites_alone(world: StoreWorld) -> None:
    world.write(lambda tx: accounts.issue_user_token(tx, world.ada.user_id, "login", None, "cli", world.now))
    world.write(lambda tx: accounts.set_password(tx, world.ada.user_id, "hash", 0, world.now))
    kinds = {row.kind: row.revoked_at for row in world.read(lambda tx: tx.find(TokenRow))}
    assert kinds["user"] is not None
    assert kinds["site"] is None
    found = world.read(lambda tx: accounts.user_named(tx, "ada"))
    assert found is not None
    assert found.password_hash == "hash"


# Sites


def test_site_names_are_unique_per_owner(world: StoreWorld) -> None:
    eve = world.add_user("eve")
    assert world.add_site(eve).name == world.site.name
    with pytest.raises(Conflict, match="choose another name"):
        world.add_site()


def test_s14_sites_of_others_do_not_exist(world: StoreWorld) -> None:
    eve = world.add_user("eve")
    other = world.add_site(name="other")
    listed = world.read(lambda tx: sites.list_sites(tx, eve, SiteFilter(), world.now))
    assert (listed.count, listed.results) == (0, [])
    for who, site_id in ((eve, world.site.id), (eve, 4711), (world.agent(), other.id)):
        with pytest.raises(NotFound):
            world.read(lambda tx, who=who, site_id=site_id: sites.get_site(tx, who, site_id, world.now))
        with pytest.raises(NotFound):
            world.read(lambda tx, who=who, site_id=site_id: sites.check_stream(tx, who, site_id))


def test_sites_are_filtered_and_changed(world: StoreWorld) -> None:
    world.add_site(name="cluster", path="/scratch/ada/site")
    found = world.read(lambda tx: sites.list_sites(tx, world.ada, SiteFilter(path="scratch"), world.now))
    assert [site.name for site in found.results] == ["cluster"]
    patch = SitePatch(allowed_queues={"debug": QueueLimits(max_nodes=2)}, hostname="login1")
    world.wakes.clear()
    view = world.write(lambda tx: sites.change_site(tx, world.agent(), world.site.id, patch, world.now))
    assert (view.hostname, list(view.allowed_queues), view.allowed_projects) == ("login1", ["debug"], ["local"])
    assert world.wakes == [], "an agent was told of its own change"
    with pytest.raises(Conflict):
        world.write(lambda tx: sites.change_site(tx, world.ada, view.id, SitePatch(name="cluster"), world.now))
    big = SitePatch(queued_jobs={"x": "y" * 300_000})
    with pytest.raises(Invalid, match="queued_jobs"):
        world.write(lambda tx: sites.change_site(tx, world.agent(), view.id, big, world.now))


def lease(world: StoreWorld, instance: str, replaces: str = "", pid: int = 7) -> None:
    message = AgentLeaseRequest(instance=instance, hostname="login1", pid=pid, replaces=replaces)
    world.write(lambda tx: sites.renew_agent(tx, world.agent(), world.site.id, message, world.now))


def test_a_site_has_one_agent(world: StoreWorld) -> None:
    """F27: on a shared home a lock file can't tell; the service can."""
    lease(world, "one")
    assert world.read(lambda tx: sites.get_site(tx, world.ada, world.site.id, world.now)).is_active
    with pytest.raises(Conflict, match="process 7 on login1") as refusal:
        lease(world, "two")
    assert refusal.value.code == "agent_running"
    lease(world, "one")
    lease(world, "two", replaces="one", pid=8)
    with pytest.raises(Conflict, match="process 8"):
        lease(world, "one")
    world.clock.advance(sites.AGENT_TTL_SEC)
    assert not world.read(lambda tx: sites.get_site(tx, world.ada, world.site.id, world.now)).is_active
    lease(world, "three")
    world.write(lambda tx: sites.release_agent(tx, world.agent(), world.site.id, "two", world.now))
    assert world.read(lambda tx: sites.get_site(tx, world.ada, world.site.id, world.now)).is_active
    world.write(lambda tx: sites.release_agent(tx, world.agent(), world.site.id, "three", world.now))
    assert not world.read(lambda tx: sites.get_site(tx, world.ada, world.site.id, world.now)).is_active


@pytest.mark.parametrize("jump", [86_400, -86_400])
def test_s13_a_clock_that_jumps_neither_ends_nor_prolongs_the_claim_of_an_agent(world: StoreWorld, jump: float) -> None:
    world.sweep()
    lease(world, "one")
    world.pass_time(sites.AGENT_TTL_SEC / 2)
    world.clock.jump(jump)
    world.sweep()
    with pytest.raises(Conflict, match="process 7"):
        lease(world, "two")
    world.pass_time(sites.AGENT_TTL_SEC)
    lease(world, "two")


def test_s13_the_claim_of_a_dead_agent_stays_over_when_the_clock_goes_back(world: StoreWorld) -> None:
    lease(world, "one")
    world.pass_time(2 * sites.AGENT_TTL_SEC)
    world.clock.jump(-86_400)
    world.sweep()
    assert not world.read(lambda tx: sites.get_site(tx, world.ada, world.site.id, world.now)).is_active
    lease(world, "two")


def test_s13_a_service_that_starts_with_an_earlier_clock_holds_no_claim_for_long(world: StoreWorld) -> None:
    lease(world, "one")
    world.clock.jump(-86_400)
    world.expiry = SessionExpiry(world.now)
    world.sweep()
    with pytest.raises(Conflict, match="process 7"):
        lease(world, "two")
    world.pass_time(sites.AGENT_TTL_SEC)
    lease(world, "two")


def test_s13_a_code_does_not_live_longer_when_the_clock_goes_back(world: StoreWorld) -> None:
    world.write(lambda tx: logins.begin(tx, "device", "BCDF-GHJK", "tests", "127.0.0.1", "/login", world.now))
    assert world.read(lambda tx: logins.waiting_login(tx, "BCDF-GHJK", world.now)) is not None
    world.clock.jump(-2.0)  # another process's clock is a little behind
    assert world.read(lambda tx: logins.waiting_login(tx, "BCDF-GHJK", world.now)) is not None
    world.clock.jump(-86_400)
    assert world.read(lambda tx: logins.waiting_login(tx, "BCDF-GHJK", world.now)) is None


def test_deleting_a_site_takes_everything_and_frees_the_name(
    world: StoreWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "DELETE_SLICE", 3)
    world.submit(10, tags={"a": "b"})
    world.open_session(batch_job_id=world.submit_batch_job().id)
    deleted = run(sites.delete_site(world.store, world.ada, world.site.id, lambda: world.now))
    assert deleted.deleted == 1
    assert world.count() == 0
    with pytest.raises(NotFound):
        world.read(lambda tx: sites.get_site(tx, world.ada, world.site.id, world.now))
    world.site = world.add_site()
    world.app = world.add_app()
    assert len(world.submit(2)) == 2
    with pytest.raises(NotFound):
        run(sites.delete_site(world.store, world.add_user("eve"), world.site.id, lambda: world.now))


def test_an_interrupted_deletion_is_finished_by_the_sweep(world: StoreWorld) -> None:
    world.submit(4)
    world.write(lambda tx: sites.hide_site(tx, world.ada, world.site.id, world.now))
    with pytest.raises(NotFound):
        world.read(lambda tx: sites.get_site(tx, world.ada, world.site.id, world.now))
    assert prune.run_once(world.store, world.now) == 1
    assert world.read(lambda tx: tx.find(SiteRow)) == []
    assert world.read(lambda tx: tx.job_count(JobSelection(world.ada.user_id))) == 0


def test_old_keys_and_dead_tokens_are_pruned(world: StoreWorld) -> None:
    def keep(key: str) -> None:
        view = world.site
        world.write(lambda tx: once(tx, world.ada, key, "body", type(view), world.now, lambda: view))

    keep("old")
    world.write(lambda tx: accounts.issue_user_token(tx, 1, "gone", None, "cli", world.now))
    gone = authenticate(world, "gone")
    world.write(lambda tx: accounts.logout(tx, gone, world.now))
    world.clock.advance(7 * 86_400 - 1)
    keep("young")
    assert prune.run_once(world.store, world.now) == 0
    world.clock.advance(2)
    assert prune.run_once(world.store, world.now) == 1
    assert [row.key for row in world.read(lambda tx: tx.find(IdempotencyRow))] == ["young"]
    world.clock.advance(30 * 86_400)
    assert prune.run_once(world.store, world.now) == 2
    assert {row.kind for row in world.read(lambda tx: tx.find(TokenRow))} == {"user", "site"}


def test_s2_a_key_must_be_sound(world: StoreWorld) -> None:
    for key in ("", "x" * 129, "a\nb"):
        with pytest.raises(Invalid, match="Idempotency-Key"):
            world.write(lambda tx, key=key: once(tx, world.ada, key, "b", BatchJobView, world.now, lambda: None))


# BatchJobs


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({"queue": "gpu"}, "queue", "has no queue 'gpu'; it allows: local"),
        ({"project": "x"}, "project", "has no project 'x'; it allows: local"),
        ({"num_nodes": 5}, "num_nodes", "at most 4 nodes, 5 are asked for"),
        ({"wall_time_min": 61}, "wall_time_min", "at most 60 minutes, 61 are asked for"),
        ({"optional_params": {"cpu": "1"}}, "optional_params.cpu", "it takes: none"),
        ({"filter_tags": {"a:b": "c"}}, "filter_tags", "':'"),
        ({"filter_tags": {"a=b": "c"}}, "filter_tags", "'='"),
        ({"filter_tags": {"-a": "c"}}, "filter_tags", "begins with '-'"),
        (
            {"partitions": [BatchJobPartition(job_mode="mpi", num_nodes=1, filter_tags={"a": "b:c"})]},
            "partitions[0].filter_tags",
            "give the tag to the whole BatchJob",
        ),
        (
            {"num_nodes": 3, "partitions": [BatchJobPartition(job_mode=JobMode.MPI, num_nodes=2)]},
            "partitions",
            "they have 2 nodes together, the BatchJob has 3",
        ),
    ],
)
def test_what_a_site_does_not_allow_is_named(world: StoreWorld, fields: dict, where: str, said: str) -> None:
    with pytest.raises(Invalid) as error:
        world.submit_batch_job(**fields)
    assert [(detail.where, said in detail.message) for detail in error.value.details] == [(where, True)]


@pytest.mark.parametrize(
    ("queues", "said"),
    [
        (
            {"local": QueueLimits(max_nodes=4)},
            "none; its owner puts them into scheduler.allowed_projects of its settings",
        ),
        ({}, "it allows: none yet: its agent tells them when it starts"),
    ],
)
def test_a_site_without_projects_says_whether_its_agent_was_heard(
    world: StoreWorld, queues: dict[str, QueueLimits], said: str
) -> None:
    patch = SitePatch(allowed_queues=queues, allowed_projects=[])
    world.write(lambda tx: sites.change_site(tx, world.agent(), world.site.id, patch, world.now))
    with pytest.raises(Invalid) as error:
        world.submit_batch_job()
    assert said in {detail.where: detail.message for detail in error.value.details}["project"]


def test_the_number_of_waiting_batch_jobs_is_limited(world: StoreWorld) -> None:
    patch = SitePatch(allowed_queues={"local": QueueLimits(max_nodes=4, max_queued_jobs=2)})
    world.write(lambda tx: sites.change_site(tx, world.agent(), world.site.id, patch, world.now))
    first = world.submit_batch_job()
    world.submit_batch_job()
    with pytest.raises(Invalid, match="at most 2 waiting BatchJobs, and has 2"):
        world.submit_batch_job()
    world.report_batch_job(first.id, B.RUNNING)
    assert world.submit_batch_job().state is B.PENDING_SUBMISSION


def test_creating_and_deleting_wakes_the_agent(world: StoreWorld) -> None:
    world.wakes.clear()
    batch_job = world.submit_batch_job()
    world.report_batch_job(batch_job.id, B.RUNNING)
    session = world.open_session(LeaseKind.ALLOCATION, batch_job.id)
    assert [(wake.topic, wake.event) for wake in world.wakes] == [("site", "batch_jobs")]
    world.wakes.clear()
    gone = world.write(lambda tx: batch_jobs.delete_batch_job(tx, world.ada, batch_job.id, world.now))
    assert (gone.deleted, gone.skipped) == (0, [batch_job.id])
    assert {(wake.topic, wake.key, wake.event) for wake in world.wakes} == {
        ("site", world.site.id, "batch_jobs"),
        ("session", session.id, "closing"),
    }
    assert world.report_batch_job(batch_job.id, B.RUNNING).state is B.PENDING_DELETION, "deletion is sticky"
    world.report_batch_job(batch_job.id, B.FINISHED)
    with pytest.raises(Conflict, match="being closed"):
        world.write(lambda tx: batch_jobs.delete_batch_job(tx, world.ada, batch_job.id, world.now))
    world.pass_time(3, step=1)
    assert world.write(lambda tx: batch_jobs.delete_batch_job(tx, world.ada, batch_job.id, world.now)).deleted == 1


def of_launcher(world: StoreWorld, batch_job: BatchJobView) -> Principal:
    return Principal(world.ada.user_id, "ada", "launcher", site_id=world.site.id, batch_job_id=batch_job.id)


def seen_batch_job(world: StoreWorld, batch_job: BatchJobView) -> BatchJobView:
    return world.read(lambda tx: batch_jobs.get_batch_job(tx, world.ada, batch_job.id))


def test_the_session_of_its_launcher_makes_a_batch_job_running(world: StoreWorld) -> None:
    """No Job of it ends while it is called queued, however late its agent looks, which is woken to look now."""
    batch_job = world.submit_batch_job()
    world.open_session(batch_job_id=batch_job.id)
    assert seen_batch_job(world, batch_job).state is B.PENDING_SUBMISSION, "anybody may open one, only it has its token"
    world.wakes.clear()
    begun = world.now
    world.open_session(batch_job_id=batch_job.id, who=of_launcher(world, batch_job))
    seen = seen_batch_job(world, batch_job)
    assert (seen.state, seen.start_time) == (B.RUNNING, begun)
    assert [(wake.topic, wake.key, wake.event) for wake in world.wakes] == [("site", world.site.id, "batch_jobs")]
    late = world.report_batch_job(batch_job.id, B.QUEUED, scheduler_id="9")
    assert (late.state, late.scheduler_id) == (B.RUNNING, "9"), "the word of the submission is older than the launcher"
    world.clock.advance(5)
    earlier = begun - timedelta(seconds=1)
    seen = world.report_batch_job(batch_job.id, B.RUNNING, scheduler_id="9", start_time=earlier)
    assert seen.start_time == earlier, "the scheduler's own word counts"
    world.wakes.clear()
    world.open_session(batch_job_id=batch_job.id, who=of_launcher(world, batch_job))  # a launcher started again
    assert (seen_batch_job(world, batch_job).start_time, world.wakes) == (earlier, [])


def test_a_session_neither_holds_up_a_requeue_nor_brings_back_what_has_ended(world: StoreWorld) -> None:
    batch_job = world.submit_batch_job()
    launcher = of_launcher(world, batch_job)
    world.report_batch_job(batch_job.id, B.QUEUED, scheduler_id="9")
    session = world.open_session(batch_job_id=batch_job.id, who=launcher)
    assert world.report_batch_job(batch_job.id, B.QUEUED, scheduler_id="9").state is B.QUEUED
    world.write(lambda tx: sessions.renew_session(tx, launcher, session.id, world.now))
    assert seen_batch_job(world, batch_job).state is B.QUEUED
    world.clock.advance(5)
    world.open_session(batch_job_id=batch_job.id, who=launcher)
    again = seen_batch_job(world, batch_job)
    assert (again.state, again.start_time) == (B.RUNNING, world.now)
    for state in (B.PENDING_DELETION, B.FINISHED):
        world.report_batch_job(batch_job.id, state)
        with pytest.raises(Conflict):
            world.open_session(batch_job_id=batch_job.id, who=launcher)
        assert seen_batch_job(world, batch_job).state is state


def test_users_ask_and_agents_report(world: StoreWorld) -> None:
    batch_job = world.submit_batch_job()

    def patch(who: Principal, **fields: object) -> BatchJobView:
        message = BatchJobPatch(**fields)
        return world.write(lambda tx: batch_jobs.patch_batch_job(tx, who, batch_job.id, message, world.now))

    with pytest.raises(Forbidden, match="only the Site's agent"):
        patch(world.ada, state=B.RUNNING)
    with pytest.raises(Forbidden, match="scheduler_id"):
        patch(world.ada, scheduler_id="7")
    assert patch(world.ada, filter_tags={"a": "b"}).filter_tags == {"a": "b"}
    told = patch(world.agent(), state=B.QUEUED, scheduler_id="77", status_info={"reason": "Priority"})
    assert (told.state, told.scheduler_id, told.status_info) == (B.QUEUED, "77", {"reason": "Priority"})
    with pytest.raises(Conflict, match="can't become submit_failed"):
        patch(world.agent(), state=B.SUBMIT_FAILED)
    with pytest.raises(Conflict, match="ask for another BatchJob"):
        patch(world.ada, filter_tags={"a": "c"})
    assert patch(world.ada, filter_tags={"a": "b"}) == told
    started = world.now
    ran = patch(world.agent(), state=B.RUNNING, start_time=started)
    assert ran.start_time == started
    assert patch(world.agent(), state=B.RUNNING) == ran
    assert patch(world.agent(), state=B.FINISHED, end_time=started).end_time == started
    with pytest.raises(Conflict):
        patch(world.agent(), state=B.RUNNING)


def test_reports_in_bulk_stand_each_for_itself(world: StoreWorld) -> None:
    one, two = world.submit_batch_job(), world.submit_batch_job()
    world.report_batch_job(two.id, B.FINISHED)
    message = BatchJobsPatch(
        patches={
            one.id: BatchJobPatch(state=B.RUNNING),
            two.id: BatchJobPatch(state=B.RUNNING),
            999: BatchJobPatch(state=B.RUNNING),
        }
    )
    reply = world.write(lambda tx: batch_jobs.patch_batch_jobs(tx, world.agent(), message, world.now))
    assert [(row.id, row.state) for row in reply.results] == [(one.id, B.RUNNING)]
    assert set(reply.refused) == {two.id, 999}


def test_a_launchers_token_dies_with_its_batch_job(world: StoreWorld) -> None:
    batch_job = world.submit_batch_job()
    world.write(lambda tx: batch_jobs.issue_launcher_token(tx, world.agent(), batch_job.id, "launch", world.now))
    principal = authenticate(world, "launch")
    assert (principal.kind, principal.site_id, principal.batch_job_id) == ("launcher", world.site.id, batch_job.id)
    assert not principal.is_admin
    world.wakes.clear()
    world.report_batch_job(batch_job.id, B.FINISHED)
    assert "tokens" in {wake.topic for wake in world.wakes}
    with pytest.raises(Unauthenticated, match=f"BatchJob {batch_job.id} has ended") as refused:
        authenticate(world, "launch")
    assert refused.value.code == "allocation_ended"
    with pytest.raises(Conflict, match="no token any more"):
        world.write(lambda tx: batch_jobs.issue_launcher_token(tx, world.agent(), batch_job.id, "again", world.now))


def test_batch_jobs_are_listed_by_what_they_are(world: StoreWorld) -> None:
    one = world.submit_batch_job(filter_tags={"a": "b"})
    two = world.submit_batch_job()
    world.report_batch_job(two.id, B.RUNNING, scheduler_id="9", start_time=world.now)

    def listed(**fields: object) -> list[int]:
        message = BatchJobQuery(**fields)
        page = world.read(lambda tx: batch_job_lists.list_batch_jobs(tx, world.ada, message))
        return [row.id for row in page.results]

    assert listed() == [one.id, two.id]
    assert listed(ordering="-id") == [two.id, one.id]
    assert listed(state=[B.RUNNING]) == [two.id]
    assert listed(scheduler_id="9") == [two.id]
    assert listed(filter_tags=["a:b"]) == [one.id]
    assert listed(start_time_after=world.now - timedelta(1)) == [two.id]
    assert listed(id=[one.id, 999]) == [one.id]
    assert listed(site_id=[999]) == []
    with pytest.raises(ValidationError, match="ordering"):
        listed(ordering="queue")


# Changing Jobs


def patch_jobs(world: StoreWorld, patches: dict[int, dict[str, object]]) -> int:
    message = JobsPatch(patches={job_id: JobPatch(**fields) for job_id, fields in patches.items()})
    return world.write(lambda tx: change.patch_jobs(tx, world.ada, message, world.now)).changed


def test_fields_are_changed_and_the_rest_stays(world: StoreWorld) -> None:
    (job_id,) = world.submit(tags={"a": "b"}, max_attempts=3)
    before = world.get(job_id)
    assert (
        patch_jobs(world, {job_id: {"tags": {"c": "d"}, "workdir": "x//y", "num_nodes": 2, "max_attempts": None}}) == 1
    )
    after = world.get(job_id)
    assert (after.tags, after.workdir, after.num_nodes, after.max_attempts) == ({"c": "d"}, "x/y", 2, None)
    assert after.parameters == before.parameters
    assert world.count(tags=["a:b"]) == 0
    assert world.count(tags=["c:d"]) == 1


def test_single_keys_are_changed_and_the_others_stay(world: StoreWorld) -> None:
    (job_id,) = world.submit(tags={"a": "1", "b": "2"}, data={"x": {"y": 1}, "z": 2})
    patch = {"merge_tags": {"a": None, "c": "3"}, "merge_data": {"x": 5}, "merge_parameters": {"name": "new"}}
    assert patch_jobs(world, {job_id: patch}) == 1
    after = world.get(job_id)
    assert (after.tags, after.data, after.parameters) == ({"b": "2", "c": "3"}, {"x": 5, "z": 2}, {"name": "new"})
    assert (world.count(tags=["a:1"]), world.count(tags=["b:2", "c:3"])) == (0, 1)
    assert patch_jobs(world, {job_id: {"tags": {"d": "4"}, "merge_tags": {"e": "5"}}}) == 1
    assert world.get(job_id).tags == {"d": "4", "e": "5"}


def test_a_merged_change_is_checked_as_a_whole(world: StoreWorld) -> None:
    (job_id,) = world.submit(tags={str(number): "" for number in range(MAX_TAGS)})
    for patch, where in (
        ({"merge_parameters": {"name": None}}, "parameters"),
        ({"merge_parameters": {"unknown": 1}}, "parameters"),
        ({"merge_tags": {"one": "more"}}, "tags"),
        ({"merge_tags": {"0": None, "a:b": "c"}}, "tags"),
    ):
        with pytest.raises(Invalid) as error:
            patch_jobs(world, {job_id: patch})
        assert [detail.where for detail in error.value.details] == [f"patches[{job_id}].{where}"], patch


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_is_none_in_utc_is_in_the_way_of_no_list(world: StoreWorld, at: str) -> None:
    (job_id,) = world.submit()
    given = datetime.fromisoformat(at)
    assert patch_jobs(world, {job_id: {"state": JobState.CANCELLED, "state_timestamp": given}}) == 1
    told = world.newest_events(10)[0].reported_at
    assert told is not None and told.year == given.year
    assert world.newest_events(10, timestamp_before=given) == ([] if given.year == 1 else world.newest_events(10))


def test_parameters_of_what_runs_are_not_merged(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    world.acquire(world.open_session().id, 1)
    with pytest.raises(Conflict, match="granted to a launcher; parameters can't be changed"):
        patch_jobs(world, {job_id: {"merge_parameters": {"name": "new"}}})
    assert patch_jobs(world, {job_id: {"merge_tags": {"x": "y"}}}) == 1


def test_what_runs_keeps_its_shape(world: StoreWorld) -> None:
    ids = world.submit(2)
    session = world.open_session()
    world.acquire(session.id, 1)
    with pytest.raises(Conflict, match="granted to a launcher; num_nodes can't be changed"):
        patch_jobs(world, {ids[0]: {"num_nodes": 2}, ids[1]: {"num_nodes": 2}})
    assert world.get(ids[1]).num_nodes == 1, "all or none"
    assert patch_jobs(world, {ids[0]: {"tags": {"x": "y"}, "data": {"n": 1}}}) == 1


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"workdir": ".."}, "workdir"),
        ({"parameters": {}}, "parameters"),
        ({"node_packing_count": 2, "num_nodes": 2}, "resources"),
        ({"data": {"x": float("nan")}}, "data"),
        ({"tags": {"a:b": ""}}, "tags"),
    ],
)
def test_a_change_is_checked_like_a_submission(world: StoreWorld, fields: dict, where: str) -> None:
    (job_id,) = world.submit()
    with pytest.raises(Invalid) as error:
        patch_jobs(world, {job_id: fields})
    assert [detail.where for detail in error.value.details] == [f"patches[{job_id}].{where}"]


def test_s14_jobs_of_others_are_not_changed(world: StoreWorld) -> None:
    eve = world.add_user("eve")
    app = world.add_app(eve, world.add_site(eve))
    (theirs,) = world.submit_all([world.job(app_id=app.id)], eve).ids
    for job_id in (theirs, 4711):
        with pytest.raises(NotFound):
            patch_jobs(world, {job_id: {"tags": {}}})
        with pytest.raises(NotFound):
            world.get(job_id)
    everything = JobsUpdate(filter=JobFilter(), patch=JobPatch(priority=1))
    assert run(selection.update_selected(world.store, world.ada, everything, world.now)).changed == 0
    assert run(selection.update_selected(world.store, eve, everything, world.now)).changed == 1
    # The token of a Site reaches the Jobs of that Site, of which there are none.
    assert run(selection.update_selected(world.store, world.agent(), everything, world.now)).changed == 0


# Explanations


def why(world: StoreWorld, job_id: int) -> JobExplanation:
    return world.read(lambda tx: explain.explain_job(tx, world.ada, job_id, world.now))


def test_every_state_is_explained(world: StoreWorld) -> None:
    lease(world, "agent")
    (job_id,) = world.submit(wall_time_min=20, tags={"a": "b"})
    (child,) = world.submit(parent_ids=[job_id])
    assert why(world, child).summary == "It waits for 1 of its 1 parents to finish."
    parent, no_allocation, remedy = why(world, child).reasons
    assert parent == f"Job {job_id} (run) is PREPROCESSED."
    assert no_allocation == f"Of Job {job_id}: {why(world, job_id).summary}"
    assert "balsam queue submit" in remedy
    assert "has no allocation" in why(world, job_id).summary
    short = world.submit_batch_job(wall_time_min=10)
    assert why(world, job_id).summary == "None of the Site's allocations can run it."
    assert why(world, job_id).reasons == [f"BatchJob {short.id} has 10 minutes, the Job's wall_time_min is 20."]
    tagged = world.submit_batch_job(filter_tags={"a": "c"})
    assert f"BatchJob {tagged.id} takes only Jobs tagged a=c." in why(world, job_id).reasons
    good = world.submit_batch_job()
    world.report_batch_job(good.id, B.QUEUED, status_info={"scheduler": "Priority"})
    assert why(world, job_id).summary == "It waits for an allocation to start."
    assert why(world, job_id).reasons == [f"BatchJob {good.id} is queued in queue 'local': Priority."]
    world.report_batch_job(good.id, B.RUNNING)
    assert "no launcher has reported" in why(world, job_id).summary
    session = world.open_session(batch_job_id=good.id)
    assert "as soon as a launcher" in why(world, job_id).summary
    (job,) = world.acquire(session.id)
    assert why(world, job_id).summary == f"It was granted to BatchJob {good.id} and waits for room on the nodes."
    world.tell(session.id, job, E.STARTED)
    assert f"in BatchJob {good.id}, attempt 1" in why(world, job_id).summary
    world.cancel([job_id])
    assert "killing it" in why(world, job_id).reasons[0]
    world.tell(session.id, job, E.KILLED)
    assert why(world, job_id).summary.startswith("It was cancelled")


def test_a_failure_is_explained_with_its_code_and_last_words(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    session = world.open_session()
    (job,) = world.acquire(session.id)
    world.tell(session.id, job, E.STARTED)
    world.tell(session.id, job, E.RUN_ERROR, return_code=3, message="last line of job.out")
    explained = why(world, job_id)
    assert explained.summary == "Its command ended with return code 3 in attempt 1."
    assert explained.reasons == ["RUNNING -> RUN_ERROR: last line of job.out"]
    (wide,) = world.submit(num_nodes=3)
    small = world.submit_batch_job(job_mode=JobMode.SERIAL)
    assert f"BatchJob {small.id} has 1 nodes, the Job needs 3." in why(world, wide).reasons


def test_an_offline_site_is_named(world: StoreWorld) -> None:
    (job_id,) = world.submit()
    assert "never was online" in why(world, job_id).reasons[-1]
    lease(world, "agent")
    seen = world.now
    world.clock.advance(3600)
    assert f"offline since {seen}" in why(world, job_id).reasons[-1]


def test_events_are_found_by_what_they_say(world: StoreWorld) -> None:
    batch_job = world.submit_batch_job()
    world.report_batch_job(batch_job.id, B.RUNNING, scheduler_id="s77")
    (job_id,) = world.submit(tags={"a": "b"})
    world.submit()
    session = world.open_session(batch_job_id=batch_job.id)
    (job,) = world.acquire(session.id, 1)
    world.clock.advance(5)
    world.tell(session.id, job, E.STARTED, E.RUN_DONE, return_code=0)

    def found(**fields: object) -> int:
        page = world.read(lambda tx: events.list_events(tx, world.ada, EventQuery(**fields)))
        assert page.count == len(page.results)
        return page.count

    assert found() == 10
    assert found(job_id=[job_id]) == 7
    assert found(tags=["a:b"], to_state=S.RUNNING) == 1
    assert found(scheduler_id="s77") == 7
    assert found(scheduler_id="none") == 0
    assert found(batch_job_id=[batch_job.id], from_state=S.CREATED) == 1
    assert found(data=["return_code:0"]) == 2
    assert found(timestamp_after=world.now - timedelta(seconds=1)) == 4
    assert found(timestamp_before=world.now) == 6
    assert found(id=[world.events(job_id)[0].id]) == 1
    newest = world.read(lambda tx: events.list_events(tx, world.ada, EventQuery(limit=1))).results[0]
    assert newest.to_state is S.JOB_FINISHED


def test_a_launchers_token_needs_its_batch_job_even_if_nobody_revoked_it(world: StoreWorld) -> None:
    """The second of two locks: the token is looked at together with what it speaks for."""
    batch_job = world.submit_batch_job()
    world.write(lambda tx: batch_jobs.issue_launcher_token(tx, world.agent(), batch_job.id, "launch", world.now))
    row = world.read(lambda tx: tx.get(BatchJobRow, batch_job.id))
    assert row is not None
    world.write(lambda tx: tx.put(replace(row, state=B.FINISHED)))
    with pytest.raises(Unauthenticated):
        authenticate(world, "launch")
    world.write(lambda tx: tx.remove(BatchJobRow, batch_job.id))
    with pytest.raises(Unauthenticated):
        authenticate(world, "launch")
