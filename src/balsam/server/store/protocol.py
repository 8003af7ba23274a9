"""What every store promises to the use cases, whatever holds the rows.

A function given to `write` runs as one transaction: all of it or nothing (S2), durable when `write` returns (S1), never
at the same time as another. It must not do anything but work on its `Tx`, because a store may run it again. A function
given to `read` sees one consistent state. The only place with SQL is behind this protocol.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from balsam.domain.states import JobState
from balsam.server.store.records import (
    AppAtSite,
    BlobRow,
    EventRow,
    GrantedRow,
    HotJob,
    JobRow,
    JobUpdate,
    NewJob,
    ReportBasis,
    Row,
    ShownJob,
    TransferItemRow,
)
from balsam.server.store.selections import (
    AcquireCriteria,
    Census,
    EventSelection,
    JobSelection,
    PageWindow,
    RunnableShape,
    TransferSelection,
)

T = TypeVar("T")
R = TypeVar("R", bound=Row)
Value = int | str | bool | None
Topic = Literal[
    "site", "session", "work", "jobs", "site_jobs", "campaign", "access", "tokens", "wakes", "files", "logins"
]


@dataclass(frozen=True, slots=True)
class Wake:
    """A hint with data that is published once its transaction is durable.

    ("site", site_id, "batch_jobs" | "hooks" | "site_changed" | "transfers", {}), ("site", site_id, "cancel",
    {"job_ids": [...]}): of Jobs whose hooks the agent runs, ("work", site_id, "work", {}), ("session", session_id,
    "cancel", {"job_ids": [...]}), ("session", session_id, "closing", {}), ("jobs", owner_id, "states", {"jobs": [[id,
    state, return_code], ...]}): merged over the commit, newest state of each Job, ("site_jobs", site_id, "states",
    {...}): the same of one Site, ("campaign", campaign_key, "states", {...}): the same of a campaign that is shared;
    ("access", user_id, "changed", {}): others share something with this person, or no more;
    ("tokens", 0, "revoked", {}): whoever remembers tokens must look them up again.
    ("wakes", 0, "lost" | "back", {}): from now on the wakes of other processes of the service may be missing, or come
    again. Made by the store itself; after both, what was heard before may be out of date.
    """

    topic: Topic
    key: int
    event: str
    data: Mapping[str, Any]


class GuardFailed(Exception):
    """S4: a row was not what the Decision started from. A fault of ours, never the caller's: nothing is written."""


class Duplicate(Exception):
    """A row with the same unique key exists."""


