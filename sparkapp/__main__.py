"""The main application file of the SparkApplication (``local:///.../sparkapp/__main__.py``); also ``python -m sparkapp``."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # spark-submit runs this as a file, without the package's parent on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sparkapp.entry import main

if __name__ == "__main__":
    sys.exit(main())
