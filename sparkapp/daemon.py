"""The daemon from which Spark forks its Python workers (``spark.python.daemon.module``).

It imports the modules that every worker needs once, before the first fork. It opens nothing and calls nothing: each
forked worker creates its own identity and reads its own keys.
"""

import logging

import pandas
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
    logging.disable(logging.CRITICAL)  # a cluster operator can read the workers' logs
    manager()
