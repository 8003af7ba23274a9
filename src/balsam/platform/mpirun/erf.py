"""Runs a jsrun with an explicit resource file: `python -I -S erf.py TEXT -- JSRUN WORDS...`, and ends as it does.

Run by the launcher (see `jsrun`), as a file and by the standard library alone. The file is in TMPDIR for as long as
jsrun runs; it outlives only a starter that is killed by SIGKILL. The launcher signals the process group: jsrun hears
for itself, and this process waits until it has ended.
"""

import os
import signal
import sys
import tempfile

EXIT_USAGE = 64
_LEFT_TO_JSRUN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# jsrun sets it for each rank, and one that stood there before would hide what it gave.
_OF_JSRUN = "CUDA_VISIBLE_DEVICES"


def main(words: list[str]) -> int:
    """Write, start, wait, remove; the exit code is that of jsrun, 128+n after signal n."""
    if len(words) < 3 or words[1] != "--":
        print("usage: erf.py TEXT -- JSRUN WORDS...", file=sys.stderr)  # noqa: T201 -- a program of its own
        return EXIT_USAGE
    jsrun, *rest = words[2:]
    signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_JSRUN)
    with tempfile.NamedTemporaryFile("w", prefix="balsam-", suffix=".erf", encoding="utf-8") as file:
        file.write(words[0])
        file.flush()
        return _run([jsrun, f"--erf_input={file.name}", *rest])


def _run(argv: list[str]) -> int:
    env = {name: value for name, value in os.environ.items() if name != _OF_JSRUN}
    try:
        pid = os.posix_spawnp(argv[0], argv, env, setsigmask=())
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127 if isinstance(error, FileNotFoundError) else 126
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
