"""docs/guides/add-your-machine.md taken at its word, by a stranger on a real Slurm."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.live_cluster import LiveCluster, eventually
from tests.testbed.slurm_bed import SlurmBed

pytestmark = pytest.mark.timeout(300)

PAGE = Path(__file__).parents[2] / "docs/guides/add-your-machine.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def stranger(slurm: SlurmBed) -> Iterator[LiveCluster]:
    cluster = LiveCluster(slurm, slurm.user.directory())
    cluster.start_service()
    try:
        yield cluster
    finally:
        cluster.balsam("site", "stop", str(cluster.root / "my-site"))
        cluster.stop()
        slurm.end_everything()


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(PAGE.read_text()) if found == language]


def test_the_steps_of_the_page_lead_to_an_allocation(stranger: LiveCluster) -> None:
    commands = [shlex.split(line)[1:] for text in blocks("") for line in text.splitlines()]
    init, start, submit, listing = commands
    site = stranger.root / "my-site"
    stranger.user.run(str(stranger.user.venv / "bin/balsam"), *init, cwd=stranger.root, env=stranger.environment)
    settings = site / "settings.yml"
    for section in blocks("yaml"):
        key = section.partition(":")[0]
        text, count = re.subn(rf"^{key}:.*?(\n\n|\Z)", section + "\n", settings.read_text(), flags=re.M | re.S)
        assert count == 1, key
        settings.write_text(text)
    (template,) = blocks("bash")
    (site / "job-template.sh").write_text(template)
    for words in (start, submit):
        stranger.user.run(str(stranger.user.venv / "bin/balsam"), *words, cwd=stranger.root, env=stranger.environment)
    eventually(lambda: "running" in stranger.balsam(*listing), "the allocation does not run", 90)
    (number,) = stranger.bed.user.run("squeue", "-h", "--me", "-o", "%i").split()
    job = stranger.bed.do("--oneliner", "show", "job", number)
    for fact in ("Partition=batch", "Account=proj1", "TimeLimit=00:10:00", "TresPerNode=gres:gpu:2"):
        assert fact in job
