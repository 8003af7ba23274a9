"""`make docs`: the pages are true where a program can tell.

Every relative link leads to a file (and heading) of the tree, every `make VERB` is a verb of the Makefile, and every
`balsam WORD ...` in their commands is a command of the program. Prints each fault with its line; exits with 1 if any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
MAKE = re.compile(r"(?:^|[;&|`$] *)make ([a-z]+)")
NOT_HERE = "| not |"  # a row of docs/compatibility.md about something that is not there
BALSAM = re.compile(r"(?:^|[;&|$] *)balsam((?: [a-z][a-z-]*)+)")


def main() -> int:
    faults = [f"{page.relative_to(ROOT)}:{number}: {text}" for page in PAGES for number, text in check_page(page)]
    print("\n".join(faults) if faults else f"{len(PAGES)} pages checked")
    return 1 if faults else 0


def check_page(page: Path) -> Iterator[tuple[int, str]]:
    in_block = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_block = not in_block
            continue
        if not in_block:
            yield from ((number, fault) for fault in check_links(page, line))
        if NOT_HERE in line:
            continue
        for command in [line.strip().removeprefix("$ ")] if in_block else CODE.findall(line):
            yield from ((number, fault) for fault in check_command(command))


def check_links(page: Path, line: str) -> Iterator[str]:
    for target in LINK.findall(line):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = unquote(target).partition("#")
        file = page.parent / name if name else page
        if not file.exists():
            yield f"the link leads nowhere: {target}"
        elif heading and heading not in headings(file):
            yield f"no such heading: {target}"


def headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def check_command(command: str) -> Iterator[str]:
    for verb in MAKE.findall(command):
        if not re.search(rf"^{verb}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
            yield f"the Makefile has no verb `{verb}`"
    for words in BALSAM.findall(command):
        if fault := unknown_command(tuple(words.split())):
            yield fault


def unknown_command(words: tuple[str, ...]) -> str | None:
    """Walk the program's own command tree as far as it has groups; what follows a command are its arguments."""
    import click

    from balsam.cli.main import cli as program

    command: click.Command | None = program
    context = click.Context(program)
    for word in words:
        if not isinstance(command, click.Group):
            return None
        command = command.get_command(context, word)
        if command is None:
            return f"the program has no command `balsam {' '.join(words)}`"
    return None


if __name__ == "__main__":
    sys.exit(main())
