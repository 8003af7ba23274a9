"""Sites and campaigns shared with teams: who sees what, who may do what, and that nobody else learns of it (S14)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from balsam.domain.roles import Role
from balsam.domain.states import JobState
from balsam.server.errors import Conflict, Forbidden, Invalid, NotFound, ServiceError
from balsam.server.principal import Principal
from balsam.server.store.memory import MemoryStore
from balsam.server.store.protocol import Store, Wake
from balsam.server.store.sqlite import SqliteStore
from balsam.server.usecases import (
    apps,
    batch_job_lists,
    batch_jobs,
    blobs,
    change,
    events,
    explain,
    jobs,
    results,
    selection,
    sessions,
    shares,
    sites,
    transfers,
)
from balsam.server.usecases import teams as team_cases
from balsam.testing.store_world import StoreWorld, run
from balsam.wire.apps import AppFilter, TransferSlot
from balsam.wire.batch_jobs import BatchJobPatch, BatchJobQuery
from balsam.wire.events import EventQuery
from balsam.wire.jobs import JobFilter, JobPatch, JobQuery, JobsPatch, JobsUpdate
from balsam.wire.sessions import LaunchEvent
from balsam.wire.sites import SiteFilter, SitePatch
from balsam.wire.teams import Member, ShareCreate
from balsam.wire.transfers import JobTransfer, TransferQuery, TransfersCollected

WATER = {"campaign": "water"}


@dataclass
class Shared:
    """Ada's Sites `one` and `two`; at one, a viewer, a submitter and another owner; in campaign water a viewer, a
    submitter and an owner; eve has nothing of all this, and one Job of her own."""

    world: StoreWorld
    viewer: Principal
    submitter: Principal
    owner: Principal
    campaign_viewer: Principal
    campaign_submitter: Principal
    campaign_owner: Principal
    eve: Principal
    two_app: int
    at_one: int  # Ada's Job at one, in no campaign
    water: int  # Ada's Job at two, in the campaign
    submitters: int  # the submitter's Job at one
    campaigners: int  # the campaign submitter's Job at one, in the campaign

    def people(self) -> list[Principal]:
        return [
            self.world.ada,
            self.viewer,
            self.submitter,
            self.owner,
            self.campaign_viewer,
            self.campaign_submitter,
            self.campaign_owner,
            self.eve,
        ]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "balsam.sqlite")
    yield store
    store.close()


@pytest.fixture
def shared(store: Store) -> Shared:
    world = StoreWorld(store)
    names = ("viewer", "submitter", "owner", "campaign_viewer", "campaign_submitter", "campaign_owner", "eve")
    people = {name: world.add_user(name.replace("_", "-")) for name in names}
    two = world.add_site(name="two")
    two_app = world.add_app(site=two).id
    for role in Role:
        for prefix, what in (("", {"site_id": world.site.id}), ("campaign_", {"campaign": "water"})):
            team = world.team(world.ada, people[f"{prefix}{role}"], name=f"{prefix}{role}s")
            world.share(world.ada, team, role, **what)
    eves = world.add_app(people["eve"], world.add_site(people["eve"]))
    world.submit_all([world.job(app_id=eves.id, tags=WATER)], people["eve"])
    [at_one] = world.submit()
    [water] = world.submit(app_id=two_app, tags=WATER)
    [submitters] = world.submit_all([world.job()], people["submitter"]).ids
    [campaigners] = world.submit_all([world.job(tags=WATER)], people["campaign_submitter"]).ids
    world.wakes.clear()
    return Shared(
        world, **people, two_app=two_app, at_one=at_one, water=water, submitters=submitters, campaigners=campaigners
    )


def outcome(call: Callable[..., Any], *args: Any, **more: Any) -> str:
    """`ok`, or the class of the refusal."""
    try:
        call(*args, **more)
    except ServiceError as error:
        return type(error).__name__
    return "ok"


def do(world: StoreWorld, use_case: Callable[..., Any], *args: Any) -> Any:
    """A use case in a transaction of its own."""
    return world.write(lambda tx: use_case(tx, *args))


def test_who_sees_which_jobs(shared: Shared) -> None:
    world = shared.world
    at_site = {shared.at_one, shared.submitters, shared.campaigners}
    in_campaign = {shared.water, shared.campaigners}
    sees = {
        "ada": at_site | in_campaign,
        "viewer": at_site,
        "submitter": at_site,
        "owner": at_site,
        "campaign-viewer": in_campaign,
        "campaign-submitter": in_campaign,
        "campaign-owner": in_campaign,
    }
    everything = at_site | in_campaign
    for who in shared.people()[:-1]:
        seen = sees[who.username]
        assert {job.id for job in world.page(who)} == seen, who.username
        assert world.count(who) == len(seen)
        assert sum(world.counts(who).values()) == len(seen)
        assert {job.id for job in world.page(who, id=sorted(everything))} == seen
        assert {job.id for job in world.page(who, tags=["campaign:water"])} == seen & in_campaign
        assert {job.id for job in world.page(who, site_id=[world.site.id])} == seen & at_site
        told = do(world, events.list_events, who, EventQuery())
        assert {event.job_id for event in told.results} == seen and told.count == len(told.results)
        for job_id in everything:
            for look in (jobs.get_job, lambda tx, who, job_id: explain.explain_job(tx, who, job_id, world.now)):
                want = "ok" if job_id in seen else "NotFound"
                assert outcome(do, world, look, who, job_id) == want, (who.username, job_id)
    assert world.count(shared.eve) == 1 and not {job.id for job in world.page(shared.eve)} & everything


def test_pages_of_several_owners_are_one_list(shared: Shared) -> None:
    """Eve also gets a look at Ada's Site: her list is made of two owners' Jobs."""
    world, eve = shared.world, shared.eve
    world.share(world.ada, world.team(world.ada, eve, name="more"), Role.VIEWER, site_id=world.site.id)
    [own] = [job.id for job in world.page(eve) if job.submitted_by == "eve"]
    for _ in range(3):
        world.clock.advance(1)
        world.submit(2)
        world.submit_all([world.job(app_id=world.page(eve, id=[own])[0].app_id)], eve)
    for ordering in ("id", "-id", "last_update", "-last_update", "state", "-state", "workdir", "-workdir"):
        whole = [job.id for job in world.page(eve, ordering=ordering)]
        assert len(whole) == len(set(whole)) == world.count(eve) == 3 + 1 + 9
        cut = [job.id for start in range(0, 13, 4) for job in world.page(eve, ordering=ordering, limit=4, offset=start)]
        assert cut == whole, ordering
    keyset: list[int] = []
    while page := world.page(eve, limit=5, after=keyset[-1] if keyset else 0):
        keyset += [job.id for job in page]
    assert keyset == sorted(keyset) and len(keyset) == 13
    log = [event.id for event in do(world, events.list_events, eve, EventQuery()).results]
    cut = []
    for start in range(0, len(log), 7):
        query = EventQuery(limit=7, offset=start)
        cut += [event.id for event in do(world, events.list_events, eve, query).results]
    assert cut == log
    assert {job.submitted_by for job in world.page(eve, submitted_by="eve")} == {"eve"}
    assert world.page(eve, submitted_by="nobody") == []


def test_who_may_submit(shared: Shared) -> None:
    world = shared.world
    plain = {"submitter", "owner", "ada"}
    tagged = plain | {"campaign-submitter", "campaign-owner"}
    for who in shared.people():
        see = who.username not in ("eve", "campaign-viewer")
        refused = "Forbidden" if see else "NotFound"
        for tags, allowed in (({}, plain), (WATER, tagged)):
            want = "ok" if who.username in allowed else refused
            assert outcome(world.submit_all, [world.job(tags=tags)], who) == want, (who.username, tags)
        at_two = [world.job(app_id=shared.two_app, tags=WATER)]
        want = "ok" if who.username in ("ada", "campaign-submitter", "campaign-owner") else "NotFound"
        assert outcome(world.submit_all, at_two, who) == want


def test_a_bulk_with_one_forbidden_job_is_refused_as_a_whole(shared: Shared) -> None:
    world, who = shared.world, shared.campaign_submitter
    before = world.count()
    with pytest.raises(Forbidden) as refused:
        world.submit_all([world.job(tags=WATER), world.job(tags={"campaign": "ice"})], who)
    assert [detail.where for detail in refused.value.details] == ["jobs[1].app_id"]
    assert "campaign=water" in refused.value.message and world.count() == before


def test_parents_are_seen_and_of_one_owner(shared: Shared) -> None:
    world = shared.world
    [child] = world.submit_all([world.job(parent_ids=[shared.at_one])], shared.submitter).ids
    assert world.get(child, shared.viewer).submitted_by == "submitter"
    for who, parent in ((shared.submitter, shared.water), (shared.campaign_submitter, shared.at_one)):
        with pytest.raises(NotFound, match="yours"):
            world.submit_all([world.job(parent_ids=[parent], tags=WATER)], who)
    [eves] = world.page(shared.eve)
    world.share(world.ada, world.team(world.ada, shared.eve, name="more"), Role.SUBMITTER, site_id=world.site.id)
    with pytest.raises(Invalid, match="one owner"):
        world.submit_all([world.job(app_id=eves.app_id, parent_ids=[shared.at_one])], shared.eve)


def test_who_may_change_cancel_and_delete(shared: Shared) -> None:
    world = shared.world
    may = {
        shared.at_one: {"ada", "owner"},
        shared.submitters: {"ada", "owner", "submitter"},
        shared.water: {"ada", "campaign-owner"},
        shared.campaigners: {"ada", "owner", "campaign-owner", "campaign-submitter"},
    }
    for who in shared.people():
        seen = {job.id for job in world.page(who)}
        for job_id, allowed in may.items():
            patch = JobsPatch(patches={job_id: JobPatch(priority=1)})
            want = "ok" if who.username in allowed else "Forbidden" if job_id in seen else "NotFound"
            assert outcome(do, world, change.patch_jobs, who, patch, world.now) == want
        message = JobsUpdate(filter=JobFilter(id=sorted(may)), patch=JobPatch(priority=2))
        done = run(selection.update_selected(world.store, who, message, world.now))
        mine = {job_id for job_id, allowed in may.items() if who.username in allowed}
        assert done.changed == len(mine), who.username
        assert set(done.refused) == (seen & set(may)) - mine
        every = JobsUpdate(filter=JobFilter(), patch=JobPatch(priority=3))
        assert run(selection.update_selected(world.store, who, every, world.now)).refused == {}
    assert world.cancel(user=shared.submitter).changed == 1 and world.state(shared.submitters) is JobState.CANCELLED
    assert world.delete([shared.at_one, shared.submitters], shared.submitter).skipped == [shared.at_one]
    assert world.delete(user=shared.viewer).deleted == 0
    assert world.cancel(user=shared.campaign_owner).changed == 2
    assert world.state(shared.at_one) is JobState.PREPROCESSED


def test_a_job_in_two_of_ones_roles_is_changed_once(shared: Shared) -> None:
    """Submitter at the Site and owner of the campaign: his own Job in the campaign comes by both ways."""
    world, who = shared.world, shared.submitter
    world.share(world.ada, world.team(world.ada, who, name="more"), Role.OWNER, campaign="water")
    [both] = world.submit_all([world.job(tags=WATER)], who).ids
    done = world.cancel([both, shared.at_one], user=who)
    assert done.changed == 1 and set(done.refused) == {shared.at_one}


def test_a_job_does_not_leave_the_reach_of_its_submitter(shared: Shared) -> None:
    world = shared.world

    def retag(who: Principal, job_id: int, tags: dict[str, str]) -> Any:
        message = JobsPatch(patches={job_id: JobPatch(tags=tags)})
        return do(world, change.patch_jobs, who, message, world.now)

    with pytest.raises(Conflict, match="campaign"):
        retag(shared.campaign_submitter, shared.campaigners, {"campaign": "ice"})
    retag(shared.campaign_submitter, shared.campaigners, {**WATER, "kind": "test"})
    retag(shared.submitter, shared.submitters, {"campaign": "ice"})
    assert world.count(shared.campaign_viewer) == 2


SITE_CALLS: dict[str, tuple[Callable[[Any, StoreWorld, Principal], Any], Role]] = {
    "get_site": (lambda tx, w, who: sites.get_site(tx, who, w.site.id, w.now), Role.VIEWER),
    "change_site": (
        lambda tx, w, who: sites.change_site(tx, who, w.site.id, SitePatch(hostname="h"), w.now),
        Role.OWNER,
    ),
    "issue_site_token": (
        lambda tx, w, who: sites.issue_site_token(tx, who, w.site.id, who.username, w.now),
        Role.OWNER,
    ),
    "get_app": (lambda tx, w, who: apps.get_app(tx, who, w.app.id), Role.VIEWER),
    "get_batch_job": (lambda tx, w, who: batch_jobs.get_batch_job(tx, who, 1), Role.VIEWER),
    "get_session": (lambda tx, w, who: sessions.get_session(tx, who, 1), Role.VIEWER),
    "renew_session": (lambda tx, w, who: sessions.renew_session(tx, who, 1, w.now), Role.OWNER),
    "check_stream": (lambda tx, w, who: sites.check_stream(tx, who, w.site.id), Role.OWNER),
}


def test_what_each_role_may_do_at_a_site(shared: Shared) -> None:
    world = shared.world
    batch_job = world.submit_batch_job()
    world.open_session(batch_job_id=batch_job.id)
    roles = {shared.viewer: Role.VIEWER, shared.submitter: Role.SUBMITTER, shared.owner: Role.OWNER}
    for name, (call, need) in SITE_CALLS.items():
        for who, role in roles.items():
            want = "ok" if role.includes(need) else "Forbidden"
            assert outcome(do, world, call, world, who) == want, (name, role)
        assert outcome(do, world, call, world, shared.eve) == "NotFound", name
        offered = name in ("get_site", "get_app")
        want = "ok" if offered else "NotFound"
        assert outcome(do, world, call, world, shared.campaign_submitter) in (
            want,
            "Forbidden",
        )
        assert outcome(do, world, call, world, shared.campaign_viewer) == "NotFound"
    assert outcome(world.add_app, shared.submitter, name="mine") == "Forbidden"
    assert world.add_app(shared.owner, name="theirs").synced_by == "owner"


def test_lists_of_sites_apps_allocations_and_sessions(shared: Shared) -> None:
    world = shared.world
    world.open_session(batch_job_id=world.submit_batch_job().id)

    def counts(who: Principal) -> tuple[int, int, int, int]:
        return (
            do(world, sites.list_sites, who, SiteFilter(), world.now).count,
            do(world, apps.list_apps, who, AppFilter()).count,
            do(world, batch_job_lists.list_batch_jobs, who, BatchJobQuery()).count,
            do(world, sessions.list_sessions, who).count,
        )

    found = {who.username: counts(who) for who in shared.people()}
    assert found == {
        "ada": (2, 2, 1, 1),
        "viewer": (1, 1, 1, 1),
        "submitter": (1, 1, 1, 1),
        "owner": (1, 1, 1, 1),
        "campaign-viewer": (0, 0, 0, 0),
        "campaign-submitter": (2, 2, 0, 0),
        "campaign-owner": (2, 2, 0, 0),
        "eve": (1, 1, 0, 0),
    }
    roles = {site.role for site in do(world, sites.list_sites, shared.owner, SiteFilter(), world.now).results}
    assert roles == {Role.OWNER}


def test_allocations_of_submitters(shared: Shared) -> None:
    world = shared.world
    for who, want in ((shared.viewer, "Forbidden"), (shared.campaign_owner, "Forbidden"), (shared.eve, "NotFound")):
        assert outcome(world.submit_batch_job, who) == want
    own, adas = world.submit_batch_job(shared.submitter), world.submit_batch_job()
    assert (own.submitted_by, adas.submitted_by) == ("submitter", "ada")
    end = BatchJobPatch(state="pending_deletion")

    def ask_end(who: Principal, number: int) -> str:
        return outcome(do, world, batch_jobs.patch_batch_job, who, number, end, world.now)

    assert ask_end(shared.submitter, adas.id) == ask_end(shared.viewer, own.id) == "Forbidden"
    assert ask_end(shared.submitter, own.id) == ask_end(shared.owner, adas.id) == "ok"


def test_what_was_taken_back_is_gone_on_the_next_call(shared: Shared) -> None:
    world = shared.world
    found = do(world, shares.list_shares, world.ada).results
    assert len(found) == 6
    for share in found:
        for who in (shared.viewer, shared.eve):
            refused = outcome(do, world, shares.delete_share, who, share.id)
            assert refused == "NotFound"
        assert do(world, shares.delete_share, world.ada, share.id).deleted == 1
    for who in shared.people()[1:-1]:
        assert world.page(who) == [] and world.count(who) == 0
        assert outcome(world.get, shared.at_one, who) == "NotFound"
    assert {wake.key for wake in world.wakes if wake.topic == "access"} >= {shared.viewer.user_id, shared.owner.user_id}


def test_owners_of_a_site_share_it_further_and_others_do_not(shared: Shared) -> None:
    world = shared.world
    for who, want in ((shared.eve, "NotFound"), (shared.submitter, "Forbidden"), (shared.owner, "ok")):
        team = world.team(who, *{shared.eve} - {who})
        assert outcome(world.share, who, team, Role.VIEWER, site_id=world.site.id) == want
    assert world.get(shared.at_one, shared.eve).id == shared.at_one
    [shared_on] = [one for one in do(world, shares.list_shares, shared.owner).results if one.team == "team"]
    assert shared_on.owner == "ada"
    assert do(world, shares.delete_share, shared.owner, shared_on.id).deleted == 1
    with pytest.raises(NotFound):
        world.get(shared.at_one, shared.eve)


def test_sharing_asks_for_a_team_of_ones_own_and_for_one_thing(shared: Shared) -> None:
    world = shared.world
    others = world.team(shared.eve, name="eves")
    with pytest.raises(NotFound):
        world.share(world.ada, others, Role.VIEWER, site_id=world.site.id)
    mine = world.team(world.ada, name="mine")
    for what in ({}, {"site_id": world.site.id, "campaign": "water"}):
        with pytest.raises(Invalid, match="one of both"):
            world.share(world.ada, mine, Role.VIEWER, **what)
    first = world.share(world.ada, mine, Role.VIEWER, campaign="ice")
    again = world.share(world.ada, mine, Role.OWNER, campaign="ice")
    assert (first.id, first.role, again.role) == (again.id, Role.VIEWER, Role.OWNER)


def test_teams_are_seen_and_led_by_their_own(shared: Shared) -> None:
    world, ada, eve = shared.world, shared.world.ada, shared.eve
    team = world.team(ada, shared.viewer, name="chem")
    add = Member(username="eve")
    for who, want in ((shared.viewer, "Forbidden"), (eve, "NotFound")):
        assert outcome(do, world, team_cases.put_member, who, team.id, add, world.now) == want
        assert outcome(do, world, team_cases.remove_member, who, team.id, "ada") == want
        assert outcome(do, world, team_cases.delete_team, who, team.id) == want
    assert outcome(do, world, team_cases.get_team, eve, team.id) == "NotFound"
    with pytest.raises(NotFound) as unknown:
        do(world, team_cases.put_member, ada, team.id, Member(username="nobody"), world.now)
    assert "nobody" in unknown.value.details[0].message
    with pytest.raises(Conflict, match="no leader"):
        do(world, team_cases.remove_member, ada, team.id, "ada")
    with pytest.raises(Conflict, match="no leader"):
        do(world, team_cases.put_member, ada, team.id, Member(username="ada"), world.now)
    with pytest.raises(Conflict, match="another name"):
        world.team(ada, name="chem")
    assert world.team(eve, name="chem").founder == "eve"
    assert do(world, team_cases.remove_member, shared.viewer, team.id, "viewer").deleted == 1
    assert do(world, team_cases.remove_member, ada, team.id, "viewer").deleted == 0


def test_leaving_a_team_or_its_end_takes_the_role_away(shared: Shared) -> None:
    world = shared.world
    mine = {team.name: team for team in do(world, team_cases.list_teams, world.ada).results}
    do(world, team_cases.remove_member, shared.viewer, mine["viewers"].id, "viewer")
    do(world, team_cases.delete_team, world.ada, mine["campaign_viewers"].id)
    assert world.count(shared.viewer) == world.count(shared.campaign_viewer) == 0
    assert world.count(shared.submitter) == 3


def test_the_stream_tells_what_the_list_shows(shared: Shared) -> None:
    world = shared.world
    topics = {who.username: do(world, jobs.heard, who) for who in shared.people()}
    world.cancel()
    told: dict[tuple[str, int], set[int]] = {}
    for wake in world.wakes:
        if wake.event == "states":
            told.setdefault((wake.topic, wake.key), set()).update(entry[0] for entry in wake.data["jobs"])
    for who in shared.people():
        heard = {job_id for topic in topics[who.username] for job_id in told.get(topic, ())}
        assert heard == {job.id for job in world.page(who) if who is not shared.eve}, who.username


def test_a_token_for_one_site_shows_no_other_whatever_is_shared(shared: Shared) -> None:
    """A person's token may be narrowed to a Site; what others share with that person is narrowed as well."""
    world = shared.world
    for who in (world.ada, shared.owner, shared.campaign_owner):
        narrow = Principal(who.user_id, who.username, site_id=world.site.id)
        assert {job.site_id for job in world.page(narrow)} == {world.site.id}
        assert outcome(world.get, shared.water, narrow) == "NotFound"
        assert {site.id for site in do(world, sites.list_sites, narrow, SiteFilter(), world.now).results} == {
            world.site.id
        }
        at_two = [world.job(app_id=shared.two_app, tags=WATER)]
        assert outcome(world.submit_all, at_two, narrow) == "NotFound"


