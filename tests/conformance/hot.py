"""What the service does all the time, by name: each statement of it must be driven by an index, in every database."""

from __future__ import annotations

from collections.abc import Callable

from balsam.server.usecases import retention
from balsam.testing.store_world import StoreWorld
from balsam.wire.apps import TransferSlot
from balsam.wire.lookups import Lookup
from balsam.wire.sessions import LaunchEvent
from balsam.wire.transfers import JobTransfer

E = LaunchEvent


def _submit_with_transfers(world: StoreWorld, session: int) -> int:
    slot = TransferSlot(required=False, direction="in", local_path="in.dat")
    app = world.add_app(name="stage", transfers={"input": slot})
    given = JobTransfer(location_alias="client", path="/in.dat", content=world.content(b"x"))
    (job_id,) = world.submit(app_id=app.id, transfers={"input": given})
    return world.transfers(job_id=[job_id])[0].id


HOT: dict[str, Callable[[StoreWorld, int], object]] = {
    "submit": lambda w, s: w.submit(3, tags={"a": "b"}, parent_ids=[1, 2]),
    "acquire": lambda w, s: w.acquire(s, 5, max_wall_time_min=9, max_gpus_per_node=2, max_aggregate_nodes=9.0),
    "acquire at first": lambda w, s: (
        w.write(lambda tx: tx.change_jobs({1: {"priority": 0}}, 9)),  # nothing is remembered of what waits
        w.acquire(s, 5, max_wall_time_min=9),
    ),
    "acquire by tags": lambda w, s: w.acquire(s, 5, filter_tags={"a": "1", "b": "2"}),
    "acquire by size": lambda w, s: [
        w.acquire(s, 5, sort_by=order, max_wall_time_min=9) for order in ("long_large_first", "smallest_first")
    ],
    "backlog": lambda w, s: (
        w.backlog(max_jobs=50, max_gpus_per_node=2),
        w.backlog({"a": "1", "b": "2"}, max_jobs=50, serial_only=True, max_wall_time_min=9, max_nodes_per_job=4),
        w.read(lambda tx: tx.held_nodes(s, 50)),
    ),
    "report": lambda w, s: [w.tell(s, job, E.STARTED, E.RUN_DONE, return_code=0) for job in w.acquire(s, 3)],
    "results": lambda w, s: (w.result(1), w.results([1, 2, 3])),
    "acquire hooks": lambda w, s: w.acquire(w.open_processing().id, 5),
    "verdicts": lambda w, s: [_verdict(w, w.open_processing().id) for _ in range(2)],
    "renew": lambda w, s: w.renew(s),
    "close": lambda w, s: w.close(s),
    "sweep": lambda w, s: w.sweep(),
    "cancel by id": lambda w, s: w.cancel([1, 2]),
    "get": lambda w, s: w.get(1),
    "first page": lambda w, s: w.page(limit=100),
    "last page": lambda w, s: w.page(limit=100, ordering="-id"),
    "keyset page": lambda w, s: w.page(limit=100, after=10),
    "state page": lambda w, s: w.page(limit=100, state=["PREPROCESSED", "RUNNING"]),
    "site and state page": lambda w, s: w.page(limit=100, state=["RUNNING"], site_id=[w.site.id]),
    "site page": lambda w, s: w.page(limit=100, site_id=[w.site.id]),
    "tag page": lambda w, s: w.page(limit=100, tags=["a:1"]),
    "tag keyset page": lambda w, s: w.page(limit=100, tags=["a:1", "b:2"], after=3),
    "newest first": lambda w, s: w.page(limit=100, ordering="-last_update"),
    "keyset page of newest first": lambda w, s: w.page(
        limit=100, ordering="-last_update", after=9, after_value=w.now.isoformat()
    ),
    "keyset page of newest events": lambda w, s: w.event_page(limit=100, after=9, after_value=w.now.isoformat()),
    "looked up by tag": lambda w, s: w.page(limit=100, where=[Lookup(field="tags", path=["a"], value="1")]),
    "looked up by state": lambda w, s: w.page(limit=100, where=[Lookup(field="state", value="RUNNING")]),
    "groups from kept numbers": lambda w, s: (w.groups("state"), w.groups("app_id", state=["RUNNING"])),
    "groups of a Site": lambda w, s: w.groups("num_nodes", site_id=[w.site.id]),
    "changed since": lambda w, s: w.page(limit=100, last_update_after=w.now),
    "by App": lambda w, s: w.page(limit=100, app_id=[w.app.id]),
    "by BatchJob": lambda w, s: w.page(limit=100, batch_job_id=[1]),
    "by parent": lambda w, s: w.page(limit=100, parent_id=[1]),
    "to be cleaned": lambda w, s: w.page(
        limit=100, after=1, site_id=[w.site.id], state=["JOB_FINISHED"], pending_file_cleanup=True
    ),
    "by failure": lambda w, s: (w.page(limit=100, failure=["exit_code", "hook"]), w.count(failure=["hook"])),
    "by id": lambda w, s: w.page(id=[1, 2, 3]),
    "counts": lambda w, s: (w.counts(), w.count(), w.count(state=["RUNNING"]), w.count(tags=["a:1"])),
    "events of a Job": lambda w, s: w.events(1),
    "newest events": lambda w, s: w.newest_events(100),
    "newest events of a Site": lambda w, s: w.newest_events(100, site_id=[w.site.id]),
    "newest events of an App in a state": lambda w, s: w.newest_events(
        100, app_id=[w.app.id], job_state=["PREPROCESSED"], workdir__contains="w"
    ),
    "delete": lambda w, s: w.delete([4]),
    "due transfers": lambda w, s: w.transfers(site_id=[w.site.id], state=["pending", "active", "inactive"], limit=100),
    "due transfers by turns": lambda w, s: (
        _submit_with_transfers(w, s),
        w.read(lambda tx: tx.due_items(w.site.id, 100)),
    ),
    "transfers of Jobs": lambda w, s: w.transfers(job_id=[1, 2], direction="out"),
    "transfers by id": lambda w, s: w.transfers(id=[1, 2], job_id=[1]),
    "newest transfers": lambda w, s: w.transfers(ordering="-id", limit=100),
    "transfers by the Jobs' tags": lambda w, s: w.transfers(tags=["a:1"], job_state=["RUNNING"], limit=100),
    "submit with transfers": _submit_with_transfers,
    "transfer done": lambda w, s: w.tell_transfer(_submit_with_transfers(w, s), state="done"),
    "collect": lambda w, s: w.collect(1, 2),
    "removal of what is old": lambda w, s: w.write(
        lambda tx: retention.remove_unneeded(
            tx, [job.id for job in retention.ended_before(tx, w.ada.user_id, 10**18, retention.Place(1, 1))], 1
        )
    ),
    "census": lambda w, s: w.read(lambda tx: tx.census()),
    "quota": lambda w, s: w.read(lambda tx: tx.blob_bytes(w.ada.user_id)),
    "sweep of blobs": lambda w, s: w.read(lambda tx: (tx.unused_blobs(5, 9), tx.holding_items(5, 0, 9))),
    "may the Site read": lambda w, s: w.read(lambda tx: tx.site_takes_blob(w.site.id, 1)),
}


def _verdict(world: StoreWorld, session: int) -> None:
    for job in world.acquire(session, 2):
        world.tell(session, job, E.HOOK_DONE, changes={"data": {"x": 1}})
