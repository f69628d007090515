"""`python -m PerfusionCBVLib` is the command line."""

import sys

from PerfusionCBVLib.cli import main

sys.exit(main())
