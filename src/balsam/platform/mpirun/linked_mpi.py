"""Which MPI a program was linked with: told by the name of the library that it asks for.

Used by srun's adapter, since one `--mpi` is not right for all: a program of another MPI than the one on PATH would see
itself as the only rank. What can't be told (a script, a library between the two, a static program) is None.
"""

import functools
import shutil
from pathlib import Path

# An executable names its libraries near its beginning; each name stands alone, between two zeros.
_LOOK_BYTES = 16 << 20
_ELF = b"\x7fELF"
# By its soname: that of MPICH's ABI is Intel's and Cray's as well.
_FAMILIES = {
    b"libmpi.so.12": "mpich",
    b"libmpich.so.12": "mpich",
    b"libmpi_cray.so.12": "mpich",
    b"libmpi.so.40": "openmpi",
}


def linked_mpi(program: str, search: str) -> str | None:
    """`mpich` or `openmpi`; `search` is the PATH for a bare name.

    >>> linked_mpi("/bin/sh", "") is None
    True
    """
    if "/" in program and not program.startswith("/"):
        return None  # relative to a work directory that is not ours
    path = shutil.which(program, path=search)
    try:
        return None if path is None else _family(path, Path(path).stat().st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=1024)
def _family(path: str, _mtime_ns: int) -> str | None:
    with Path(path).open("rb") as file:
        if file.read(len(_ELF)) != _ELF:
            return None
        data = file.read(_LOOK_BYTES)
    found = {family for name, family in _FAMILIES.items() if b"\0" + name + b"\0" in data}
    return found.pop() if len(found) == 1 else None
