"""Commands that misbehave on demand: a directory for the front of PATH, with a wrapper around each of a scheduler's
commands.

For conformance tests of adapters over command lines, around the real commands as well as around fake ones. A wrapper
does what its `mode` file says, and notes each call.
"""

import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# $0 is the wrapper; @...@ is filled in. `done-` modes: the command is carried out before things go wrong.
_WRAPPER = r"""#!/bin/sh
dir=@dir@
name=@name@@verb@
real() { @real@ "$@"; }
echo "$name LC_ALL=${LC_ALL-unset}" >> "$dir/calls"
mode=
[ -e "$dir/@name@.mode" ] && name=@name@
[ -r "$dir/$name.mode" ] && mode=$(cat "$dir/$name.mode")
case $mode in
hang) sleep 600; exit 1 ;;
fail) cat "$dir/$name.text" >&2; exit 1 ;;
done-fail) real "$@" > "$dir/$name.lost" 2>&1; cat "$dir/$name.text" >&2; exit 1 ;;
done-hang) real "$@" > "$dir/$name.lost" 2>&1; sleep 600; exit 1 ;;
done-silent) real "$@" > "$dir/$name.lost" 2>&1; exit 0 ;;
empty) exit 0 ;;
cut) real "$@" > "$dir/$name.whole" && head -c "$(cat "$dir/$name.text")" "$dir/$name.whole" ;;
edit) real "$@" > "$dir/$name.whole"; code=$?; sed -E -f "$dir/$name.text" "$dir/$name.whole"; exit $code ;;
*) real "$@" ;;
esac
"""


class CommandFaults:
    """Wrappers in `bin` for commands; `run_as` are words put before the real one (another user, an environment).

    `with_verbs`: of these the first argument belongs to the name, and `flux jobs` is the program `flux-jobs`.
    """

    def __init__(
        self, directory: Path, real: dict[str, Path], run_as: Sequence[str] = (), with_verbs: Sequence[str] = ()
    ) -> None:
        self.bin = directory / "bin"
        self._directory = directory
        self.bin.mkdir(parents=True)
        for name, path in real.items():
            wrapper = self.bin / name
            words = {
                "dir": shlex.quote(str(directory)),
                "name": shlex.quote(name),
                "verb": '"-${1-}"' if name in with_verbs else "",
                "real": shlex.join([*run_as, str(path)]),
            }
            text = _WRAPPER
            for key, value in words.items():
                text = text.replace(f"@{key}@", value)
            wrapper.write_text(text)
            wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    @contextmanager
    def fault(self, mode: str, *programs: str, text: str = "") -> Iterator[None]:
        """For the block, these programs (default: all) misbehave. `text`: what they say, where to cut, or sed lines."""
        chosen = programs or tuple(path.name for path in self.bin.iterdir())
        for name in chosen:
            (self._directory / f"{name}.text").write_text(f"{text}\n")
            (self._directory / f"{name}.mode").write_text(mode)
        try:
            yield
        finally:
            for name in chosen:
                (self._directory / f"{name}.mode").unlink()

    def calls(self) -> list[tuple[str, str]]:
        """(program, its LC_ALL) of each call so far."""
        path = self._directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split(" ")[0], line.partition("LC_ALL=")[2]) for line in lines]

    def last_output(self, program: str) -> str:
        """What the real program printed in the last call under the mode `cut` or `edit`."""
        return (self._directory / f"{program}.whole").read_text()
