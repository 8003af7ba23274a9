"""Where the launcher's process begins: `python -m balsam.launcher.entry PARTITION.json`, started by the guardian.

What takes long is done side by side: the courier is loaded, which waits for its errand and does nothing before; the
mpirun is found and tried out; and the loop's modules are loaded. So none of that is imported at the top.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from balsam.launcher.courier_link import CourierProcess, Couriers
from balsam.launcher.guardian_link import GuardianLink
from balsam.launcher.process import SpawnError


def main(path: str) -> int:
    """Returns the exit status for the guardian."""
    guardian = GuardianLink.from_environ()
    try:
        couriers = Couriers(CourierProcess())
    except SpawnError:  # the loop tries again, and says so
        couriers = Couriers()
    from balsam.launcher.engines.choice import engine_for
    from balsam.launcher.partition import Partition

    _log_to_stderr()
    partition = Partition.from_json(Path(path).read_text())
    # Behind this block there is one thread again: Jobs are started more quickly so.
    with ThreadPoolExecutor(1) as beside:
        engine = beside.submit(engine_for, partition, dict(os.environ))
        from balsam.launcher import loop
    return loop.run_partition(partition, guardian, engine.result, couriers)


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(
        format="%(asctime)s %(name)s[%(process)d]: %(message)s", level=os.environ.get("BALSAM_LOG_LEVEL", "INFO")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
