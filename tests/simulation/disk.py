"""A disk in memory that forgets what was not synced when its machine loses power, tears the last write, and gets full.

`SimOs` stands in for the `os` module of `balsam.client.outbox`, `SimPath` for the paths of the agent and the launcher:
their code is the shipping code, only the system calls end here.
"""

from __future__ import annotations

import errno
import fnmatch
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any


@dataclass
class _File:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    writer: str = ""
    short: bool = False  # the full disk took a part of this write already


class Disk:
    """The Site's file system, seen by all of its machines. `writer` is who runs now: a machine that loses power loses
    what it wrote and did not sync."""

    def __init__(self, random: Random) -> None:
        self.files: dict[str, _File] = {}
        self.full = False
        self.writer = ""
        self.on_write: Callable[[str, bytes], None] = lambda path, data: None
        self.on_loss: Callable[[str, bytes], None] = lambda path, data: None
        self._random = random

    def power_loss(self, writer: str) -> None:
        """What this machine had not synced is gone, or torn in the middle."""
        for path, file in self.files.items():
            if file.writer == writer and len(file.data) > len(file.synced):
                kept = self._random.randint(len(file.synced), len(file.data))
                del file.data[kept:]
                self.on_loss(path, bytes(file.data))

    def write_text(self, path: object, text: str) -> None:
        """Replace a file whole and durably."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device (simulated)", str(path))
        data = text.encode()
        self.files[str(path)] = _File(bytearray(data), data, self.writer)


class SimPath:
    """The part of Path that the shipping code uses, on a Disk."""

    disk: Disk

    def __init__(self, path: object) -> None:
        self._text = str(path)

    def __str__(self) -> str:
        return self._text

    def __fspath__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimPath) and self._text == other._text

    def __lt__(self, other: SimPath) -> bool:
        return self._text < other._text

    def __truediv__(self, name: str) -> SimPath:
        return SimPath(f"{self._text}/{name}")

    @property
    def name(self) -> str:
        return self._text.rpartition("/")[2]

    @property
    def parent(self) -> SimPath:
        return SimPath(self._text.rpartition("/")[0])

    def with_name(self, name: str) -> SimPath:
        return self.parent / name

    def with_suffix(self, suffix: str) -> SimPath:
        return SimPath(self._text.rpartition(".")[0] + suffix)

    def exists(self) -> bool:
        return str(self) in self.disk.files

    def mkdir(self, **_: Any) -> None:
        pass

    def chmod(self, _: int) -> None:
        pass

    def glob(self, pattern: str) -> list[SimPath]:
        wanted = f"{self}/{pattern}"
        depth = wanted.count("/")
        found = [name for name in self.disk.files if name.startswith(f"{self}/") and fnmatch.fnmatchcase(name, wanted)]
        return [SimPath(name) for name in found if name.count("/") == depth]

    def read_bytes(self) -> bytes:
        try:
            return bytes(self.disk.files[str(self)].data)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def unlink(self, missing_ok: bool = False) -> None:
        if self.disk.files.pop(str(self), None) is None and not missing_ok:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))

    def replace(self, target: SimPath) -> SimPath:
        self.disk.files[str(target)] = self.disk.files.pop(str(self))
        return target


class SimOs:
    """The system calls of the outbox."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._files: dict[int, _File] = {}
        self._names: dict[int, str] = {}
        self._next = 1000

    def __getattr__(self, name: str) -> Any:
        if name.startswith("O_") or name == "strerror":
            return getattr(os, name)
        raise AttributeError(f"the simulated disk has no os.{name}; give it one in tests/simulation/disk.py")

    def open(self, path: object, flags: int, mode: int = 0o777) -> int:
        name = str(path)
        self._next += 1
        if not flags & os.O_DIRECTORY:
            known = self._disk.files.get(name)
            if flags & os.O_CREAT:
                if known is not None and flags & os.O_EXCL:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
                if self._disk.full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
                if known is None or flags & os.O_TRUNC:
                    known = self._disk.files[name] = _File(writer=self._disk.writer)
            if known is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            self._files[self._next] = known
            self._names[self._next] = name
        return self._next

    def close(self, fd: int) -> None:
        self._files.pop(fd, None)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        file = self._files[fd]
        if self._disk.full:
            # A full disk takes what still fits and refuses the rest.
            file.short = not file.short
            if file.short and len(data) > 17:
                file.data[offset:] = data[:17]
                return 17
            file.short = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.data[offset : offset + len(data)] = data
        self._disk.on_write(self._names[fd], data)
        return len(data)

    def write(self, fd: int, data: bytes) -> int:
        return self.pwrite(fd, data, len(self._files[fd].data))

    def ftruncate(self, fd: int, size: int) -> None:
        del self._files[fd].data[size:]

    def fdatasync(self, fd: int) -> None:
        if fd in self._files:
            self._files[fd].synced = bytes(self._files[fd].data)

    fsync = fdatasync

    def rename(self, source: object, target: object) -> None:
        self._disk.files[str(target)] = self._disk.files.pop(str(source))
