"""What starting costs: `import balsam.api`, `balsam --help`."""

import os
import subprocess
import sys
from pathlib import Path

from bench import machine
from bench.result import Goal


def measure() -> list[Goal]:
    # As installed: with bytecode of what was imported before, which the first of the runs writes.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run(*words: str) -> float:
        return machine.median_ms(
            lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment), 9
        )

    nothing = run(sys.executable, "-c", "pass")
    imported = run(sys.executable, "-c", "import balsam.api")
    named = run(sys.executable, "-c", "from balsam.api import ApplicationDefinition, BatchJob, EventLog, Job, Site")
    helped = run(str(Path(sys.executable).parent / "balsam"), "--help")
    note = f"python -c pass: {nothing:.0f} ms"
    return [
        Goal("start", "import balsam.api", imported, "ms", 300, 200, True, note),
        Goal("start", "from balsam.api import the models", named, "ms", 300, 200, True, note),
        Goal("start", "balsam --help", helped, "ms", 150, 120, True, note),
    ]
