"""RemotePath: a path on another machine, as `Site.path` and `Job.workdir` have it.

Text, because that is what it is here; with the ways of a path, because scripts for Balsam use them:
`site.path / "data" / job.workdir`.
"""

from pathlib import Path, PurePath, PurePosixPath
from typing import Self


class RemotePath(str):
    """`Site.path` and `Job.workdir`. What is joined to it is a `pathlib.Path`.

    >>> RemotePath("ensemble/1") == "ensemble/1", RemotePath("/home/ann/site") / "data" / RemotePath("run/7")
    (True, PosixPath('/home/ann/site/data/run/7'))
    """

    __slots__ = ()

    @classmethod
    def of(cls, value: str | PurePath) -> Self:
        """The path that a text or a path says. Raises TypeError for anything else."""
        if isinstance(value, (str, PurePath)):
            return cls(value)
        raise TypeError(f"{value!r} is no path; give text or a pathlib.Path")

    def __truediv__(self, other: str | PurePosixPath) -> Path:
        return Path(self) / other

    def __rtruediv__(self, other: str | PurePosixPath) -> Path:
        return Path(other) / self

    def joinpath(self, *parts: str | PurePosixPath) -> Path:
        """This path with more parts."""
        return Path(self).joinpath(*parts)

    def as_posix(self) -> str:
        """The text."""
        return str(self)

    def is_absolute(self) -> bool:
        """Whether it begins at the root."""
        return self.startswith("/")

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self).name

    @property
    def parent(self) -> PurePosixPath:
        """The path without its last part."""
        return PurePosixPath(self).parent

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts one by one."""
        return PurePosixPath(self).parts

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return PurePosixPath(self).stem

    @property
    def suffix(self) -> str:
        """What follows the last dot."""
        return PurePosixPath(self).suffix
