"""What `make demo` runs: service and site on this machine, the ensemble on them, and all of it stopped again.

    python examples/demo.py [--fresh] [options of cluster_energy/run_ensemble.py]

State is kept in demo-output/ so that a second run is quick; --fresh deletes it first. Exit code 0 means the ensemble is
complete and everything that was started is gone.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DEMO = PROJECT / "demo-output"
ENSEMBLE = PROJECT / "examples" / "cluster_energy" / "run_ensemble.py"
# Settings of the user's that would lead the demo to another service or site.
ELSEWHERE = ("BALSAM_URL", "BALSAM_TOKEN", "BALSAM_CLIENT_PATH", "BALSAM_SITE_PATH")
READY_SEC = 90
ENSEMBLE_STOP_SEC = 30  # for its tasks and its allocation to end
STOP_SEC = 150  # longer than `balsam up` takes for its last resort: killed earlier, it would leave processes behind


def balsam_command() -> str:
    """The `balsam` of this Python's environment."""
    own = Path(sys.executable).parent / "balsam"
    found = str(own) if own.exists() else shutil.which("balsam")
    if found is None:
        raise SystemExit("the command `balsam` is not installed; run: make demo (or: pip install '.[demo]')")
    return found


def start_up(environment: dict[str, str]) -> tuple[subprocess.Popen, dict]:
    """Start service and site; returns when both are ready, with what they said."""
    with (DEMO / "balsam-up.log").open("w") as log:
        up = subprocess.Popen(
            [balsam_command(), "up", "--json", "--port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this script only, which stops the rest in order
        )
    ready, _, _ = select.select([up.stdout], [], [], READY_SEC)
    line = up.stdout.readline() if ready else ""
    try:
        return up, json.loads(line)
    except ValueError:
        stop(up)
        raise SystemExit(f"`balsam up` did not get ready; its log: {DEMO / 'balsam-up.log'}") from None


def stop_ensemble(ensemble: subprocess.Popen) -> None:
    """End libEnsemble's manager and its workers, which are a process group of their own."""
    for number, patience_sec in ((signal.SIGTERM, ENSEMBLE_STOP_SEC), (signal.SIGKILL, 3)):
        try:
            os.killpg(ensemble.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience_sec
        while ensemble.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)


def stop(process: subprocess.Popen) -> bool:
    """SIGTERM, then wait; True when it ended well."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SEC) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def main() -> int:
    arguments = sys.argv[1:]
    if "--fresh" in arguments:
        arguments.remove("--fresh")
        shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment["BALSAM_HOME"] = str(DEMO / "home")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    up, said = start_up(environment)
    ensemble = None
    try:
        print(f"Service at {said['url']}, site {said['site']['name']} in {said['site']['path']}", flush=True)
        words = [sys.executable, str(ENSEMBLE), "--site", said["site"]["name"], "--out", str(DEMO / "out"), *arguments]
        ensemble = subprocess.Popen(words, env=environment, start_new_session=True)
        good = ensemble.wait() == 0
    except KeyboardInterrupt:
        good = False
        print("Interrupted; stopping what was started", flush=True)
    finally:
        if ensemble is not None:
            stop_ensemble(ensemble)
        stopped = stop(up)
    print(f"Log:           {DEMO / 'balsam-up.log'}")
    print(f"{'Done' if good else 'FAILED'} in {time.monotonic() - begin:.1f} s; service and site are stopped.")
    if not stopped:
        print(f"`balsam up` did not stop well; see {DEMO / 'balsam-up.log'}", file=sys.stderr)
    return 0 if good and stopped else 1


if __name__ == "__main__":
    sys.exit(main())
