"""Rows as use cases see them, the same for every store. Times are integer microseconds since 1970 UTC.

A row is never changed: a change is `dataclasses.replace` and a write. (Those that are made by the ten thousand are not
frozen, because that costs more than all else.) The state of a Job changes only by `JobUpdate`, which carries the
Decisions that led there (S4).
"""

from balsam.server.store.records.accounts import (
    AuditRow,
    DeviceLoginRow,
    IdempotencyRow,
    IdentityRow,
    MembershipRow,
    ShareRow,
    TeamRow,
    TokenRow,
    UserRow,
)
from balsam.server.store.records.files import BlobRow, TransferItemRow
from balsam.server.store.records.job_writes import JobShape, JobUpdate, NewJob, Step
from balsam.server.store.records.jobs import (
    CHANGEABLE_COLUMNS,
    EVENT_SEQ_BITS,
    STAGE_IN_BIT,
    STAGE_OUT_BIT,
    EventRow,
    GrantedRow,
    HotJob,
    JobRow,
    ResultRow,
    ShownJob,
    event_id,
    steps_mask,
)
from balsam.server.store.records.sites import AppAtSite, AppRow, BatchJobRow, ReportBasis, SessionRow, SiteRow
from balsam.server.store.records.values import Json, micros, moment, moment_or_none

__all__ = [
    "CHANGEABLE_COLUMNS",
    "EVENT_SEQ_BITS",
    "STAGE_IN_BIT",
    "STAGE_OUT_BIT",
    "AppAtSite",
    "AppRow",
    "AuditRow",
    "BatchJobRow",
    "BlobRow",
    "DeviceLoginRow",
    "EventRow",
    "GrantedRow",
    "HotJob",
    "IdempotencyRow",
    "IdentityRow",
    "JobRow",
    "JobShape",
    "JobUpdate",
    "Json",
    "MembershipRow",
    "NewJob",
    "ReportBasis",
    "ResultRow",
    "Row",
    "SessionRow",
    "ShareRow",
    "ShownJob",
    "SiteRow",
    "Step",
    "TeamRow",
    "TokenRow",
    "TransferItemRow",
    "UserRow",
    "event_id",
    "micros",
    "moment",
    "moment_or_none",
    "steps_mask",
]

Row = (
    UserRow
    | AuditRow
    | DeviceLoginRow
    | IdentityRow
    | TeamRow
    | MembershipRow
    | ShareRow
    | TokenRow
    | SiteRow
    | AppRow
    | BatchJobRow
    | SessionRow
    | IdempotencyRow
    | ResultRow
    | BlobRow
    | TransferItemRow
)
