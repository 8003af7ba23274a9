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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server.world import furnish, make_user, ok
from tests.services import RunningService, running_service
from tests.testbed.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

HERE = Path(__file__).parent
EXAMPLES = os.environ.get("BALSAM_FUZZ_EXAMPLES", "3")
# Streams never end, and these end what the run needs: its token, its Site, its account.
LEFT_OUT = ("site_stream", "session_stream", "job_stream", "logout", "delete_site", "change_user", "revoke_token")


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_every_operation_keeps_to_the_document(
    database: str, tmp_path: Path, request: pytest.FixtureRequest, figure: Callable[[str], None]
) -> None:
    """As the local user, who may do everything that is a person's; then what is a Site's as a Site."""
    with ExitStack() as stack:
        env = {}
        if database == "postgres":
            server: PostgresServer = request.getfixturevalue("postgres")
            env = {"BALSAM_DATABASE": stack.enter_context(server.migrated()).text}
        service = stack.enter_context(running_service(tmp_path / "home", options=["--read-limit-sec", "2"], env=env))
        ann = furnish(service, make_user(service, "ann"))
        with service.client("") as nobody:
            document = ok(nobody.get("/openapi.json"))  # the tool has little patience with what is made when asked for
        kinds = {
            one["operationId"]: one["x-balsam-kinds"] for path in document["paths"].values() for one in path.values()
        }
        of_sites = [name for name, of in kinds.items() if "site" in of and "user" not in of and name not in LEFT_OUT]
        assert len(of_sites) >= 5
        counted = fuzz(service, tmp_path, service.token, "exclude", LEFT_OUT)
        counted += fuzz(service, tmp_path, ann.site_token, "include", of_sites)
        assert "Traceback" not in service.log, service.log[-5_000:]
        with service.client() as client:
            assert client.get("/readyz").status_code == 200
    for line in counted:
        figure(f"{database}: {line}")


def fuzz(service: RunningService, where: Path, token: str, choice: str, operations: Sequence[str]) -> list[str]:
    """Fails with what the tool says, unless all is well; what it counted."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")]
    command += ["run", f"{service.url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {token}", "--header", "Balsam-Wire: 1"]
    command += ["--max-examples", EXAMPLES, "--seed", os.environ.get("BALSAM_FUZZ_SEED", "1"), "--no-color"]
    command += ["--generation-database", "none", "--request-timeout", "30", "--suppress-health-check", "all"]
    for operation in operations:
        command += [f"--{choice}-operation-id", operation]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "fuzz_hooks.py")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=where, env=environment)
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
    found = re.findall(r"^.*(?:Test cases|API Operations|generated).*$", done.stdout, re.MULTILINE)
    return [line.strip() for line in found]
