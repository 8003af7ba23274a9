"""Without libEnsemble, importing the executor says what to install."""

from __future__ import annotations

import subprocess
import sys


def test_without_libensemble_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['libensemble'] = None; import balsam.libensemble"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: balsam.libensemble needs libEnsemble")
    assert "pip install" in last
