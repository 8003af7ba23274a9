"""Blobs in an S3-compatible object store, chosen by `--blob-store s3://BUCKET/PREFIX`.

Uploads under way stay on the service's own disk, because they are gone on with at any byte; a complete one is moved
here. Address and credentials come from the usual AWS_* variables. Needs the extra `s3`.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from balsam.server.blobs.storage import BlobGone, BlobReader
from balsam.server.settings import SettingsError

if TYPE_CHECKING:
    from obstore.store import S3Store

READ_AHEAD_BYTES = 8 * 1024 * 1024
PART_BYTES = 8 * 1024 * 1024
MAX_PARTS = 9_000  # S3 takes 10,000 of one object
PARTS_AT_ONCE = 4
RETRY_FOR = timedelta(seconds=30)
_FORM = "s3://BUCKET or s3://BUCKET/PREFIX"


def bucket_problem(url: str) -> str:
    """What is wrong with the address of a store; empty when nothing is.

    >>> bucket_problem("s3://balsam/blobs")
    ''
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        return f"{url!r} must have the form {_FORM}"
    return ""


class S3Storage:
    """BlobStorage in a bucket. What the store answers otherwise is raised as OSError."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError when the bucket can't be used."""
        if why := bucket_problem(url):
            raise SettingsError(f"--blob-store: {why}")
        try:
            from obstore.store import S3Store
        except ModuleNotFoundError as error:
            raise SettingsError("--blob-store needs obstore: pip install 'openbalsam[s3]'") from error
        parts = urlsplit(url)
        prefix = parts.path.strip("/") or None
        self._store: S3Store = S3Store(
            parts.netloc, prefix=prefix, retry_config={"max_retries": 5, "retry_timeout": RETRY_FOR}
        )
        try:
            next(iter(self._pages()), None)
        except OSError as error:
            raise SettingsError(f"--blob-store {url}: {error}") from error

    def keep(self, partial: Path, place: str) -> None:
        import obstore

        part_bytes = max(PART_BYTES, partial.stat().st_size // MAX_PARTS)
        try:
            obstore.put(self._store, place, partial, chunk_size=part_bytes, max_concurrency=PARTS_AT_ONCE)
        except Exception as error:
            raise _as_os_error(error) from error
        partial.unlink()

    def open(self, place: str) -> BlobReader:
        import obstore

        try:
            found = obstore.head(self._store, place)
        except FileNotFoundError as error:
            raise BlobGone(place) from error
        except Exception as error:
            raise _as_os_error(error) from error
        return _Object(self._store, place, found["size"])

    def remove(self, place: str) -> None:
        import obstore

        try:
            obstore.delete(self._store, place)
        except FileNotFoundError:
            return
        except Exception as error:
            raise _as_os_error(error) from error

    def places(self) -> Iterator[tuple[str, datetime]]:
        for page in self._pages():
            for found in page:
                yield found["path"], found["last_modified"]

    def _pages(self) -> "Iterator[list[Mapping[str, Any]]]":
        import obstore

        try:
            yield from obstore.list(self._store)
        except Exception as error:
            raise _as_os_error(error) from error


class _Object:
    """A blob in the bucket, read ahead as it is read from front to back."""

    def __init__(self, store: "S3Store", place: str, size_bytes: int) -> None:
        self._store = store
        self._place = place
        self._size_bytes = size_bytes
        self._start = 0
        self._window = b""

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self._size_bytes - offset)
        if length <= 0:
            return b""
        if not self._start <= offset <= offset + length <= self._start + len(self._window):
            self._fetch(offset, min(max(length, READ_AHEAD_BYTES), self._size_bytes - offset))
        begin = offset - self._start
        return self._window[begin : begin + length]

    def _fetch(self, offset: int, length: int) -> None:
        import obstore

        try:
            content = obstore.get_range(self._store, self._place, start=offset, length=length)
        except Exception as error:
            raise _as_os_error(error) from error
        self._start, self._window = offset, bytes(content)

    def close(self) -> None:
        self._window = b""


def _as_os_error(error: Exception) -> OSError:
    """Its first line: what follows is for those who know the library's inside."""
    return OSError(f"object store: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
