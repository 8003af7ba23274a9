"""Lines of a file in a Job's workdir, while they are written: `Job.tail`.

Who follows waits at the service, which asks the Site's agent once for everybody who waits for the same; nothing is
polled from here. Each line is told within half a second.
"""

import codecs
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from balsam.client.errors import Forbidden, NotFound, SiteOffline
from balsam.client.remote_file import file_error
from balsam.wire.limits import MAX_FILE_READ_BYTES

if TYPE_CHECKING:
    from balsam.client.client import Client

WAIT_SEC = 3.0  # at the service; then the Job's end is looked for
LAST_WAIT_SEC = 0.5  # of a Job that is done
UNFINISHED_SEC = 1.0  # before a line without an end is given
OFFLINE_SEC = 1.0
SITE_PATIENCE_SEC = 60.0
LONGEST_LINE = 64 * 1024
BACKWARDS_BYTES = 64 * 1024


def tail(
    client: "Client",
    job_id: int,
    done: Callable[[], bool],
    name: str,
    *,
    follow: bool,
    lines: int | None,
    errors: str,
) -> Iterator[str]:
    """See `Job.tail`."""
    source = _Source(client, f"/jobs/{job_id}/files", name)
    text = _Lines(errors)
    try:
        if lines is not None:
            source.offset = _start_of_last(source, lines)
        if not follow:
            while piece := source.read(source.offset):
                yield from text.feed(piece)
            yield from text.rest()
            return
    except FileNotFoundError:
        if not follow:
            raise
    yield from _followed(source, text, done)


def _followed(source: "_Source", text: "_Lines", done: Callable[[], bool]) -> Iterator[str]:
    offline_since: float | None = None
    while True:
        last = done()
        try:
            piece, restarted = source.more(LAST_WAIT_SEC if last else UNFINISHED_SEC if text.waits else WAIT_SEC)
        except SiteOffline:
            offline_since = time.monotonic() if offline_since is None else offline_since
            if last and time.monotonic() - offline_since >= SITE_PATIENCE_SEC:
                raise
            time.sleep(OFFLINE_SEC)
            continue
        offline_since = None
        if restarted or not piece:
            yield from text.rest()
        yield from text.feed(piece)
        if last and not piece:
            break
    if not source.file_id:
        source.read(source.offset)  # raises FileNotFoundError unless it is an empty file


def _start_of_last(source: "_Source", lines: int) -> int:
    """Where the last lines begin; a line end at the very end does not count."""
    source.read(0, 1)
    end = source.size_bytes
    if lines == 0:
        return end
    start, found = end, 0
    while start > 0:
        length = min(BACKWARDS_BYTES, start)
        piece = source.read(start - length, length)
        for position in range(len(piece) - 1, -1, -1):
            place = start - length + position
            if piece[position] == 0x0A and place != end - 1:
                found += 1
                if found == lines:
                    return place + 1
        start -= length
    return 0


class _Source:
    """The file at the Site; `offset` is how far it was read."""

    def __init__(self, client: "Client", path: str, name: str) -> None:
        self.offset = 0
        self.file_id = ""
        self.size_bytes = 0
        self._client = client
        self._path = path
        self._name = name

    def read(self, offset: int, length: int = MAX_FILE_READ_BYTES) -> bytes:
        """A part, at once; moves the offset behind it."""
        content, headers = self._ask("content", {"path": self._name, "offset": offset, "max_bytes": length})
        self.offset = offset + len(content)
        self.size_bytes = int(headers.get("x-file-size", self.offset))
        return content

    def more(self, wait_sec: float) -> tuple[bytes, bool]:
        """What is new, and whether it is of a file that begins anew."""
        query = {"path": self._name, "offset": self.offset, "file_id": self.file_id, "wait_sec": wait_sec}
        content, headers = self._ask("follow", query)
        start = int(headers.get("x-file-offset", self.offset))
        restarted = start != self.offset
        self.offset, self.file_id = start + len(content), headers.get("x-file-id", "")
        return content, restarted

    def _ask(self, what: str, query: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
        try:
            return self._client.transport.request_bytes(f"{self._path}/{what}", query=query)
        except (NotFound, Forbidden) as error:
            raise file_error(error, self._name) from error


class _Lines:
    """Bytes in, lines out."""

    def __init__(self, errors: str) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._rest = ""

    @property
    def waits(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._rest)

    def feed(self, piece: bytes) -> Iterator[str]:
        parts = (self._rest + self._decoder.decode(piece)).split("\n")
        self._rest = parts.pop()
        for line in parts:
            yield from _cut(line + "\n")
        while len(self._rest) > LONGEST_LINE:
            yield self._rest[:LONGEST_LINE]
            self._rest = self._rest[LONGEST_LINE:]

    def rest(self) -> Iterator[str]:
        """What stands without a line end."""
        rest, self._rest = self._rest + self._decoder.decode(b"", final=True), ""
        self._decoder.reset()
        if rest:
            yield rest


def _cut(line: str) -> Iterator[str]:
    for start in range(0, len(line), LONGEST_LINE):
        yield line[start : start + LONGEST_LINE]