def test_a_deleted_site_is_shared_no_more(shared: Shared) -> None:
    world = shared.world
    run(sites.delete_site(world.store, shared.owner, world.site.id, lambda: world.now))
    assert world.count(shared.viewer) == 0
    assert [share.campaign for share in do(world, shares.list_shares, world.ada).results] == ["water"] * 3
    assert world.count(shared.campaign_viewer) == 1


def test_wakes_of_a_share_are_for_its_team_only(shared: Shared) -> None:
    world = shared.world
    world.share(world.ada, world.team(world.ada, shared.eve, name="more"), Role.VIEWER, campaign="ice")
    told = {wake.key for wake in world.wakes if wake.topic == "access"}
    assert told == {world.ada.user_id, shared.eve.user_id}
    assert Wake("access", shared.eve.user_id, "changed", {}) in world.wakes


def test_an_unknown_query_is_still_refused() -> None:
    with pytest.raises(ValueError, match="submitter"):
        JobQuery(submitter="x")
    with pytest.raises(ValueError, match="role"):
        ShareCreate(team_id=1, role="god", site_id=1)


def test_results_and_files_on_their_way_follow_the_jobs(shared: Shared) -> None:
    """A result, and a file that a Job's Site sent, is read by those who see the Job."""
    world = shared.world
    sent = world.add_blob(b"result", world.agent())
    for who in shared.people():
        seen = {job.id for job in world.page(who)}
        at_site = shared.at_one in seen
        assert outcome(do, world, blobs.readable, who, sent) == ("ok" if at_site else "NotFound"), who.username
        for job_id in (shared.at_one, shared.water):
            want = "ok" if job_id in seen else "NotFound"
            assert outcome(do, world, results.get_result, who, job_id) == want


