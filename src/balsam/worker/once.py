"""One rank of one Job in a process of its own: `PYTHON -P -m balsam.worker.once CALL`.

Started like a command, by the machine's mpirun or directly, where a warm worker will not do: several ranks, another
interpreter, mpi4py. CALL is a file with the call in JSON; the answer of rank 0 (or the first error of any rank) goes to
the file beside it, whole or not at all. Ends with the exit code that it answers.
"""

import atexit
import contextlib
import faulthandler
import json
import os
import sys
from typing import Any

from balsam.worker import performing
from balsam.worker.loading import AppNotLoaded, load_app
from balsam.worker.protocol import ANSWER, ERROR, PROTOCOL, SEEN, Answer, Call, encode

# Each mpirun tells a rank its number in its own way.
_RANKS = (
    "BALSAM_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "OMPI_COMM_WORLD_RANK",
    "SLURM_PROCID",
    "PALS_RANKID",
    "FLUX_TASK_RANK",
)


def main(path: str) -> None:
    """Entry point; never returns."""
    faulthandler.enable()
    with open(path, "rb") as file:  # noqa: PTH123 - before anything is imported that is not needed
        call: Call = json.load(file)
    with contextlib.suppress(OSError):
        os.close(os.open(path + SEEN, os.O_WRONLY | os.O_CREAT, 0o600))
    pid = os.getpid()
    answer = _answer(call)
    if os.getpid() != pid:  # a child that run() forked came back from it
        os._exit(answer["code"])
    _finish(path, answer)


def _answer(call: Call) -> Answer:
    if call["protocol"] != PROTOCOL:
        text = f"openbalsam of {sys.executable} is of another version than the launcher's; install the same one there"
        return performing.failure(AppNotLoaded(text))
    try:
        make = load_app(**call["app"])
    except AppNotLoaded as error:
        return performing.failure(error)
    return performing.run(make, call)


def _finish(path: str, answer: Answer) -> None:
    mpi = _mpi()
    if answer["code"]:
        _write(path + ERROR, answer)
    elif (mpi.COMM_WORLD.Get_rank() if mpi else _rank()) == 0:
        _write(path + ANSWER, answer)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the App may have closed or replaced it
            stream.flush()
    if answer["code"] and mpi and mpi.COMM_WORLD.Get_size() > 1:
        mpi.COMM_WORLD.Abort(answer["code"])  # the others may wait for this one for ever
    # Not sys.exit, which would wait for threads that the App left; MPI is finalised by one of these functions.
    atexit._run_exitfuncs()
    os._exit(answer["code"])


def _mpi() -> Any:
    """mpi4py's MPI, when the App has it in use."""
    mpi: Any = sys.modules.get("mpi4py.MPI")
    return mpi if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() else None


def _rank() -> int:
    number = next((os.environ[name] for name in _RANKS if name in os.environ), "0")
    return int(number) if number.isdigit() else 0


def _write(path: str, answer: Answer) -> None:
    """Whole, and only by the first who comes."""
    draft = f"{path}.{os.uname().nodename}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(encode(answer))
    try:
        os.link(draft, path)
    except FileExistsError:
        os.unlink(draft)  # noqa: PTH108
    except OSError:  # a file system without hard links
        os.rename(draft, path)  # noqa: PTH104
    else:
        os.unlink(draft)  # noqa: PTH108


if __name__ == "__main__":
    main(sys.argv[1])
