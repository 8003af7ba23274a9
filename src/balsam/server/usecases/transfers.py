"""TransferItems: made with their Jobs, due in READY and POSTPROCESSED, moved by the Site, collected by the client.

An item is due while its Job waits for it; then the Site works on it and says how it goes. Once every item of a step is
settled the Job takes its edge: on when all are done, FAILED when one is in error. What the Site says of an item that is
not due any more changes nothing and is answered `refused`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from balsam.domain.lifecycle import Refused, Request
from balsam.domain.roles import Role
from balsam.domain.states import DONE_STATES, Actor, JobEvent, JobState, TransferState
from balsam.domain.transfers import CLIENT, TRANSFER_DUE, TRANSFER_SETTLED, TransferDirection, decide_transfer
from balsam.server.errors import NotFound
from balsam.server.principal import Principal
from balsam.server.store.protocol import ReadTx, Tx
from balsam.server.store.records import Json, TransferItemRow, micros
from balsam.server.store.selections import PageWindow, TransferSelection
from balsam.server.usecases import blobs
from balsam.server.usecases.filters import both
from balsam.server.usecases.limits import BadJson, json_text, pairs
from balsam.server.usecases.scope import Part, access_of, parts, seen_jobs
from balsam.server.usecases.several import transfer_page
from balsam.server.usecases.transitions import Transitions
from balsam.server.usecases.views import transfer_views
from balsam.wire.transfers import (
    DueTransfers,
    DueTransfersQuery,
    SentContent,
    TransferFilter,
    TransferItemView,
    TransferPatch,
    TransferQuery,
    TransfersCollected,
    TransfersPage,
    TransfersPatch,
    TransfersPatched,
)

_STEPS = {
    TransferDirection.stage_in: (JobState.READY, JobEvent.STAGE_IN_DONE, JobEvent.STAGE_IN_FAILED),
    TransferDirection.stage_out: (JobState.POSTPROCESSED, JobEvent.STAGE_OUT_DONE, JobEvent.STAGE_OUT_FAILED),
}
_SHOWN_ERRORS = 5


def list_transfers(tx: ReadTx, principal: Principal, message: TransferQuery) -> TransfersPage:
    selections = [_selection(part, message) for part in _parts(tx, principal)]
    descending = message.ordering == "-id"
    window = PageWindow("id", descending, message.limit, message.offset, message.after)
    rows = transfer_page(tx, selections, window) if message.limit else []
    return TransfersPage(count=sum(map(tx.transfer_count, selections)), results=transfer_views(tx, rows))


def list_due(tx: ReadTx, principal: Principal, message: DueTransfersQuery) -> DueTransfers:
    """What the Site is to work on: the many of one person do not hold up the few of another one (S16)."""
    principal.require("site")
    site_id = principal.site_id
    assert site_id is not None  # noqa: S101 - a Site's token has its Site
    return DueTransfers(results=transfer_views(tx, tx.due_items(site_id, message.limit)))


def get_transfer(tx: ReadTx, principal: Principal, item_id: int) -> TransferItemView:
    return transfer_views(tx, [_own_item(tx, principal, item_id)])[0]


def _parts(tx: ReadTx, principal: Principal) -> list[Part]:
    principal.require("user", "site", "job")
    return parts(tx, principal, Role.VIEWER)


def _selection(part: Part, message: TransferFilter) -> TransferSelection:
    def listed(values: list[int] | None) -> tuple[int, ...] | None:
        return None if values is None else tuple(dict.fromkeys(values))

    return TransferSelection(
        owner_id=part.owner_id,
        ids=listed(message.id),
        job_ids=listed(message.job_id),
        site_ids=both(part.site_ids, message.site_id),
        states=None if message.state is None else tuple(message.state),
        direction=message.direction,
        job_states=None if message.job_state is None else tuple(message.job_state),
        tags=part.with_tags(pairs(message.tags, "tags")),
    )


def _own_item(tx: ReadTx, principal: Principal, item_id: int) -> TransferItemRow:
    principal.require("user", "site", "job")
    row = tx.get(TransferItemRow, item_id)
    if row is None or not seen_jobs(tx, access_of(tx, principal), [row.job_id]):
        raise NotFound
    return row


def report_transfers(tx: Tx, principal: Principal, message: TransfersPatch, now: datetime) -> TransfersPatched:
    """What the Site says of its items; each is taken or refused by itself, and nothing is taken twice (S3)."""
    principal.require("site")
    work = _Reports(tx, principal, message.patches, now)
    for item_id, patch in message.patches.items():
        work.judge(item_id, patch)
    return work.finish()


class _Reports:
    """The reports of one call."""

    def __init__(self, tx: Tx, principal: Principal, patches: Mapping[int, TransferPatch], now: datetime) -> None:
        self._tx = tx
        self._principal = principal
        self._now = now
        rows = tx.find(TransferItemRow, id=tuple(patches), owner_id=principal.user_id, site_id=principal.site_id)
        self._rows = {row.id: row for row in rows}
        wanted = [name for patch in patches.values() if patch.content is not None for name in patch.content.blobs]
        self._blobs = blobs.own_blobs(tx, blobs.sender_of(principal), wanted) if wanted else {}
        self._changed: dict[int, TransferItemRow] = {}
        self._uses: list[tuple[int, int]] = []
        self._refused: dict[int, str] = {}

    def judge(self, item_id: int, patch: TransferPatch) -> None:
        row = self._rows.get(item_id)
        why = "there is no such TransferItem, or it is not this Site's" if row is None else self._why_not(row, patch)
        if row is None or why:
            self._refused[item_id] = why
            return
        if row.state is TransferState.DONE:  # said before
            return
        given = patch.model_dump(mode="json", exclude_unset=True, include={"task_id", "transfer_info"})
        state = row.state if patch.state is None else patch.state
        row = replace(row, **given, state=state, last_update=micros(self._now))
        if state is TransferState.DONE:
            row = self._arrived(row, patch.content)
        self._changed[item_id] = row

    def _why_not(self, row: TransferItemRow, patch: TransferPatch) -> str:
        target = patch.state or row.state
        try:
            decide_transfer(row.state, target)
            json_text(patch.transfer_info or {}, "transfer_info")
        except (Refused, BadJson) as error:
            return str(error)
        if target is not TransferState.DONE or row.state is TransferState.DONE or not _brings_content(row):
            return ""
        if patch.content is None:
            return "a stage-out to the client is done when its content is here; say which"
        missing = [name for name in patch.content.blobs if name not in self._blobs]
        return f"{len(missing)} blobs are not here (any more), the first is {missing[0]}; send again" if missing else ""

    def _arrived(self, row: TransferItemRow, content: SentContent | None) -> TransferItemRow:
        """Stage-out: the service holds the content until it is collected. Stage-in: it is not needed any more."""
        if content is not None and _brings_content(row):
            self._uses += [(row.id, self._blobs[name].id) for name in dict.fromkeys(content.blobs)]
            return replace(row, content=content_json(content), holds_content=True)
        return replace(row, collected_at=micros(self._now))

    def finish(self) -> TransfersPatched:
        rows = list(self._changed.values())
        self._tx.put_all(rows)
        self._tx.use_blobs(self._uses)
        fetched = [row for row in rows if row.state is TransferState.DONE and row.holds_content and _takes_content(row)]
        let_go(self._tx, fetched)
        steps = Transitions(self._tx, self._now)
        settle(self._tx, steps, {row.job_id for row in rows if row.state in TRANSFER_SETTLED}, Actor.SITE)
        steps.flush()
        return TransfersPatched(changed=len(rows), refused=self._refused)


def _brings_content(row: TransferItemRow) -> bool:
    return row.direction is TransferDirection.stage_out and row.location_alias == CLIENT


def _takes_content(row: TransferItemRow) -> bool:
    return row.direction is TransferDirection.stage_in and row.location_alias == CLIENT


def content_json(content: SentContent) -> Json:
    """What is kept of a content: the blobs are linked to the item by themselves."""
    found: Json = content.model_dump(mode="json", exclude={"blobs"}, exclude_defaults=True)
    return found


def let_go(tx: Tx, rows: Sequence[TransferItemRow]) -> None:
    """The content of these items is needed no more."""
    if rows:
        tx.release_blobs(row.id for row in rows)
        tx.put_all([replace(row, holds_content=False) for row in rows])


def settle(tx: Tx, steps: Transitions, job_ids: Iterable[int], actor: Actor) -> None:
    """Let Jobs go on whose transfers of the present step are all settled."""
    items: dict[int, list[TransferItemRow]] = defaultdict(list)
    wanted = tuple(job_ids)
    if not wanted:
        return
    steps.load(wanted)
    for row in tx.find(TransferItemRow, job_id=wanted):
        items[row.job_id].append(row)
    for job_id in wanted:
        if steps.get(job_id) is None:
            continue
        for direction, (state, done, failed) in _STEPS.items():
            own = [row for row in items[job_id] if row.direction is direction]
            if steps.facts(job_id).state is state and own and all(row.state in TRANSFER_SETTLED for row in own):
                errors = [row for row in own if row.state is TransferState.ERROR]
                steps.take(job_id, Request(failed if errors else done, actor, message=_said(errors)))


def _said(errors: Sequence[TransferItemRow]) -> str:
    texts = [f"transfer {row.slot!r}: {row.transfer_info.get('error', 'failed')}" for row in errors[:_SHOWN_ERRORS]]
    if len(errors) > _SHOWN_ERRORS:
        texts.append(f"and {len(errors) - _SHOWN_ERRORS} more")
    return "; ".join(texts)


def collect_transfers(tx: Tx, principal: Principal, message: TransfersCollected, now: datetime) -> TransfersPatched:
    """The client has these results; their content may go. A repeat changes nothing (S3)."""
    principal.require("user", "job")
    found = tx.find(TransferItemRow, id=tuple(message.ids))
    access = access_of(tx, principal)
    jobs = {job.id for job in tx.jobs({row.job_id for row in found}) if access.may_change(job)}
    rows = [row for row in found if row.job_id in jobs]
    seen = seen_jobs(tx, access, {row.job_id for row in found if row.job_id not in jobs})
    others = "it is of a Job that somebody else submitted; its content stays until that one has it"
    refused = dict.fromkeys(message.ids, "there is no such TransferItem")
    refused.update((row.id, others) for row in found if row.job_id in seen)
    for row in rows:
        del refused[row.id]
    arrived = [row for row in rows if row.state is TransferState.DONE and row.collected_at is None]
    let_go(tx, [replace(row, collected_at=micros(now)) for row in arrived if row.holds_content])
    return TransfersPatched(changed=len(arrived), refused=refused)


def expire_content(tx: Tx, rows: Iterable[TransferItemRow], before: int, now: datetime) -> int:
    """Let go of contents that were kept for their time: results nobody collected, inputs of Jobs that are done."""
    fresh = tx.find(TransferItemRow, id=tuple(row.id for row in rows), holds_content=True)
    jobs = tx.hot_jobs({row.job_id for row in fresh})
    old = [
        row
        for row in fresh
        if row.last_update < before and row.state not in TRANSFER_DUE and jobs[row.job_id].state in DONE_STATES
    ]
    why = {"error": f"kept for its time and removed on {now:%Y-%m-%d}; the file may still be in the Job's workdir"}
    let_go(tx, [replace(row, transfer_info={**row.transfer_info, **why}) for row in old])
    return len(old)
