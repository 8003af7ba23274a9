"""An MPI program without a compiler and without mpi4py: joins MPI through ctypes and tells rank, size and a sum.

`rank_program.py LIBMPI OUTDIR` writes OUTDIR/<rank>.json; the sum over all ranks shows that they really communicate.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

library = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
is_openmpi = hasattr(library, "ompi_mpi_comm_world")


def handle(openmpi_name: str, mpich_value: int) -> ctypes.c_void_p | ctypes.c_int:
    if is_openmpi:
        return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, openmpi_name)))
    return ctypes.c_int(mpich_value)


world = handle("ompi_mpi_comm_world", 0x44000000)
integer = handle("ompi_mpi_int", 0x4C000405)
plus = handle("ompi_mpi_op_sum", 0x58000003)

rank, size, total = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
library.MPI_Init(None, None)
library.MPI_Comm_rank(world, ctypes.byref(rank))
library.MPI_Comm_size(world, ctypes.byref(size))
mine = ctypes.c_int(rank.value + 1)
library.MPI_Allreduce(ctypes.byref(mine), ctypes.byref(total), 1, integer, plus, world)
library.MPI_Finalize()
answer = {
    "size": size.value,
    "sum": total.value,
    "cpus": sorted(os.sched_getaffinity(0)),
    "extra": os.environ.get("EXTRA"),
}
Path(sys.argv[2], f"{rank.value}.json").write_text(json.dumps(answer))
sys.exit(int(os.environ.get("EXIT_CODE", "0")))
