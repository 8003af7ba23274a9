"""Fan-out of committed changes to open streams: from the store's writer thread to mailboxes in the event loop.

The store calls `Broker.publish` once per commit. Streams (`routes/streams.py`) open a `Mailbox`, send `hello` and then
whatever the mailbox holds. Promises: the writer never waits; a mailbox keeps the newest state only, so a slow reader
costs bounded memory; one that falls too far behind is told `hello` again, which means "read the state now". Mailboxes
are filled and emptied in slices and by turns, so that one user's streams of many Jobs stop nobody's requests (S16).
"""

import asyncio
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pydantic_core import to_json

from balsam.server.errors import TooMany, Unavailable
from balsam.server.line import Line
from balsam.server.store.protocol import Wake
from balsam.wire.stream import StreamEvent

MAX_WAITING = 20_000  # changed Jobs that wait in one mailbox; more are replaced by one `hello`
STATES_PER_EVENT = 1000
SLICE_SEC = 0.005  # for which the event loop fills mailboxes before it looks at something else
STREAMS_PER_HOLDER = 4  # of one Site or one Session: a reconnect may come before the old connection is seen to be dead

Topic = tuple[str, int]


def frame(event: str, data: Any) -> bytes:
    """One server-sent event. JSON has no raw line break, so the data is one line."""
    return b"event: " + event.encode() + b"\ndata: " + (data if isinstance(data, bytes) else to_json(data)) + b"\n\n"


HELLO = frame(StreamEvent.HELLO, {})


class Mailbox:
    """What one stream has still to send. Lives in the event loop; only `Broker` puts things in."""

    def __init__(self, topics: Sequence[Topic], states: frozenset[str] | None = None) -> None:
        self.topics = topics
        self.closed = False
        self.doubted = False
        self._states = states
        self._jobs: dict[int, Sequence[Any]] = {}
        self._cancel: dict[int, None] = {}
        self._plain: dict[str, None] = {}
        self._requests: list[bytes] = []
        self._again = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: str, data: Any) -> None:
        """Merge one change into what waits."""
        if event == StreamEvent.STATES:
            self._put_jobs(data["jobs"])
        elif event == StreamEvent.CANCEL:
            self._cancel.update(dict.fromkeys(data["job_ids"]))
        elif event == StreamEvent.FILE_REQUEST:
            self._requests.append(data)
        else:
            self._plain[event] = None
        self.wake()

    def _put_jobs(self, changes: Sequence[Sequence[Any]]) -> None:
        jobs, wanted = self._jobs, self._states
        too_many = len(changes) > MAX_WAITING
        for change in () if too_many else changes:
            if wanted is None or change[1] in wanted:
                jobs[change[0]] = change
        if too_many or len(jobs) > MAX_WAITING:
            jobs.clear()
            self._again = True

    def again(self) -> None:
        """What was sent may not be all there was: the reader is told to read the state now."""
        self._again = True
        self.wake()

    def doubt(self) -> None:
        """Some token was revoked: the stream must ask whether its own is still good."""
        self.doubted = True
        self.wake()

    def close(self) -> None:
        """End the stream after what waits was sent."""
        self.closed = True
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> bytes:
        """Everything that waits, as bytes to send; empty when nothing does."""
        frames: list[bytes] = []
        if self._again:
            self._again = False
            frames.append(HELLO)
        frames.extend(frame(name, {}) for name in self._plain)
        if self._cancel:
            frames.append(frame(StreamEvent.CANCEL, {"job_ids": list(self._cancel)}))
        jobs = list(self._jobs.values())
        pages = [jobs[start : start + STATES_PER_EVENT] for start in range(0, len(jobs), STATES_PER_EVENT)]
        frames.extend(frame(StreamEvent.STATES, {"jobs": page}) for page in pages)
        frames.extend(frame(StreamEvent.FILE_REQUEST, data) for data in self._requests)
        self._plain, self._cancel, self._jobs, self._requests = {}, {}, {}, []
        return b"".join(frames)

    async def wait(self, timeout_sec: float) -> None:
        """Until something waits, the mailbox closes, or the time is over."""
        if self.closed or self.doubted or self._again or self._plain or self._cancel or self._jobs or self._requests:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_sec, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None