class ReadTx(Protocol):
    """Reading in one consistent state. Lists are ordered by id unless said otherwise."""

    def get(self, kind: type[R], row_id: int) -> R | None:
        """The row with this id."""
        ...

    def find(self, kind: type[R], /, **equals: Value | tuple[Value, ...]) -> list[R]:
        """Rows whose columns have these values; a tuple means any of them."""
        ...

    def newest(self, kind: type[R], before_id: int, limit: int, /, **equals: Value) -> list[R]:
        """Up to `limit` of the rows that `find` finds, those with ids below `before_id`, newest first."""
        ...

    def created_before(self, kind: type[R], at: int) -> list[R]:
        """Rows that are older."""
        ...

    def jobs(self, job_ids: Iterable[int]) -> list[JobRow]:
        """The Jobs with these ids, of whatever owner; those that do not exist are left out."""
        ...

    def job_page(self, selection: JobSelection, window: PageWindow) -> list[JobRow]:
        """One page of a list."""
        ...

    def shown_jobs(self, job_ids: Iterable[int]) -> list[ShownJob]:
        """As `jobs`, for those who look at them."""
        ...

    def shown_page(self, selection: JobSelection, window: PageWindow) -> list[ShownJob]:
        """As `job_page`, for those who look at it."""
        ...

    def job_ids(self, selection: JobSelection, after: int, limit: int) -> list[int]:
        """Up to `limit` ids above `after`, growing."""
        ...

    def job_count(self, selection: JobSelection) -> int:
        """Number of selected Jobs: a kept number when selected by Site, App and state alone, else counted by index."""
        ...

    def job_counts(self, selection: JobSelection) -> dict[JobState, int]:
        """Number of selected Jobs in each state that has any."""
        ...

    def job_groups(
        self, selection: JobSelection, column: str, path: tuple[str, ...], limit: int
    ) -> list[tuple[Any, int]]:
        """Number of selected Jobs by the value of a column, or of a key below a JSON column (None: it is not there).

        Largest first, equal ones by value; when there are more than `limit`, some of them. By kept numbers where
        `job_count` has them.
        """
        ...

    def census(self) -> Census:
        """Numbers over all owners, for the service's metrics only: by kept numbers and by index, however many Jobs."""
        ...

    def hot_jobs(self, job_ids: Iterable[int]) -> dict[int, HotJob]:
        """What a transition needs, by id."""
        ...

    def held_jobs(self, session_id: int) -> list[HotJob]:
        """Jobs that the Session holds."""
        ...

    def granted_jobs(self, session_id: int, grant_seq: int) -> list[GrantedRow]:
        """Jobs of one acquire that the Session still holds, in the order of the grant (S3)."""
        ...

    def jobs_to_stop(self, session_id: int) -> list[int]:
        """Held Jobs whose end the user asked for."""
        ...

    def runnable_shapes(self, criteria: AcquireCriteria) -> list[RunnableShape]:
        """What the first `max_jobs` Jobs ask for that an acquire with these criteria would come to, in any order.

        The Jobs' sum may be more than `max_aggregate_nodes`: nothing is granted. Costs what an acquire of as many does.
        """
        ...

    def held_nodes(self, session_id: int, look_at: int) -> float | None:
        """Nodes that the Jobs take up which the Session holds; None when there are `look_at` of them or more."""
        ...

    def children(self, parent_ids: Iterable[int]) -> list[tuple[int, int]]:
        """(parent, child) pairs."""
        ...

    def unfinished_parents(self, child_ids: Iterable[int]) -> dict[int, int]:
        """How many parents of each child are not JOB_FINISHED; a child without such is left out."""
        ...

    def waiting_children(self, child_ids: Iterable[int]) -> set[int]:
        """Those that have a parent that is not JOB_FINISHED. Costs the same whatever the number of parents."""
        ...

    def events(self, selection: EventSelection, window: PageWindow) -> list[EventRow]:
        """One page of the EventLog, ordered by timestamp."""
        ...

    def event_count(self, selection: EventSelection) -> int:
        """Number of selected events."""
        ...

    def transfer_items(self, selection: TransferSelection, window: PageWindow) -> list[TransferItemRow]:
        """One page of TransferItems, ordered by id."""
        ...

    def due_items(self, site_id: int, limit: int) -> list[TransferItemRow]:
        """TransferItems that a Site is to work on: one of each submitter in turn, each one's oldest first."""
        ...

    def transfer_count(self, selection: TransferSelection) -> int:
        """Number of selected TransferItems."""
        ...

    def holding_items(self, before: int, after_id: int, limit: int) -> list[TransferItemRow]:
        """TransferItems for which blobs are kept and that have not changed since `before`; ids above `after_id`."""
        ...

    def blob_bytes(self, owner_id: int) -> int:
        """What the blobs of an owner take up."""
        ...

    def unused_blobs(self, before: int, limit: int) -> list[BlobRow]:
        """Blobs that no TransferItem holds and nobody asked for since `before`, oldest first."""
        ...

    def site_takes_blob(self, site_id: int, blob_id: int) -> bool:
        """Whether a stage-in of one of the Site's Jobs holds the blob."""
        ...

    def jobs_of_blob(self, blob_id: int) -> list[int]:
        """Jobs whose TransferItems hold the blob."""
        ...


