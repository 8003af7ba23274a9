"""Starts N copies of a command on this machine and ends as they do: `python -I -S ranks.py N -- ARGV`.

Run by the launcher where no MPI is installed (see `plain`), as a file and by the standard library alone. Ranks inherit
everything, are started in the order of their numbers, and write to the same output. The exit code is that of the first
rank that failed (128+n after signal n), which also ends the others: SIGTERM, SIGKILL five seconds later.

Signals are sent to the whole process group, ours and theirs: what is passed on would reach the ranks twice, and in the
middle of what they do about it. A rank that fails once all were told to end takes no other along: each has the time
that whoever told them gives.
"""

import os
import signal
import sys
import time

KILL_AFTER_SEC = 5.0
EXIT_USAGE = 64
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_FOR_RANKS = {signal.SIGUSR1, signal.SIGUSR2}


def main(words: list[str]) -> int:
    """Parse, start, wait; returns the exit code."""
    if len(words) < 3 or words[1] != "--" or not words[0].isdigit() or words[0] == "0":
        print("usage: ranks.py N -- ARGV...", file=sys.stderr)  # noqa: T201 -- a program of its own
        return EXIT_USAGE
    # Blocked, so that none is lost between two looks; ranks get them unblocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_ENDING, *_FOR_RANKS})
    size, argv = int(words[0]), words[2:]
    living: list[int] = []
    code = 0
    for rank in range(size):
        try:
            living.append(_start(rank, size, argv))
        except OSError as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            print(f"{argv[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
            _signal(living, signal.SIGTERM)
            break
    return _wait(living, code)


def _start(rank: int, size: int, argv: list[str]) -> int:
    env = {
        **os.environ,
        "BALSAM_RANK": str(rank),
        "BALSAM_SIZE": str(size),
        "BALSAM_LOCAL_RANK": str(rank),
        "BALSAM_LOCAL_SIZE": str(size),
        "PMI_RANK": str(rank),
        "PMI_SIZE": str(size),
    }
    return os.posix_spawnp(argv[0], argv, env, setsigmask=(), setsigdef=(signal.SIGPIPE,))


def _wait(living: list[int], code: int) -> int:
    kill_at = time.monotonic() + KILL_AFTER_SEC if code else None
    are_told = False
    while True:
        failed = [rank_code for rank_code in _reap(living) if rank_code]
        if failed and not code:
            code = failed[0]
            are_told = are_told or signal.sigtimedwait(_ENDING, 0) is not None  # which the rank may have died of
            if not are_told:
                _signal(living, signal.SIGTERM)
                kill_at = time.monotonic() + KILL_AFTER_SEC
        if not living:
            return code
        pause = 3600.0 if kill_at is None else max(0.0, kill_at - time.monotonic())
        caught = signal.sigtimedwait({signal.SIGCHLD, *_ENDING}, pause)
        if caught and caught.si_signo != signal.SIGCHLD:
            are_told = True
        elif kill_at is not None and time.monotonic() >= kill_at:
            _signal(living, signal.SIGKILL)
            kill_at = time.monotonic() + KILL_AFTER_SEC


def _reap(living: list[int]) -> list[int]:
    """Exit codes of the ranks that ended since the last look, which are taken off the list, by rank."""
    codes: list[int] = []
    for pid in list(living):
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            living.remove(pid)
            code = os.waitstatus_to_exitcode(status)
            codes.append(code if code >= 0 else 128 - code)
    return codes


def _signal(living: list[int], signum: int) -> None:
    """To the ranks that were not waited for yet: their pids can't have come to mean other processes."""
    for pid in living:
        os.kill(pid, signum)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
