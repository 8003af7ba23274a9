"""Sends a signal to the ranks of steps of a Slurm allocation: `python -I -S slurm_steps.py ALLOCATION SIGNAL NAME...`.

Run by the launcher, as a file and by the standard library alone. srun gave the steps their names; squeue knows their
numbers, and scancel delivers. Sent to srun itself, SIGTERM would kill its ranks at once. Prints the names that Slurm
does not know (any more, or yet), one a line. The exit code is 1 when Slurm could not be asked or told, and it said why.
"""

import subprocess
import sys

TIMEOUT_SEC = 20.0
EXIT_USAGE = 64


def main(words: list[str]) -> int:
    """Look the numbers up, send; returns the exit code."""
    if len(words) < 3:
        print("usage: slurm_steps.py ALLOCATION SIGNAL NAME...", file=sys.stderr)  # noqa: T201 -- a program of its own
        return EXIT_USAGE
    allocation, name, wanted = words[0], words[1], words[2:]
    try:
        listing = _run(["squeue", "--noheader", "--steps", f"--jobs={allocation}", "--format=%i|%j"])
        numbers = numbers_in(listing)
        found = [numbers[step] for step in wanted if step in numbers]
        if found:
            _run(["scancel", f"--signal={name.removeprefix('SIG')}", *found])
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        print(f"{said}".strip(), file=sys.stderr)  # noqa: T201
        return 1
    for step in wanted:
        if step not in numbers:
            print(step)  # noqa: T201
    return 0


def numbers_in(listing: str) -> dict[str, str]:
    """Numbers of steps by name.

    >>> numbers_in("7.0|balsam-1.1\\n7.batch|batch\\n")
    {'balsam-1.1': '7.0', 'batch': '7.batch'}
    """
    rows = (line.strip().partition("|") for line in listing.splitlines())
    return {name: number for number, _, name in rows if name}


def _run(words: list[str]) -> str:
    answer = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_SEC,
        check=True,
    )
    return answer.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
