"""Prints which nodes an allocation of Slurm still has: `python -I -S slurm_nodes_left.py ALLOCATION [NODE...]`.

Run by the launcher, as a file and by the standard library alone. With --no-kill Slurm takes a node that is down out of
the allocation, but only when it has noticed: after 300 s, by default. So each NODE that is given is tried with a step
that does nothing; one on which no step runs, while one does on our own node, is also printed with a `-` before it. The
exit code is 1 when Slurm could not be asked, and it said why.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

ASK_SEC = 20.0
TRY_SEC = 15.0
AT_A_TIME = 32
EXIT_USAGE = 64


def main(words: list[str]) -> int:
    """Ask, try, print; returns the exit code."""
    if not words:
        print("usage: slurm_nodes_left.py ALLOCATION [NODE...]", file=sys.stderr)  # noqa: T201 -- a program of its own
        return EXIT_USAGE
    allocation, doubtful = words[0], words[1:]
    try:
        left = nodes_left(allocation)
        silent = silent_nodes(allocation, [node for node in doubtful if node in left])
    except (OSError, subprocess.SubprocessError, LookupError) as error:
        said = getattr(error, "stderr", None) or error
        print(f"{said}".strip(), file=sys.stderr)  # noqa: T201
        return 1
    print(*left, *(f"-{node}" for node in silent), sep="\n")  # noqa: T201
    return 0


def nodes_left(allocation: str) -> list[str]:
    """Names of the nodes that Slurm counts to it."""
    listing = _run(["squeue", "--noheader", f"--jobs={allocation}", "--states=RUNNING", "--format=%N"]).strip()
    if not listing:
        raise LookupError(f"Slurm knows of no allocation {allocation} that runs")
    return _run(["scontrol", "show", "hostnames", listing]).split()


def silent_nodes(allocation: str, doubtful: Sequence[str]) -> list[str]:
    """Those of them on which no step runs. All are tried at once first, since most often all of them answer.

    Raises LookupError when nothing is learnt.
    """
    if not doubtful or shutil.which("srun") is None or _answer(allocation, doubtful):
        return []
    own = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    if not _answer(allocation, [own]):
        raise LookupError("no step runs on our own node, either")
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        answers = pool.map(lambda node: _answer(allocation, [node]), doubtful)
        return [node for node, answered in zip(doubtful, answers, strict=True) if not answered]


def _answer(allocation: str, nodes: Sequence[str]) -> bool:
    words = ["srun", f"--jobid={allocation}", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}"]
    words += [f"--nodelist={','.join(nodes)}", "--overlap", "--mem=0", "--mpi=none", "--input=none", "true"]
    try:
        answer = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRY_SEC, check=False)
    except subprocess.TimeoutExpired:
        return False
    return answer.returncode == 0


def _run(words: list[str]) -> str:
    answer = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ASK_SEC, check=True
    )
    return answer.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
