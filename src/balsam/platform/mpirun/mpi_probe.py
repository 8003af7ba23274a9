"""Prints how many ranks its MPI world has: `python -I -S mpi_probe.py mpich|openmpi LIBRARY...`, started by an mpirun.

Run by `pmi`, as a file and by the standard library alone: it calls the MPI library itself, the first of those given
that can be loaded. Exit code 3: none can.
"""

import ctypes
import sys

EXIT_NO_LIBRARY = 3
# What MPI_COMM_WORLD is in C: a number in MPICH and its kin, the address of an object in Open MPI.
_MPICH_WORLD = 0x44000000


def main(words: list[str]) -> int:
    """Initialise, ask, print, end."""
    family, *names = words
    for name in names:
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        break
    else:
        return EXIT_NO_LIBRARY
    world: object = ctypes.c_int(_MPICH_WORLD)
    if family == "openmpi":
        world = ctypes.byref(ctypes.c_char.in_dll(library, "ompi_mpi_comm_world"))
    size = ctypes.c_int(0)
    if library.MPI_Init(None, None) or library.MPI_Comm_size(world, ctypes.byref(size)):
        return 1
    print(f"balsam-mpi-size {size.value}", flush=True)  # noqa: T201 -- a program of its own
    return 1 if library.MPI_Finalize() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
