"""Where the examples keep their files: the first argument, or ./examples-run."""

import sys
from pathlib import Path

HERE = Path(sys.argv[1] if len(sys.argv) > 1 else "examples-run")
