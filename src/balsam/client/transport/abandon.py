"""Giving a call up from outside: a call whose caller went away is not repeated any more.

`balsam.aio` sets the event in the context in which the call runs; Transport looks at it between two tries.
"""

import threading
from contextvars import ContextVar

_given_up: ContextVar[threading.Event | None] = ContextVar("balsam_given_up", default=None)


def give_up_on(event: threading.Event) -> None:
    """Calls of this context are not repeated once the event is set."""
    _given_up.set(event)


def is_given_up() -> bool:
    """Whether nobody waits for the call of this context any more."""
    event = _given_up.get()
    return event is not None and event.is_set()
