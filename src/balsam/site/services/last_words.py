"""What a batch script that failed printed last: why it failed is often told only there.

Called as an allocation's end is noted, for people who can't see the Site's files. A bounded part is read, of what may
be any file by then; control characters are left out.
"""

from pathlib import Path
from typing import Any

from balsam.launcher.workdir import end_of_file

MAX_LINES = 5
MAX_LINE_CHARS = 300
_SIZE_BYTES = 4096


def last_words(output: Path) -> dict[str, Any]:
    """Facts for `status_info`: the file, and its last lines; none when it is not there or empty."""
    data = end_of_file(output, _SIZE_BYTES)
    if not data:
        return {}
    lines = (_printable(line) for line in data.decode(errors="replace").splitlines())
    said = [line for line in lines if line][-MAX_LINES:]
    return {"output": str(output), "output_tail": "\n".join(said)} if said else {}


def _printable(line: str) -> str:
    """
    >>> _printable("\\x1b[31mno such module  ")
    '[31mno such module'
    """
    return "".join(char for char in line.expandtabs() if char.isprintable()).rstrip()[:MAX_LINE_CHARS]
