"""The whole API against requests made from its own OpenAPI document: schemathesis, every phase.

Bounded here to a couple of minutes by the number of examples; `make fuzz EXAMPLES=5000` runs as long as one likes. Two
checks are left out: a schema can't say all that a use case asks of its input (a template, a look-up in JSON), so what
fits it may be refused; and "1" is taken for 1, in bodies as in query strings.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.world import furnish, make_user
from tests.services import running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

EXAMPLES = os.environ.get("BALSAM_FUZZ_EXAMPLES", "3")
# Streams never end, and these end what the run needs: its token, its Site, its account.
LEFT_OUT = ("site_stream", "session_stream", "job_stream", "logout", "delete_site", "change_user", "revoke_token")


def test_every_operation_keeps_to_the_document(tmp_path: Path) -> None:
    with running_service(tmp_path / "home", options=["--read-limit-sec", "2"]) as service:
        furnish(service, make_user(service, "ann"))
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {service.token}", "--header", "Balsam-Wire: 1"]
        command += ["--max-examples", EXAMPLES, "--seed", os.environ.get("BALSAM_FUZZ_SEED", "1"), "--no-color"]
        command += ["--exclude-checks", "positive_data_acceptance,negative_data_rejection"]
        command += ["--generation-database", "none", "--request-timeout", "30", "--suppress-health-check", "all"]
        for operation in LEFT_OUT:
            command += ["--exclude-operation-id", operation]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
        assert "Traceback" not in service.log, service.log[-5_000:]
        with service.client() as client:
            assert client.get("/readyz").status_code == 200
