"""`python -m foveate.pipeline.cli`, for machines where the `foveate` script is not on the path."""

import sys

from .main import main

sys.exit(main())
