"""``python -m diffsight`` is the command line."""

import sys

from diffsight.cli import main

sys.exit(main())
