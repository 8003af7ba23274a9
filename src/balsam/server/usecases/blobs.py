"""Blobs: what is there, who may read it, and what a user may store.

A blob belongs to an owner and to who sent it: the user, or one of the user's Sites, for which code of its Jobs counts,
too. So nobody learns from an upload whether somebody else has the same content (S14), and a token of a Site or a Job
opens nothing but what the Site's own Jobs need (T20).
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from balsam.server.errors import NotFound, ServiceError
from balsam.server.principal import Principal
from balsam.server.settings import BlobLimits
from balsam.server.store.protocol import ReadTx, Tx
from balsam.server.store.records import BlobRow, UserRow, micros
from balsam.server.usecases.scope import Access, access_of
from balsam.wire.blobs import BlobUsage

USER = 0


def sender_of(principal: Principal) -> tuple[int, int]:
    """Whose blobs a caller sends: owner, and the Site or 0."""
    principal.require("user", "site", "job")
    return principal.user_id, USER if principal.kind == "user" else (principal.site_id or USER)


def look_up(tx: Tx, principal: Principal, hashes: Iterable[str], now: datetime) -> list[str]:
    """Those that the caller sent before and that are still there. They are kept for a while from now on."""
    rows = _own(tx, principal, hashes)
    tx.put_all([replace(row, last_used_at=micros(now)) for row in rows])
    return [row.sha256 for row in rows]


def admit(tx: ReadTx, principal: Principal, size_bytes: int, reserved_bytes: int, limits: BlobLimits) -> None:
    """Raises ServiceError when a file of this size is over a limit. `reserved_bytes` are other uploads under way."""
    sender_of(principal)
    if size_bytes > limits.max_file_bytes:
        message = f"a file of {size_bytes} bytes; this service takes files of up to {limits.max_file_bytes} bytes"
        raise ServiceError(413, "file_too_large", message)
    used, quota_bytes = tx.blob_bytes(principal.user_id), _quota_bytes(tx, principal, limits)
    if used + reserved_bytes + size_bytes > quota_bytes:
        message = (
            f"{size_bytes} bytes more would be over your quota of {quota_bytes} bytes at this service; {used} "
            "are in use. Collect results that wait (`balsam job fetch`), or delete Jobs that you need no more"
        )
        raise ServiceError(507, "quota_reached", message)


def record(tx: Tx, principal: Principal, sha256: str, size_bytes: int, place: str, now: datetime) -> BlobRow:
    """The blob of a completed upload. Another place in the row means: it was there already, and this copy can go."""
    known = _own(tx, principal, [sha256])
    if known:
        row = replace(known[0], last_used_at=micros(now))
    else:
        owner_id, site_id = sender_of(principal)
        at = micros(now)
        row = BlobRow(tx.new_id(BlobRow), owner_id, site_id, sha256, size_bytes, place, 0, at, at)
    tx.put(row)
    return row


def readable(tx: ReadTx, principal: Principal, sha256: str) -> BlobRow:
    """The blob. A user reads what Sites sent whose Jobs he may see; a Site, and its Jobs, what they sent or take in.

    Raises NotFound.
    """
    sender_of(principal)
    access = access_of(tx, principal)
    for row in tx.find(BlobRow, sha256=sha256):
        if _may_read(tx, access, row):
            return row
    raise NotFound


def _may_read(tx: ReadTx, access: Access, row: BlobRow) -> bool:
    who = access.principal
    if who.site_id is not None:
        there = row.site_id == who.site_id or (row.site_id == USER and tx.site_takes_blob(who.site_id, row.id))
        if who.kind != "user" or not there:
            return there
    if row.site_id == USER:
        return row.owner_id == who.user_id
    if access.at_site(row.owner_id, row.site_id) is not None:
        return True
    return bool(access.campaigns) and any(access.of_job(job) for job in tx.jobs(tx.jobs_of_blob(row.id)))


def usage(tx: ReadTx, principal: Principal, limits: BlobLimits) -> BlobUsage:
    principal.require("user")
    used = tx.blob_bytes(principal.user_id)
    quota_bytes = _quota_bytes(tx, principal, limits)
    return BlobUsage(used_bytes=used, quota_bytes=quota_bytes, max_file_bytes=limits.max_file_bytes)


def _quota_bytes(tx: ReadTx, principal: Principal, limits: BlobLimits) -> int:
    user = tx.get(UserRow, principal.user_id)
    return limits.quota_bytes if user is None or user.quota_bytes is None else user.quota_bytes


def own_blobs(tx: ReadTx, sender: tuple[int, int], hashes: Iterable[str]) -> dict[str, BlobRow]:
    """Blobs by hash, of those that this sender sent."""
    owner_id, site_id = sender
    rows = tx.find(BlobRow, owner_id=owner_id, site_id=site_id, sha256=tuple(dict.fromkeys(hashes)))
    return {row.sha256: row for row in rows}


def _own(tx: ReadTx, principal: Principal, hashes: Iterable[str]) -> list[BlobRow]:
    return list(own_blobs(tx, sender_of(principal), hashes).values())
