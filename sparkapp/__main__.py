"""``python -m sparkapp``, and the main application file of the SparkApplication (``local:///…/sparkapp/__main__.py``)."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file by spark-submit: the package's parent is not on the path then
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sparkapp.entry import main

if __name__ == "__main__":
    sys.exit(main())
