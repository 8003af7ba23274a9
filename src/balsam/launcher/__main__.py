"""`python -m balsam.launcher`: see `main`."""

import sys

from balsam.launcher.main import main

sys.exit(main())
