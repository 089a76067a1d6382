"""The daemon that Spark forks its Python workers from, with what every worker needs imported once, before the first fork.

Set as ``spark.python.daemon.module``. Nothing is opened or asked here: identities and keys are made in the forked workers.
"""

import logging

import pandas  # type: ignore[import-untyped]
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
import pyspark.worker
from pyspark.daemon import manager

import sparkapp.identity
import sparkapp.output
import sparkapp.views

PRELOADED = (pandas, pyarrow.csv, pyarrow.json, pyarrow.parquet, pyspark.worker, sparkapp.identity, sparkapp.output, sparkapp.views)

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # a worker's log is the operator's to read
    manager()
