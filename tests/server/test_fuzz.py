"""The whole API against requests made from its own OpenAPI document: schemathesis, every phase.

Bounded here to a couple of minutes by the number of examples; `make fuzz EXAMPLES=5000` runs as long as one likes. All
checks are on. What doesn't fit the document is refused, everywhere; what fits it is taken, but for the operations that
schemathesis.toml lists with the reason why a schema can't say all that they ask.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.world import furnish, make_user, ok
from tests.services import running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

HERE = Path(__file__).parent
EXAMPLES = os.environ.get("BALSAM_FUZZ_EXAMPLES", "3")
# Streams never end, and these end what the run needs: its token, its Site, its account.
LEFT_OUT = ("site_stream", "session_stream", "job_stream", "logout", "delete_site", "change_user", "revoke_token")


def test_every_operation_keeps_to_the_document(tmp_path: Path, figure: Callable[[str], None]) -> None:
    with running_service(tmp_path / "home", options=["--read-limit-sec", "2"]) as service:
        furnish(service, make_user(service, "ann"))
        with service.client("") as nobody:
            ok(nobody.get("/openapi.json"))  # it is made when it is first asked for, and the tool has little patience
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")]
        command += ["run", f"{service.url}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {service.token}", "--header", "Balsam-Wire: 1"]
        command += ["--max-examples", EXAMPLES, "--seed", os.environ.get("BALSAM_FUZZ_SEED", "1"), "--no-color"]
        command += ["--generation-database", "none", "--request-timeout", "30", "--suppress-health-check", "all"]
        for operation in LEFT_OUT:
            command += ["--exclude-operation-id", operation]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "fuzz_hooks.py")}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
        assert "Traceback" not in service.log, service.log[-5_000:]
        with service.client() as client:
            assert client.get("/readyz").status_code == 200
    for line in re.findall(r"^.*(?:Test cases|API Operations|generated).*$", done.stdout, re.MULTILINE):
        figure(line.strip())
