"""`python -m balsam.site`: see `run`."""

import sys

from balsam.site.run import main

sys.exit(main())