def test_a_site_reads_what_a_submitter_sent_for_its_job_and_nothing_else(shared: Shared) -> None:
    world, who = shared.world, shared.submitter
    offer = SitePatch(transfer_locations={"client": "client"})
    do(world, sites.change_site, world.ada, world.site.id, offer, world.now)
    slot = TransferSlot(required=True, direction="in", local_path="in.dat")
    app = world.add_app(name="takes", transfers={"input": slot})
    wanted, other = world.content(b"wanted", who), world.add_blob(b"other", who)
    given = JobTransfer(location_alias="client", path="/in.dat", content=wanted, origin="laptop")
    [job_id] = world.submit_all([world.job(app_id=app.id, transfers={"input": given})], who).ids
    assert world.state(job_id) is JobState.READY
    assert outcome(do, world, blobs.readable, world.agent(), wanted.blobs[0]) == "ok"
    assert outcome(do, world, blobs.readable, world.agent(), other) == "NotFound"
    for person in (shared.viewer, shared.eve, world.ada):
        assert outcome(do, world, blobs.readable, person, wanted.blobs[0]) == "NotFound"
    [item] = do(world, transfers.list_transfers, shared.viewer, TransferQuery()).results
    refusals = {shared.viewer: "somebody else", shared.eve: "no such", who: "", shared.owner: ""}
    for person, why in refusals.items():
        message = TransfersCollected(ids=[item.id])
        told = do(world, transfers.collect_transfers, person, message, world.now).refused
        assert why in told[item.id] if why else told == {}, person.username


