"""Blocking calls of the SDK, awaited: the seam between an event loop and the threads that the requests run on.

Everything else of `balsam.aio` asks through `Calls.run`. A call that is cancelled is told so by `give_up_on`, and its
transport does not try again.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from balsam.client.transport.abandon import give_up_on

P = ParamSpec("P")
R = TypeVar("R")
MAX_CALLS = 16  # at once; more wait for their turn


class Calls:
    """A few threads of one AsyncClient."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="balsam-aio")

    async def run(self, method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What `method` returns or raises, from one of the threads."""
        given_up = threading.Event()
        context = contextvars.copy_context()

        def work() -> R:
            give_up_on(given_up)
            return method(*args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, work)
        except asyncio.CancelledError:
            given_up.set()
            raise

    def close(self) -> None:
        """Calls that wait for their turn are cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)
