"""`python -m balsam.server`: the service alone, for supervisors and tests. People use `balsam server up`."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from balsam.server.run import Ready, serve
from balsam.server.settings import DEFAULT_PORT, ServerSettings, SettingsError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m balsam.server", description="Run the Balsam service in the foreground."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0: any free one, see the ready line")
    parser.add_argument("--data-dir", type=Path, help="default: $BALSAM_HOME/service")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--behind-proxy", action="store_true", help="a proxy on this machine ends TLS")
    parser.add_argument("--multi-user", action="store_true", help="log nobody in by a file, not even on loopback")
    parser.add_argument(
        "--synchronous",
        choices=["FULL", "NORMAL"],
        default="FULL",
        help="NORMAL may lose the last writes at power loss",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line when the service is ready")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped; 0 after a clean stop, 2 when the service refuses to start."""
    given = _parser().parse_args(arguments)
    settings = ServerSettings(
        host=given.host,
        port=given.port,
        data_dir=given.data_dir,
        single_user=False if given.multi_user else None,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
        behind_proxy=given.behind_proxy,
        synchronous=given.synchronous,
    )
    return run_here(settings, as_json=given.json)


def run_here(settings: ServerSettings, *, as_json: bool) -> int:
    """Run the service in this terminal until stopped; one line on stdout when it is ready, its log on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)

    def ready(state: Ready) -> None:
        line = json.dumps(state.as_dict()) if as_json else f"Balsam service at {state.url}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        serve(settings, ready)
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"balsam service: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
