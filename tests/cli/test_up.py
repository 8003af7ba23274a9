"""What `balsam up` remembers of its last start."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from balsam.cli import up
from balsam.client.credentials import CredentialsError


def test_the_port_is_not_forgotten_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F10: every client looks for the service there."""
    monkeypatch.setenv("BALSAM_HOME", str(tmp_path))
    up._remember(port=5000, site="/site")

    def is_full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", is_full)
    with pytest.raises(CredentialsError, match=r"up\.json can't be written: No space left"):
        up._remember(port=6000)
    assert up._remembered() == {"port": 5000, "site": "/site"}
    assert [path.name for path in tmp_path.iterdir()] == ["up.json"]
