"""docs/architecture.md: what it says of where things are is so."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "balsam"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def modules(folder: str) -> set[str]:
    return {path.stem for path in (SOURCE / folder).glob("*.py")} - {"__init__", "__main__"}


def test_every_module_of_the_launcher_has_its_place_and_only_one() -> None:
    named = re.findall(r"`(\w+)`", section("Inside of the launcher").partition("|---|---|")[2])
    assert sorted(named) == sorted(modules("launcher"))


def test_every_file_that_is_named_is_there() -> None:
    rooms = "|".join(sorted(path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"))
    for name in re.findall(rf"`((?:{rooms})/[\w/{{}},.]*)`", PAGE):
        before, _, choice = name.partition("{")
        chosen, _, after = choice.partition("}")
        for one in chosen.split(","):
            assert (SOURCE / f"{before}{one}{after}").exists(), name


def test_processes_are_started_where_the_page_says() -> None:
    starts = re.compile(r"import subprocess|posix_spawn|os\.fork\(|os\.execv")
    said = " ".join(section("Layers").split())
    for path in SOURCE.rglob("*.py"):
        room, name = path.relative_to(SOURCE).parts[0], path.stem
        if not starts.search(path.read_text(encoding="utf-8")) or room == "testing" or f"in `{room}` (" in said:
            continue
        assert re.search(rf"`{room}/(?:\{{[\w,]*)?\b{name}\b[\w,]*\}}?\.py`", said), path
