"""What the page on troubles quotes is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "troubleshooting.md"
QUOTED = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
JOINT = re.compile(r'"\s*\n\s*f?"')  # a text that goes on in the next line of the source


def test_every_quoted_message_is_in_the_program() -> None:
    source = "\n".join(path.read_text() for path in sorted((ROOT / "src" / "balsam").rglob("*.py")))
    quoted = QUOTED.findall(PAGE.read_text())
    assert len(quoted) > 20
    joined = JOINT.sub("", source)
    assert [text for text in quoted if text not in joined] == []
