"""The part of the store conformance suite that is about blobs and TransferItems. See store_conformance."""
# ruff: noqa: S101 -- tests that are shipped

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from balsam.domain.roles import Role
from balsam.domain.states import JobState, TransferState
from balsam.domain.transfers import TransferDirection
from balsam.server.store.protocol import Duplicate, ReadTx
from balsam.server.store.records import BlobRow, TransferItemRow, micros
from balsam.server.store.selections import PageWindow, TransferSelection
from balsam.server.usecases.transfers import list_due
from balsam.testing.store_world import StoreWorld
from balsam.wire.apps import TransferSlot
from balsam.wire.sessions import LaunchEvent
from balsam.wire.transfers import DueTransfersQuery, JobTransfer

IN, OUT = TransferDirection.stage_in, TransferDirection.stage_out
PAGE = PageWindow()


class FileRules:
    """Rows of files on their way, and what holds what."""

    def test_blobs_are_unique_for_owner_and_sender(self, world: StoreWorld) -> None:
        name = world.add_blob(b"content")
        assert world.add_blob(b"content") == name
        world.add_blob(b"content", world.agent())
        world.add_blob(b"content", world.add_user("bob"))
        rows = world.read(lambda tx: tx.find(BlobRow, sha256=name))
        assert len(rows) == 3
        with pytest.raises(Duplicate):
            world.write(lambda tx: tx.put(replace(rows[0], id=tx.new_id(BlobRow), place="elsewhere")))
        with pytest.raises(Duplicate):
            world.write(lambda tx: tx.put_all([replace(rows[0], id=tx.new_id(BlobRow), place="elsewhere")]))
        assert world.read(lambda tx: tx.blob_bytes(world.ada.user_id)) == 14

    def test_a_census_counts_over_all_owners(self, world: StoreWorld) -> None:
        begun = micros(world.now)
        slot = TransferSlot(required=False, direction="in", local_path="in.dat")
        app = world.add_app(name="stage", transfers={"input": slot})
        given = JobTransfer(location_alias="client", path="/in.dat", content=world.content(b"x"))
        staged = world.submit(2, app_id=app.id, transfers={"input": given})
        world.clock.advance(60)
        world.submit(3)
        bob = world.add_user("bob")
        theirs = world.add_app(bob, world.add_site(bob, "there"))
        world.submit_all([world.job(app_id=theirs.id)], bob)
        session = world.open_session()
        (job, *_) = world.acquire(session.id, 1)
        world.tell(session.id, job, LaunchEvent.STARTED)
        world.cancel(staged[:1])
        found = world.read(lambda tx: tx.census())
        states = {state: number for state, number in found.jobs.items() if number}
        assert states == {JobState.READY: 1, JobState.PREPROCESSED: 3, JobState.RUNNING: 1, JobState.CANCELLED: 1}
        later = begun + 60_000_000
        assert found.oldest == {JobState.READY: begun, JobState.PREPROCESSED: later, JobState.RUNNING: later}
        ((_, backlog),) = found.backlog.items()
        assert list(found.backlog) == [("in", "pending")]
        assert backlog.oldest_at == begun

    def test_a_blob_is_unused_until_an_item_holds_it_and_after_the_last_one_let_go(self, world: StoreWorld) -> None:
        world.add_blob(b"content")
        (row,) = self._unused(world)
        world.write(lambda tx: tx.use_blobs([(1, row.id), (2, row.id)]))
        assert self._unused(world) == []
        world.write(lambda tx: tx.release_blobs([1]))
        assert self._unused(world) == []
        world.write(lambda tx: tx.release_blobs([2, 3]))
        assert self._unused(world, before=1) == [replace(row, last_used_at=0)], "let go of, and kept for its hour"

    def test_a_failed_write_holds_and_releases_nothing(self, world: StoreWorld) -> None:
        world.add_blob(b"content")
        (row,) = self._unused(world)

        def fail(tx: Any, *, release: bool) -> None:
            tx.release_blobs([1]) if release else tx.use_blobs([(1, row.id)])
            raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError):
            world.write(partial(fail, release=False))
        assert self._unused(world) == [row]
        world.write(lambda tx: tx.use_blobs([(1, row.id)]))
        with pytest.raises(RuntimeError):
            world.write(partial(fail, release=True))
        assert self._unused(world) == []

    @staticmethod
    def _unused(world: StoreWorld, before: int = 1 << 60) -> list[BlobRow]:
        return world.read(lambda tx: tx.unused_blobs(before, 10))

    def test_a_site_takes_the_blobs_of_its_own_stage_ins(self, world: StoreWorld) -> None:
        other = world.add_site(name="other")
        world.add_blob(b"content")
        (row,) = self._unused(world)
        item = self._item(world, direction=IN)
        takes = world.read(lambda tx: tx.site_takes_blob(world.site.id, row.id))
        world.write(lambda tx: tx.use_blobs([(item.id, row.id)]))
        assert not takes
        assert world.read(lambda tx: tx.site_takes_blob(world.site.id, row.id))
        assert not world.read(lambda tx: tx.site_takes_blob(other.id, row.id))
        world.write(lambda tx: tx.put(replace(item, direction=OUT)))
        assert not world.read(lambda tx: tx.site_takes_blob(world.site.id, row.id))

    def _item(self, world: StoreWorld, **fields: Any) -> TransferItemRow:
        """An item of a new Job."""
        tags, job_site = fields.pop("tags", {}), world.site.id
        (job_id,) = world.submit(tags=tags)
        row = TransferItemRow(
            id=world.write(lambda tx: tx.new_id(TransferItemRow)),
            owner_id=world.ada.user_id,
            site_id=job_site,
            job_id=job_id,
            submitter_id=world.ada.user_id,
            slot="result",
            direction=OUT,
            local_path="out.dat",
            remote_path="/home/ada/out.dat",
            location_alias="client",
            recursive=False,
            state=TransferState.PENDING,
            task_id="",
            transfer_info={"error": "é", "attempts": 2},
            content={},
            origin="",
            holds_content=False,
            created_at=5,
            last_update=5,
            collected_at=None,
        )
        row = replace(row, **fields)
        world.write(lambda tx: tx.put(row))
        return row

    def test_items_come_back_as_they_were_put(self, world: StoreWorld) -> None:
        row = self._item(world, content={"entries": [{"path": "a\nb"}]}, recursive=True, collected_at=9)
        assert world.read(lambda tx: tx.get(TransferItemRow, row.id)) == row

    def test_items_are_selected_by_every_column(self, world: StoreWorld) -> None:
        first = self._item(world, direction=IN, tags={"a": "1"})
        second = self._item(world, state=TransferState.DONE, tags={"a": "1", "b": "2"})
        third = self._item(world, state=TransferState.ACTIVE)
        world.cancel([third.job_id])
        cases: list[tuple[dict[str, Any], list[TransferItemRow]]] = [
            ({}, [first, second, third]),
            ({"ids": (second.id, third.id)}, [second, third]),
            ({"ids": ()}, []),
            ({"job_ids": (first.job_id,)}, [first]),
            ({"job_ids": (first.job_id, third.job_id), "ids": (third.id,)}, [third]),
            ({"site_ids": (world.site.id,)}, [first, second, third]),
            ({"site_ids": (world.site.id + 1,)}, []),
            ({"states": (TransferState.DONE,)}, [second]),
            ({"site_ids": (world.site.id,), "states": (TransferState.PENDING, TransferState.ACTIVE)}, [first, third]),
            ({"direction": IN}, [first]),
            ({"job_states": (JobState.CANCELLED,)}, [third]),
            ({"job_states": (JobState.PREPROCESSED,), "direction": OUT}, [second]),
            ({"tags": (("a", "1"),)}, [first, second]),
            ({"tags": (("a", "1"), ("b", "2"))}, [second]),
        ]
        for conditions, wanted in cases:
            selection = TransferSelection(world.ada.user_id, **conditions)
            assert self._page(world, selection) == wanted, conditions
            assert world.read(partial(_count, selection=selection)) == len(wanted), conditions
        assert self._page(world, TransferSelection(world.add_user("bob").user_id)) == []

    def test_pages_of_items(self, world: StoreWorld) -> None:
        rows = [self._item(world) for _ in range(4)]
        everything = TransferSelection(world.ada.user_id)
        assert self._page(world, everything, PageWindow(limit=2, offset=1)) == rows[1:3]
        assert self._page(world, everything, PageWindow(descending=True, limit=2)) == [rows[3], rows[2]]
        assert self._page(world, everything, PageWindow(after=rows[1].id)) == rows[2:]
        assert self._page(world, everything, PageWindow(after=rows[1].id, descending=True)) == rows[:1]

    @staticmethod
    def _page(world: StoreWorld, selection: TransferSelection, window: PageWindow = PAGE) -> list[TransferItemRow]:
        return world.read(lambda tx: tx.transfer_items(selection, window))

    def test_what_is_due_comes_by_turns_of_those_who_submitted(self, world: StoreWorld) -> None:
        many = [self._item(world, submitter_id=1) for _ in range(7)]
        few = [self._item(world, submitter_id=2, state=TransferState.ACTIVE) for _ in range(2)]
        one = self._item(world, submitter_id=3, state=TransferState.INACTIVE)
        for state in (TransferState.DONE, TransferState.ERROR, TransferState.AWAITING_JOB):
            self._item(world, submitter_id=4, state=state)
        other_site = world.add_site(name="other").id
        elsewhere = self._item(world, submitter_id=1, site_id=other_site)
        in_turns = [many[0], few[0], one, many[1], few[1], *many[2:]]
        for limit in (0, 1, 2, 3, 4, 5, 8, 10, 100):
            assert world.read(partial(_due, site_id=world.site.id, limit=limit)) == in_turns[:limit], limit
        assert world.read(partial(_due, site_id=other_site, limit=5)) == [elsewhere]
        assert world.read(partial(_due, site_id=other_site + 1, limit=5)) == []

    def test_a_site_is_told_what_is_due_with_who_submitted_it(self, world: StoreWorld) -> None:
        bob = world.add_user("bob")
        world.share(world.ada, world.team(world.ada, bob), Role.SUBMITTER, site_id=world.site.id)
        slot = TransferSlot(required=False, direction="in", local_path="in.dat")
        app = world.add_app(name="stage", transfers={"input": slot})
        fields = {"app_id": app.id, "transfers": {"input": "scratch:/in.dat"}}
        for who, count in ((world.ada, 5), (bob, 1)):
            world.submit_all([world.job(**fields) for _ in range(count)], who)
        due = world.read(lambda tx: list_due(tx, world.agent(), DueTransfersQuery(limit=3))).results
        assert [item.submitted_by for item in due] == ["ada", "bob", "ada"]

    def test_what_holds_content_since_long_is_found(self, world: StoreWorld) -> None:
        old = [self._item(world, holds_content=True, last_update=number) for number in (7, 3)]
        self._item(world, holds_content=True, last_update=8)
        self._item(world, last_update=1)
        assert world.read(lambda tx: tx.holding_items(8, 0, 10)) == old
        assert world.read(lambda tx: tx.holding_items(8, old[0].id, 10)) == old[1:]
        assert world.read(lambda tx: tx.holding_items(8, 0, 1)) == old[:1]

    def test_items_go_with_their_job_and_let_go_of_their_blobs(self, world: StoreWorld) -> None:
        item, other = self._item(world, holds_content=True), self._item(world)
        world.add_blob(b"content")
        (row,) = self._unused(world)
        world.write(lambda tx: tx.use_blobs([(item.id, row.id)]))
        world.delete([item.job_id])
        assert self._page(world, TransferSelection(world.ada.user_id)) == [other]
        assert [blob.id for blob in self._unused(world, before=1)] == [row.id]


def _due(tx: ReadTx, site_id: int, limit: int) -> list[TransferItemRow]:
    return tx.due_items(site_id, limit)


def _count(tx: ReadTx, selection: TransferSelection) -> int:
    return tx.transfer_count(selection)
