"""Lexical containment of work directories and file names.

The service checks every path it accepts, the Site checks again before use and opens with no-follow descent; this
module only looks at the text. A path that passes is relative, has no `..` and no control characters.
"""

import re
from pathlib import PurePosixPath

MAX_PATH_LENGTH = 256
# Plain names with single slashes between them and no dot in front are in normal form already: most paths are.
_NORMAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")


class BadPath(ValueError):
    """The path would leave the directory it belongs in, or can't be a path; the text says why."""


def contained(path: str, what: str = "workdir", max_length: int = MAX_PATH_LENGTH) -> str:
    """The normalised form of a relative path that stays inside its root.

    >>> contained("runs//a/./b")
    'runs/a/b'

    Raises BadPath, which names `what`, for anything else.
    """
    if len(path) <= max_length and _NORMAL.fullmatch(path):
        return path
    if not path or not path.strip():
        raise BadPath(f"{what} is empty; give a relative path such as 'runs/a'")
    if len(path) > max_length:
        raise BadPath(f"{what} has {len(path)} characters; at most {max_length} are allowed")
    if any(ord(char) < 32 or ord(char) == 127 for char in path):
        raise BadPath(f"{what} {path!r} has a control character")
    if any(0xD800 <= ord(char) <= 0xDFFF for char in path):
        raise BadPath(f"{what} {path!r} is not valid Unicode")
    pure = PurePosixPath(path)
    if pure.is_absolute():
        raise BadPath(f"{what} {path!r} is absolute; it must be relative to the Site's data directory")
    if ".." in pure.parts:
        raise BadPath(f"{what} {path!r} contains '..'; it must stay inside the Site's data directory")
    if not pure.parts:
        raise BadPath(f"{what} {path!r} names no directory")
    normal = str(pure)
    if not normal.strip():
        raise BadPath(f"{what} {path!r} is blank; give a relative path such as 'runs/a'")
    return normal
