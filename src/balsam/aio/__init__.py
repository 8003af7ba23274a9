"""Balsam in an event loop: an asyncio client beside the blocking one.

It has the same models, filters and promises: what is a method with a request in it there is awaited here. Calls run on
a few threads of the client's own, over the same transport (repeats, idempotency keys, one stream of pushes); waiting
takes no thread, however many Jobs are waited for. A call that is cancelled is not repeated any more; the try that was
under way may still have been carried out.

The examples with a bare `await` run in a notebook, or in `python -m asyncio`; `balsam` is an `AsyncClient()` there.
"""

from balsam.aio.client import AsyncClient, AsyncModel
from balsam.aio.jobs import AsyncJobManager
from balsam.aio.query import AsyncManager, AsyncQuery

__all__ = ["AsyncClient", "AsyncJobManager", "AsyncManager", "AsyncModel", "AsyncQuery"]
