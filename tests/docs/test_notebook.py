"""The example notebook runs as it stands, from top to bottom, against `balsam up` with a real site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.system.live_site import LiveSite, live_site

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveSite]:
    with live_site(tmp_path / "balsam") as live:
        yield live


def test_the_notebook_runs(live: LiveSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALSAM_HOME", str(live.home))
    monkeypatch.setenv("IPYTHONDIR", str(live.home / "ipython"))
    monkeypatch.setenv("MPLCONFIGDIR", str(live.home / "matplotlib"))
    notebook = nbformat.read(ROOT / "examples" / "notebooks" / "tour.ipynb", as_version=4)
    assert all(cell.outputs == [] for cell in notebook.cells if cell.cell_type == "code"), "it is kept without outputs"
    NotebookClient(notebook, timeout=180, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.output_type for output in shown if output.output_type == "error"] == []
    tables = [output.data["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert any("<td>tour/9</td>" in table for table in tables), "a query is a table"
    assert any("image/png" in output.get("data", {}) for output in shown), "the curves"
    assert "'4\\n'" in [output.data.get("text/plain") for output in shown if "data" in output], "the words, counted"
