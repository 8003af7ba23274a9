"""`packaging/reference`: the pages of docs/reference, out of the docstrings, the command's own tree and the service's
routes, with its OpenAPI document beside them.

`make docs` writes them anew; with `--check`, as in `make check`, a page that is out of date is an error. Nothing is
run but imports. Pages do not depend on the version of Python: signatures are quoted from the source.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from command import command_page
from pages import PAGES, index_page, missing_names
from service import service_page, snapshot

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "docs" / "reference"


def main() -> int:
    parser = argparse.ArgumentParser(prog="packaging/reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    check_only = parser.parse_args().check
    if missing := missing_names():
        print(f"public names that no page of packaging/reference/pages.py has: {', '.join(missing)}")
        return 1
    made = {f"{page.file}.md": page.text() for page in PAGES} | {"command.md": command_page()}
    made |= {"README.md": index_page(), "service.md": service_page(), "openapi.json": snapshot()}
    old = {path.name: path.read_text() for path in PLACE.iterdir()}
    stale = sorted(name for name in made.keys() | old.keys() if made.get(name) != old.get(name))
    if check_only:
        print(f"docs/reference is out of date, run `make docs`: {', '.join(stale)}" if stale else f"{len(made)} pages")
        return 1 if stale else 0
    PLACE.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in made:
            (PLACE / name).write_text(made[name])
        else:
            (PLACE / name).unlink()
    print(f"written: {', '.join(stale)}" if stale else "docs/reference is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
