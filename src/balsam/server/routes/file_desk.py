"""Questions about files of a Job's workdir, handed to the Site's agent over its stream and answered by it with a PUT.

Lives in memory: a question is worth 20 seconds; who follows a file asks again and again. A question is answered once,
by the Site it was put to and nobody else. Where a service has several processes, the question, the agent's stream and
its answer may be with three of them: each tells the others of its questions, and hands on answers to questions that are
not its own.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from balsam.server.broker import Broker
from balsam.server.errors import NotFound, ServiceError, TooMany, Unavailable
from balsam.server.store.protocol import Wake
from balsam.wire.sites import FileReply, FileRequest

WAIT_SEC = 20.0
MAX_OPEN = 200  # unanswered questions to one Site
LATE_SEC = 0.25  # an answer may be here before the question was heard of
Tell = Callable[[Wake], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class _Question:
    site_id: int
    request: FileRequest
    answer: asyncio.Future[FileReply] | None  # None: put through another process


class FileDesk:
    """The open questions of one service. Lives in the event loop."""

    def __init__(
        self,
        broker: Broker,
        tell: Tell,
        wait_sec: float = WAIT_SEC,
        new_id: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        self._broker = broker
        self._tell = tell
        self._wait_sec = wait_sec
        self._new_id = new_id
        self._open: dict[str, _Question] = {}
        self._shared: dict[Hashable, asyncio.Future[FileReply]] = {}
        self._ending: set[asyncio.Future[None]] = set()

    async def ask(
        self, site_id: int, offline: Callable[[], ServiceError], give_up_at_once: bool, **what: Any
    ) -> FileReply:
        """The agent's answer, or the problem `offline()` when none came: at once when there is nobody to ask."""
        if sum(question.site_id == site_id for question in self._open.values()) >= MAX_OPEN:
            raise TooMany(f"more than {MAX_OPEN} unanswered file requests at this Site; wait for some")
        request = FileRequest(id=self._new_id(), **what)
        answer: asyncio.Future[FileReply] = asyncio.get_running_loop().create_future()
        self._open[request.id] = _Question(site_id, request, answer)
        try:
            asked = self._broker.ask(site_id, request.model_dump_json().encode())
            if not asked and give_up_at_once:
                raise offline()
            async with asyncio.timeout(self._wait_sec):
                await self._tell(Wake("files", site_id, "question", {"request": request.model_dump_json()}))
                return await answer
        except TimeoutError:
            raise offline() from None
        finally:
            self._open.pop(request.id, None)
            # Else an agent that connects to another process would be asked again.
            over = asyncio.ensure_future(self._tell(Wake("files", site_id, "over", {"id": request.id})))
            self._ending.add(over)
            over.add_done_callback(self._ending.discard)

    async def follow(
        self, site_id: int, offline: Callable[[], ServiceError], give_up_at_once: bool, wait_sec: float, **what: Any
    ) -> FileReply | None:
        """What a file has beyond an offset, as soon as it has; None when that takes longer than `wait_sec`.

        Everybody who waits for the same shares one question, so the Site reads a file once for any number of them. It
        goes on between two calls of one follower, and ends by itself.
        """
        key = (site_id, *sorted(what.items()))
        shared = self._shared.get(key)
        if shared is None:
            shared = asyncio.ensure_future(self.ask(site_id, offline, give_up_at_once, op="follow", **what))
            self._shared[key] = shared
            shared.add_done_callback(lambda done: self._forget(key, done))
        done, _ = await asyncio.wait({shared}, timeout=wait_sec)
        return shared.result() if done else None

    def _forget(self, key: Hashable, done: "asyncio.Future[FileReply]") -> None:
        self._shared.pop(key, None)
        if not done.cancelled():
            done.exception()  # seen, also when nobody waits any more

    def waiting(self, site_id: int) -> list[bytes]:
        """Questions for an agent that has just (re)connected: it may not have heard them."""
        return [q.request.model_dump_json().encode() for q in self._open.values() if q.site_id == site_id]

    async def answer(self, site_id: int, request_id: str, reply: FileReply) -> None:
        """Settle a question; 404 when it is not open (any more) or was put to another Site."""
        if request_id not in self._open:
            await asyncio.sleep(LATE_SEC)
        question = self._open.get(request_id)
        if question is None or question.site_id != site_id:
            raise NotFound
        if question.answer is None:
            del self._open[request_id]
            await self._tell(Wake("files", site_id, "answer", {"id": request_id, "reply": reply.model_dump_json()}))
        else:
            self._settle(question, reply)

    def hear(self, wake: Wake) -> None:
        """What another process says: a question of its own, that one is over, or the answer to one."""
        if wake.event == "question":
            request = FileRequest.model_validate_json(wake.data["request"])
            self._open[request.id] = _Question(wake.key, request, None)
            asyncio.get_running_loop().call_later(self._wait_sec, self._open.pop, request.id, None)
            self._broker.ask(wake.key, request.model_dump_json().encode())
            return
        question = self._open.get(wake.data["id"])
        if wake.event == "over" and question is not None and question.answer is None:
            del self._open[wake.data["id"]]
        elif wake.event == "answer" and question is not None and question.site_id == wake.key:
            with suppress(NotFound):  # answered by another way before
                self._settle(question, FileReply.model_validate_json(wake.data["reply"]))

    def _settle(self, question: _Question, reply: FileReply) -> None:
        if question.answer is None or question.answer.done():
            raise NotFound
        question.answer.set_result(reply)

    def stop(self) -> None:
        """The service stops: nobody will be answered."""
        for question in self._open.values():
            if question.answer is not None and not question.answer.done():
                question.answer.set_exception(Unavailable("the service is stopping; ask again in a moment"))
