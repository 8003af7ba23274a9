"""Files of a Job's workdir, read from anywhere through the Site's agent, also while the Job runs."""

import io
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Literal

from balsam.client.errors import Forbidden, NotFound
from balsam.client.remote_file import RemoteFile, file_error
from balsam.wire.limits import MAX_FILE_READ_BYTES

if TYPE_CHECKING:
    from balsam.client.client import Client
    from balsam.wire.sites import FileEntry, FileReply

READ_BYTES = 256 * 1024  # ahead, of an open file


class JobFiles:
    """The part of `Job` that reads its workdir. Every method raises SiteOffline when the agent does not answer."""

    if TYPE_CHECKING:

        @classmethod
        def _client(cls) -> Client: ...
        def _saved_id(self) -> int: ...
        def done(self) -> bool: ...

    def files(self, path: str = "") -> "list[FileEntry]":
        """What is in the workdir, or in a directory below it. Raises FileNotFoundError.

        >>> sorted(entry.path for entry in job.files())
        ['job.out']
        """
        return self._look(path, "list").entries

    def file_exists(self, name: str) -> bool:
        """Whether the workdir has a file or directory of this name.

        >>> job.file_exists("job.out"), job.file_exists("other.txt")
        (True, False)
        """
        try:
            self._look(name, "stat")
        except FileNotFoundError:
            return False
        return True

    def workdir_exists(self) -> bool:
        """Whether the workdir exists at the Site; it is made when the Job starts.

        >>> job.workdir_exists()
        True
        """
        return self.file_exists("")

    def read_bytes(self, name: str, offset: int = 0, max_bytes: int | None = None) -> bytes:
        """Content of a file from `offset` on (negative: from the end), at most `max_bytes` of it.

        Raises FileNotFoundError, and PermissionError for what leads out of the workdir.

        >>> job.read_bytes("job.out", offset=-7)
        b' World\\n'
        """
        pieces: list[bytes] = []
        left, size = max_bytes, None
        while left is None or left > 0:
            wanted = MAX_FILE_READ_BYTES if left is None else min(left, MAX_FILE_READ_BYTES)
            piece, offset, size_now = self._read_part(name, offset, wanted)
            size = size_now if size is None else size  # a file that grows is read to where it ended at first
            pieces.append(piece)
            offset += len(piece)
            left = None if left is None else left - len(piece)
            if not piece or offset >= size:
                break
        return b"".join(pieces)

    def read_text(self, name: str, offset: int = 0, max_bytes: int | None = None, errors: str = "replace") -> str:
        """Like `read_bytes`, as UTF-8 text.

        >>> job.read_text("job.out")
        'Hello, World\\n'
        """
        return self.read_bytes(name, offset, max_bytes).decode("utf-8", errors)

    def open(self, name: str, mode: str = "r", *, errors: str = "replace") -> IO[Any]:
        """A file object that reads the file from the Site as it is asked for: "r" gives text (UTF-8), "rb" bytes.

        Seek and read at any place; a file that grows is read further. Raises FileNotFoundError, PermissionError.

        >>> with job.open("job.out") as file:
        ...     print(file.readline(), end="")
        Hello, World
        """
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"mode is {mode!r}; a file in a workdir can be read only: 'r' or 'rb'")
        binary = io.BufferedReader(RemoteFile(self._read_part, name), READ_BYTES)
        return binary if mode == "rb" else io.TextIOWrapper(binary, "utf-8", errors)

    def tail(
        self, name: str = "job.out", *, follow: bool = False, lines: int | None = None, errors: str = "replace"
    ) -> Iterator[str]:
        """The lines of a file, each with its line end, while they are written when `follow`; `lines`: from the last so
        many on, else from the first.

        Follows until the Job is done, through restarts and files that are replaced; waits for one that is not there
        yet. What stands without a line end is given after a second, and what is longer than 64 KiB in pieces. Raises
        FileNotFoundError when there is none (at last), PermissionError, SiteOffline.

        >>> [line for line in job.tail(follow=True)]
        ['Hello, World\\n']
        """
        from balsam.client.tail import tail

        return tail(self._client(), self._saved_id(), self.done, name, follow=follow, lines=lines, errors=errors)

    def _read_part(self, name: str, offset: int, wanted: int) -> tuple[bytes, int, int]:
        path = f"/jobs/{self._saved_id()}/files/content"
        query = {"path": name, "offset": offset, "max_bytes": wanted}  # a negative offset counts from the end
        try:
            content, headers = self._client().transport.request_bytes(path, query=query)
        except (NotFound, Forbidden) as error:
            raise file_error(error, name) from error
        return content, int(headers.get("x-file-offset", offset)), int(headers.get("x-file-size", len(content)))

    def _look(self, path: str, op: Literal["list", "stat"]) -> "FileReply":
        from balsam.wire.sites import FileReply

        query = {"path": path, "op": op}
        try:
            return self._client().transport.request(
                "GET", f"/jobs/{self._saved_id()}/files", query=query, reply=FileReply
            )
        except (NotFound, Forbidden) as error:
            raise file_error(error, path) from error
