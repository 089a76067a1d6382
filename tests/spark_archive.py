"""Writes a class data archive of the classes that Spark loads: ``python -m tests.spark_archive FILE``.

With the archive (``make test`` uses it), Java maps classes instead of parsing and verifying them, and Spark starts in 8 s of processor time
instead of 13 s. The tests start Spark about thirty times. Java ignores an archive of another Java version or of other jars.
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
    """Run the SQL features that most tests use, then let Java write ``file``."""
    # Java would print a line for every class that it omits (signed jars).
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
    java.stdin.close()  # Java exits at the end of its standard input
    java.wait(120)
    if not file.exists():
        print("note: this Java did not write a class archive; the tests take a minute longer.", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