def test_campaign_members_read_the_files_of_their_campaign(shared: Shared) -> None:
    world = shared.world
    site = world.agent()
    offer = SitePatch(transfer_locations={"client": "client"})
    do(world, sites.change_site, world.ada, world.site.id, offer, world.now)
    app = world.add_app(name="gives", transfers={"out": TransferSlot(required=True, direction="out", local_path="o")})
    given = JobTransfer(location_alias="client", path="/out.dat", origin="laptop")
    [job_id] = world.submit(app_id=app.id, tags=WATER, transfers={"out": given})
    session = world.open_session().id
    [granted] = [job for job in world.acquire(session) if job.id == job_id]
    world.tell(session, granted, LaunchEvent.STARTED, LaunchEvent.RUN_DONE, return_code=0)
    content = world.content(b"of the campaign", site)
    [item] = world.transfers(job_id=[job_id])
    assert world.tell_transfer(item.id, state="done", content=content).refused == {}
    for person, want in ((shared.campaign_viewer, "ok"), (shared.eve, "NotFound")):
        assert outcome(do, world, blobs.readable, person, content.blobs[0]) == want
        assert outcome(do, world, transfers.get_transfer, person, item.id) == want
        assert do(world, transfers.list_transfers, person, TransferQuery()).count == (want == "ok")
