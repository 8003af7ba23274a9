"""Idempotency keys (S2): the same key with the same body gets the same answer, and the work is done once.

The answer is kept in the transaction that did the work, so there is no moment in which one exists without the other.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from balsam.server.errors import Invalid
from balsam.server.principal import Principal
from balsam.server.store.protocol import Tx
from balsam.server.store.records import IdempotencyRow, micros
from balsam.wire.base import Message

M = TypeVar("M", bound=Message)
MAX_KEY_LENGTH = 128
KEPT_FOR = timedelta(days=7)


def once(
    tx: Tx,
    principal: Principal,
    key: str | None,
    body_hash: str,
    reply_type: type[M],
    now: datetime,
    do: Callable[[], M],
) -> M:
    """What `do` returns, or what it returned when this key came first. `body_hash` covers method, path and body.

    Raises Invalid when the key came with another body.
    """
    if key is None:
        return do()
    if not key.isprintable() or not 0 < len(key) <= MAX_KEY_LENGTH:
        raise Invalid(f"the Idempotency-Key must have 1 to {MAX_KEY_LENGTH} printable characters")
    known = tx.find(IdempotencyRow, user_id=principal.user_id, key=key)
    if known:
        if known[0].body_hash != body_hash:
            raise Invalid("this Idempotency-Key was used for another request; make a new key for each new request")
        return reply_type.model_validate_json(known[0].reply)
    reply = do()
    text = reply.model_dump_json()
    row_id = tx.new_id(IdempotencyRow)
    tx.put(IdempotencyRow(row_id, principal.user_id, key, body_hash, text, micros(now)))
    return reply
