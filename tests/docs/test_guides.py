"""The Python in the guides runs as it stands, top to bottom, against `balsam up` with a real site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.live_site import LiveSite, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
GUIDES = sorted((Path(__file__).parents[2] / "docs" / "guides").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("guides") / "home") as running:
        yield running


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_snippets_run(site: LiveSite, guide: Path) -> None:
    blocks = BLOCK.findall(guide.read_text())
    site.run("\n\n".join(blocks), name=f"guide_{guide.stem.replace('-', '_')}.py", timeout=240)