class Tx(ReadTx, Protocol):
    """Reading and writing in one transaction."""

    def new_id(self, kind: type[Row]) -> int:
        """An id that was never used; growing, with gaps."""
        ...

    def put(self, row: Row) -> None:
        """Insert the row, or replace the one with its id. Raises Duplicate on a unique key."""
        ...

    def put_all(self, rows: Sequence[Row]) -> None:
        """Many puts of rows of one kind."""
        ...

    def use_blobs(self, uses: Iterable[tuple[int, int]]) -> None:
        """Each (TransferItem, blob): the item holds the blob from now on. It did not before."""
        ...

    def release_blobs(self, item_ids: Iterable[int]) -> None:
        """The items hold no blobs any more; those that nothing else holds count as unused since ever."""
        ...

    def remove(self, kind: type[Row], row_id: int) -> None:
        """Remove the row, if it is there."""
        ...

    def apps_at_sites(self, app_ids: Sequence[int]) -> list[AppAtSite]:
        """Apps, each with its Site. An App stays until the transaction is over; of its Site and the Site's owner this
        is what they were at this moment, and they may change meanwhile."""
        ...

    def report_basis(self, session_id: int, job_ids: Sequence[int], ending: Sequence[int]) -> ReportBasis:
        """What a report of a Session on these Jobs is judged by; `ending`: those of them that may end by it."""
        ...

    def insert_jobs(self, jobs: Sequence[NewJob], at: int) -> list[int]:
        """Insert Jobs with their events; ids in the same order."""
        ...

    def apply(self, updates: Sequence[JobUpdate], at: int) -> None:
        """S4: write states and events of Decisions. Raises GuardFailed when a row is not what was decided on."""
        ...

    def acquire(self, criteria: AcquireCriteria, session_id: int, grant_seq: int) -> list[GrantedRow]:
        """Grant Jobs to a Session: token + 1, nobody else holds them (S6). Rows as after the grant."""
        ...

    def unlock(self, session_id: int, jobs: Sequence[HotJob]) -> None:
        """Take Jobs that were granted and not started away from the Session."""
        ...

    def change_jobs(self, changes: Mapping[int, Mapping[str, Any]], at: int) -> None:
        """Set columns of Jobs that are not part of the state machine; values as in JobRow."""
        ...

    def delete_jobs(self, job_ids: Sequence[int]) -> None:
        """Remove Jobs with their events, results, tags, parent links and TransferItems."""
        ...

    def wake(self, wake: Wake) -> None:
        """Publish after the commit."""
        ...


Subscriber = Callable[[Sequence[Wake]], None]


class Store(Protocol):
    """Holds everything. Raises Unavailable when it can't read or write; nothing is half-written then."""

    async def write(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        """Run `fn` as one durable transaction; what it raises is raised here and undoes it.

        Accounts that have much to write at the same time are served by turns; 0 is the service itself.
        """
        ...

    async def read(self, fn: Callable[[ReadTx], T], account: int = 0) -> T:
        """Run `fn` on one consistent state. Accounts that read much are served by turns, as in `write`."""
        ...

    def write_sync(self, fn: Callable[[Tx], T], account: int = 0) -> T:
        """`write` for a thread that may block: sweeps, tests, simulation."""
        ...

    def read_sync(self, fn: Callable[[ReadTx], T]) -> T:
        """`read` for a thread that may block."""
        ...

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` once per commit that has wakes, in the writer's thread; returns how to unsubscribe."""
        ...

    async def tell(self, wake: Wake) -> None:
        """Tell the subscribers in the other processes of the service. A hint: nothing is kept, and it may be lost."""
        ...

    def leads(self) -> bool:
        """Whether this process is the one of the service's processes that runs the sweeps (L6). Costs nothing."""
        ...

    def close(self) -> None:
        """Finish what is queued and release everything."""
        ...
