"""Java's archive of the classes that Spark loads: ``python -m tests.spark_archive FILE``.

A Java that is given it (``make test`` does) starts Spark in 8 seconds of processor time instead of 13: classes are mapped, not parsed and
verified again. The tests start Spark some thirty times. Where it does not fit (another Java, other jars), Java does without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sparkapp import session

SQL = """
    SELECT b.name AS name, COUNT(DISTINCT a.id) AS ids, AVG(a.value) AS mean, MAX(CAST(a.day AS DATE)) AS last
    FROM a JOIN b ON a.key = b.key WHERE a.value > 0.5 AND b.name LIKE 'n%' GROUP BY b.name HAVING COUNT(*) > 1 ORDER BY name
"""


def main(file: Path) -> None:
    """Run what most of Spark's tests run, then have Java write ``file``."""
    # What it leaves out (signed jars) it would say line by line.
    options = f"-XX:ArchiveClassesAtExit={file} -Xlog:disable -Xlog:all=error:stderr"
    session.LOCAL_CONF = {
        **session.LOCAL_CONF,
        "spark.driver.extraJavaOptions": f"{session.LOCAL_CONF['spark.driver.extraJavaOptions']} {options}",
    }
    spark = session.open_session("archive")
    rows = [(n, n % 7, n / 3, f"2013-01-{n % 28 + 1:02}") for n in range(500)]
    spark.createDataFrame(rows, "id long, key int, value double, day string").createOrReplaceTempView("a")
    spark.createDataFrame([(n, f"n{n}") for n in range(7)], "key int, name string").createOrReplaceTempView("b")
    spark.sql(SQL).mapInArrow(lambda batches: batches, "name string, ids long, mean double, last date").collect()
    assert len(spark.sql(SQL).toArrow()) == 7
    java = spark.sparkContext._gateway.proc
    spark.stop()
    java.stdin.close()  # the end of its standard input ends it
    java.wait(120)
    if not file.exists():
        print("note: this Java keeps no archive of Spark's classes; the tests take a minute longer.", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
