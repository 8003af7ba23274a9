"""The Python in README and guides runs as it stands, top to bottom, against `balsam up` with a real site; so do the
commands of the quickstart's second terminal and of the guide to the command."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.live_site import BALSAM, LiveSite, live_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    with live_site(tmp_path_factory.mktemp("guides") / "home") as running:
        yield running


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_snippets_run(site: LiveSite, guide: Path) -> None:
    code = "\n\n".join(PYTHON.findall(guide.read_text())).replace("/home/me", str(site.home))
    site.run(code, name=f"guide_{guide.stem.replace('-', '_')}.py", timeout=240)


@pytest.mark.parametrize(
    ("page", "begins"),
    [("quickstart.md", "balsam-env/bin/balsam doctor"), ("guides/command.md", "balsam app create")],
    ids=["quickstart", "command"],
)
def test_commands_run(page: str, begins: str, tmp_path: Path) -> None:
    """With a site of its own, as a first user has: the numbers in the commands are those of its first Jobs."""
    [block] = [block for block in COMMANDS.findall((ROOT / "docs" / page).read_text()) if block.startswith(begins)]
    lines = [line for line in block.splitlines() if "--watch" not in line]  # which goes on until Ctrl-C
    assert len(lines) >= 5
    script = "set -e\n" + "\n".join(lines).replace("balsam-env/bin/", f"{BALSAM.parent}/")
    with live_site(tmp_path / "home") as site:
        path = {"PATH": f"{BALSAM.parent}:{site.environment['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", script],
            env={**site.environment, **path},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stdout + done.stderr
