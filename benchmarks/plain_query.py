"""Runs one query on plaintext files with Spark alone; ``spark-submit`` runs it for :mod:`bench_read`.

Usage: ``plain_query.py csv|parquet FOLDER RESULT SCHEMA SQL``.
"""

import sys

from pyspark.sql import SparkSession


def main(format_: str, folder: str, result: str, schema: str, sql: str) -> None:
    """Read the files of ``folder`` as the view ``flights``, run ``sql``, and write the result as one Parquet file."""
    spark = SparkSession.builder.appName("plain-query").getOrCreate()
    reader = spark.read.schema(schema) if format_ == "csv" else spark.read
    reader.load(folder, format=format_).createOrReplaceTempView("flights")
    spark.sql(sql).coalesce(1).write.mode("overwrite").parquet(result)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
