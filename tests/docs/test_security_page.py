"""docs/security.md answers each requirement of OWASP ASVS 5.0.0, levels 1 and 2, once, and names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
# How many requirements of these levels each section has; they are the first ones of it. V17 is about WebRTC.
SECTIONS = {
    1: {1: 2, 2: 9, 3: 11, 4: 3, 5: 2},
    2: {1: 3, 2: 3, 3: 4, 4: 1},
    3: {2: 2, 3: 4, 4: 6, 5: 5, 7: 2},
    4: {1: 3, 2: 1, 3: 2, 4: 4},
    5: {1: 1, 2: 3, 3: 2, 4: 3},
    6: {1: 3, 2: 12, 3: 4, 4: 4, 5: 5, 6: 3, 8: 4},
    7: {1: 3, 2: 4, 3: 2, 4: 5, 5: 2, 6: 2},
    8: {1: 2, 2: 3, 3: 1, 4: 1},
    9: {1: 3, 2: 4},
    10: {1: 2, 2: 2, 3: 4, 4: 11, 5: 5, 6: 2, 7: 3},
    11: {1: 2, 2: 3, 3: 3, 4: 4, 5: 1, 6: 1},
    12: {1: 3, 2: 2, 3: 4},
    13: {1: 1, 2: 5, 3: 2, 4: 5},
    14: {1: 2, 2: 4, 3: 3},
    15: {1: 3, 2: 3, 3: 7},
    16: {1: 1, 2: 5, 3: 4, 4: 3, 5: 3},
}


def test_each_requirement_is_answered_once() -> None:
    wanted = [
        f"{chapter}.{section}.{number}"
        for chapter, sections in SECTIONS.items()
        for section, count in sections.items()
        for number in range(1, count + 1)
    ]
    rows = re.findall(r"^\| (\d+\.\d+\.\d+) \| (met|gap|deployment|n/a) \| (\S.*) \|$", PAGE, re.MULTILINE)
    assert [number for number, _, _ in rows] == wanted


def test_the_tests_that_it_names_are_there() -> None:
    named = re.findall(r"`((?:tests|balsam)/[\w/.]+)`", PAGE.partition("## OWASP ASVS")[0])
    assert len(named) > 15
    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / "src" / name).exists())]
    assert not missing