class Broker:
    """All open streams of one service."""

    def __init__(self, streams_per_user: int = 200) -> None:
        self._streams_per_user = streams_per_user
        self._loop: asyncio.AbstractEventLoop | None = None
        self._boxes: dict[Topic, list[Mailbox]] = {}
        self._owners: dict[Hashable, list[Mailbox]] = {}
        self._stopping = False
        self._line: Line[Topic, tuple[Wake, Mailbox]] = Line()
        self._filling = False
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def start(self) -> None:
        """Called in the event loop that serves the streams."""
        self._loop = asyncio.get_running_loop()

    def publish(self, wakes: Sequence[Wake]) -> None:
        """Called in the writer thread, once per commit, before its callers hear of it. Never waits."""
        heard = [wake for wake in wakes if wake.topic in ("tokens", "wakes") or (wake.topic, wake.key) in self._boxes]
        if heard and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the service is stopping, there is no stream left
                self._loop.call_soon_threadsafe(self._deliver, heard)

    def _deliver(self, heard: list[Wake]) -> None:
        for wake in heard:
            if wake.topic == "tokens":
                for box in self._all():
                    box.doubt()
                continue
            if wake.topic == "wakes":
                if wake.event == "back":
                    self._catch_up()
                continue
            topic = (wake.topic, wake.key)
            for box in self._boxes.get(topic, ()):
                if wake.topic == "access":
                    box.close()  # its topics are no longer right: the client connects again and reads the state
                else:
                    self._line.add(topic, (wake, box))
        if not self._filling:
            self._fill()

    def _fill(self) -> None:
        """Put what was heard into mailboxes, one of each topic in turn, for a moment; then again after all others."""
        self._filling = False  # as long as it is not sure to be called again
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE_SEC
        while (told := self._line.take()) is not None:
            wake, box = told
            box.put(wake.event, wake.data)
            if loop.time() > until:
                break
        self._filling = bool(self._line)
        if self._filling:
            loop.call_soon(self._fill)

    def turn_of(self, account: int) -> asyncio.Lock:
        """Held by a stream while it makes text of what its mailbox holds. One lock for all streams of an account, so
        that between two of them the event loop comes to everybody else."""
        return self._turns.setdefault(account, asyncio.Lock())

    def _catch_up(self) -> None:
        """Anything may have been missed, also that a token was revoked or a team was left."""
        for box in self._all():
            if any(topic == "access" for topic, _ in box.topics):
                box.close()
            else:
                box.again()
                box.doubt()

    def open_streams(self) -> int:
        """How many there are."""
        return sum(map(len, self._owners.values()))

    def _all(self) -> list[Mailbox]:
        return [box for boxes in self._owners.values() for box in boxes]

    def ask(self, site_id: int, request: bytes) -> bool:
        """Put a file request into the Site's mailbox; False when its agent holds no stream."""
        boxes = [box for box in self._boxes.get(("site", site_id), ()) if not box.closed]
        if boxes:
            boxes[-1].put(StreamEvent.FILE_REQUEST, request)  # the newest connection is the live one
        return bool(boxes)

    def open(self, box: Mailbox, owner: Hashable, *, per_holder: bool) -> None:
        """Subscribe. Users are refused above their limit (429); a Site's or Session's oldest stream gives way."""
        boxes = self._owners.get(owner, [])
        if self._stopping:
            raise Unavailable("the service is stopping; connect again in a moment")
        if per_holder and len(boxes) >= STREAMS_PER_HOLDER:
            boxes[0].close()
        elif not per_holder and len(boxes) >= self._streams_per_user:
            raise TooMany(f"more than {self._streams_per_user} open streams of one user; close some", 10)
        self._owners.setdefault(owner, []).append(box)
        for topic in box.topics:
            self._boxes.setdefault(topic, []).append(box)

    def release(self, box: Mailbox, owner: Hashable) -> None:
        """Unsubscribe."""
        _drop(self._owners, owner, box)
        for topic in box.topics:
            _drop(self._boxes, topic, box)

    def stop(self) -> None:
        """End every stream cleanly; called in the event loop when the service stops."""
        self._stopping = True
        for box in self._all():
            box.close()


K = TypeVar("K", bound=Hashable)


def _drop(table: dict[K, list[Mailbox]], key: K, box: Mailbox) -> None:
    boxes = table.get(key, [])
    if box in boxes:
        boxes.remove(box)
        if not boxes:
            del table[key]
