"""Run the command line with ``python -m diffsight``."""

import sys

from diffsight.cli import main

sys.exit(main())
