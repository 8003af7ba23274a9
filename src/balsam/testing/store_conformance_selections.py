"""The part of the store conformance suite that is about selections: of Jobs and events, by whom, in which order.

See store_conformance; look-ups by any field are in store_conformance_lists.
"""
# ruff: noqa: S101 -- tests that are shipped

from functools import partial
from typing import Any

from balsam.domain.failure import Failure
from balsam.domain.roles import Role
from balsam.domain.states import JobState
from balsam.server.store.protocol import ReadTx
from balsam.server.store.records import EventRow, JobRow
from balsam.server.store.selections import EventSelection, JobSelection, PageWindow
from balsam.testing.store_world import StoreWorld
from balsam.wire.sessions import LaunchEvent


class SelectionRules:
    """Lists and counts of what is asked for, and of nothing else."""

    def test_pages_cover_a_list_once_in_every_order(self, world: StoreWorld) -> None:
        for number in range(25):
            world.submit(workdir=f"w{number % 7}", tags={"k": str(number % 2)})
            world.clock.advance(1)
        world.cancel([3, 9, 11])
        for ordering in ("id", "-id", "last_update", "-last_update", "state", "-state", "workdir", "-workdir"):
            whole = [job.id for job in world.page(ordering=ordering)]
            paged = [job.id for at in range(0, 30, 4) for job in world.page(ordering=ordering, limit=4, offset=at)]
            assert paged == whole, ordering
            assert sorted(whole) == list(range(1, 26)), ordering
        for query in ({}, {"tags": ["k:1"]}, {"state": ["PREPROCESSED", "CANCELLED"]}, {"state__ne": "CANCELLED"}):
            whole = [job.id for job in world.page(**query)]
            assert whole == sorted(whole)
            assert world.count(**query) == len(whole)
            after, seen = 0, []
            while page := world.page(after=after, limit=4, **query):
                seen += [job.id for job in page]
                after = page[-1].id
            assert seen == whole, query

    def test_failed_jobs_are_found_by_class(self, world: StoreWorld) -> None:
        ids = world.submit(5, tags={"a": "b"}, max_attempts=1)
        child = world.submit(parent_ids=ids[:2])
        session = world.open_session()
        jobs = world.acquire(session.id, 5)
        world.tell(session.id, jobs[0], LaunchEvent.STARTED, LaunchEvent.RUN_ERROR, return_code=3)
        world.tell(session.id, jobs[1], LaunchEvent.STARTED, LaunchEvent.RUN_TIMEOUT)
        world.tell(session.id, jobs[2], LaunchEvent.STARTED, LaunchEvent.RUN_ERROR, failure=Failure.OUT_OF_MEMORY)
        world.tell(session.id, jobs[3], LaunchEvent.STARTED, LaunchEvent.RUN_DONE, return_code=0)
        world.tell(session.id, jobs[4], LaunchEvent.STARTED)

        def found(*classes: Failure, **query: Any) -> list[int]:
            page = [job.id for job in world.page(failure=list(classes), **query)]
            assert world.count(failure=list(classes), **{k: v for k, v in query.items() if k != "ordering"}) == len(
                page
            )
            return page

        assert found(Failure.EXIT_CODE) == [ids[0]]
        assert found(Failure.EXIT_CODE, Failure.OUT_OF_MEMORY, Failure.TIMEOUT) == ids[:3]
        assert found(*Failure, ordering="-id") == [*child, ids[2], ids[1], ids[0]]
        assert found(Failure.TIMEOUT, Failure.PARENT, tags=["a:b"]) == [ids[1]]
        assert found(Failure.PARENT, state=[JobState.FAILED], site_id=[world.site.id]) == child
        assert found(Failure.PARENT, id=[*child, ids[0]]) == child
        assert found(Failure.PARENT, app_id=[world.app.id + 1]) == []
        assert found() == []
        assert [job.failure for job in world.page(id=ids)][3:] == [None, None]
        world.retry([ids[0]])
        assert found(Failure.EXIT_CODE) == []

    def test_events_are_selected_by_what_their_jobs_are_now(self, world: StoreWorld) -> None:
        other = world.add_app(site=world.add_site(name="cluster"), name="Other")
        here = world.submit(2, workdir="here/1")
        (there,) = world.submit_all([world.job(app_id=other.id, workdir="there/1")]).ids
        world.cancel([here[0]])
        eve = world.add_user("eve")
        its = world.add_app(eve, world.add_site(eve))
        world.submit_all([world.job(app_id=its.id, workdir="here/1")], eve)
        for chosen, jobs in (
            ({"site_ids": (world.site.id,)}, here),
            ({"site_ids": (world.site.id, other.site_id)}, [*here, there]),
            ({"site_ids": ()}, []),
            ({"app_ids": (other.id,)}, [there]),
            ({"job_states": (JobState.CANCELLED,)}, [here[0]]),
            ({"job_states": (JobState.CANCELLED,), "app_ids": (other.id,)}, []),
            ({"workdir_contains": "here/"}, [*here, there]),
            ({"workdir_contains": "there", "to_state": JobState.READY}, [there]),
            ({"job_ids": (here[0], there), "site_ids": (world.site.id,)}, [here[0]]),
        ):
            selection = EventSelection(world.ada.user_id, **chosen)
            found, count = world.read(partial(_events_and_count, selection=selection))
            assert sorted({event.job_id for event in found}) == jobs, chosen
            assert count == len(found), chosen

    def test_files_are_to_be_cleaned_where_the_app_says_so(self, world: StoreWorld) -> None:
        app = world.add_app(name="messy", cleanup_files=["*.tmp"])
        wanted = world.submit(2, app_id=app.id)
        world.submit(app_id=app.id, pending_file_cleanup=False)
        world.submit()
        assert [job.id for job in world.page(pending_file_cleanup=True)] == wanted
        world.write(lambda tx: tx.change_jobs({wanted[0]: {"pending_file_cleanup": False}}, 9))
        assert [job.id for job in world.page(pending_file_cleanup=True, site_id=[world.site.id])] == wanted[1:]
        assert world.count(pending_file_cleanup=False) == 3

    def test_s14_selections_never_cross_owners(self, world: StoreWorld) -> None:
        eve = world.add_user("eve")
        site = world.add_site(eve)
        app = world.add_app(eve, site)
        mine = world.submit(2, tags={"a": "b"})
        world.submit_all([world.job(app_id=app.id, tags={"a": "b"})], eve)
        for selection in (
            JobSelection(eve.user_id, ids=tuple(mine)),
            JobSelection(eve.user_id, site_ids=(world.site.id,)),
            JobSelection(eve.user_id, app_ids=(world.app.id,)),
            JobSelection(eve.user_id, parent_ids=tuple(mine)),
            JobSelection(eve.user_id, batch_job_ids=(1,)),
        ):
            assert world.read(partial(_page_and_count, selection=selection)) == ([], 0)
        assert world.count(eve) == 1
        assert world.count(eve, tags=["a:b"]) == 1
        assert world.read(lambda tx: tx.event_count(EventSelection(eve.user_id))) == 3
        assert world.read(lambda tx: tx.event_count(EventSelection(eve.user_id, job_ids=tuple(mine)))) == 0

    def test_jobs_are_selected_by_who_submitted_them(self, world: StoreWorld) -> None:
        eve = world.add_user("eve")
        world.share(world.ada, world.team(world.ada, eve), Role.SUBMITTER, site_id=world.site.id)
        adas = world.submit(3, tags={"a": "b"})
        eves = world.submit_all([world.job(tags={"a": "b"})] * 2, eve).ids
        for others in ({}, {"site_ids": (world.site.id,)}, {"app_ids": (world.app.id,)}, {"tags": (("a", "b"),)}):
            for person, ids in ((eve, eves), (world.ada, adas)):
                selection = JobSelection(world.ada.user_id, submitter_ids=(person.user_id,), **others)
                rows, count = world.read(partial(_page_and_count, selection=selection))
                assert ([job.id for job in rows], count) == (ids, len(ids)), others
                assert world.read(partial(_counts, selection=selection)) == {JobState.PREPROCESSED: len(ids)}
            nobody = JobSelection(world.ada.user_id, submitter_ids=(), **others)
            assert world.read(partial(_page_and_count, selection=nobody)) == ([], 0)


def _events_and_count(tx: ReadTx, selection: EventSelection) -> tuple[list[EventRow], int]:
    return tx.events(selection, PageWindow("timestamp", descending=True)), tx.event_count(selection)


def _page_and_count(tx: ReadTx, selection: JobSelection) -> tuple[list[JobRow], int]:
    return tx.job_page(selection, PageWindow()), tx.job_count(selection)


def _counts(tx: ReadTx, selection: JobSelection) -> dict[JobState, int]:
    return tx.job_counts(selection)
