"""Writes the class data archive with which a run's JVM starts faster: ``python -m sparkapp.jvm_archive``.

With the archive, Java maps Spark's classes instead of parsing and verifying them. It depends on the JVM, Spark's jars and the list of
classes, ``sparkapp/jvm/classes.txt.gz``. Java ignores an archive of another JVM or other jars (:data:`sparkapp.jvm.QUIET`). Java 17 does
not write the same bytes twice, so images contain an archive only on request (``deploy/Containerfile``).

``python -m sparkapp.jvm_archive --record`` writes the list again: the classes that the features of SQL in most queries load.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sparkapp import session
from sparkapp.jvm import CLASSES, archive, class_path, java, spark_home
from sparkapp.plan_check import plan_text

SQL = """
    SELECT b.name AS name, COUNT(DISTINCT a.id) AS ids, AVG(a.value) AS mean, MAX(CAST(a.day AS DATE)) AS last
    FROM a JOIN b ON a.key = b.key WHERE a.value > 0.5 AND b.name LIKE 'n%' GROUP BY b.name HAVING COUNT(*) > 1 ORDER BY name
"""


def record(file: Path) -> None:
    """Run the SQL features that most queries use, and list the classes that the JVM loads in ``file``."""
    options = f"{session.LOCAL_CONF[session.JAVA_OPTIONS]} -Xshare:off -XX:DumpLoadedClassList={file}"
    session.LOCAL_CONF = {**session.LOCAL_CONF, session.JAVA_OPTIONS: options}
    spark = session.open_session("archive")
    rows = [(n, n % 7, n / 3, f"2013-01-{n % 28 + 1:02}") for n in range(500)]
    with tempfile.TemporaryDirectory() as folder:
        spark.createDataFrame(rows, "id long, key int, value double, day string").write.mode("overwrite").parquet(folder)
        spark.read.schema("id long, key int, value double, day string").parquet(folder).createOrReplaceTempView("a")
        spark.createDataFrame([(n, f"n{n}") for n in range(7)], "key int, name string").createOrReplaceTempView("b")
        spark.sql(SQL).mapInArrow(lambda batches: batches, "name string, ids long, mean double, last date").collect()
        assert len(spark.sql(SQL).toArrow()) == 7
        plan_text(spark.sql(SQL))
        spark.sql(SQL).persist().count()
    gateway: Any = spark.sparkContext._gateway
    java_process = gateway.proc
    spark.stop()
    java_process.stdin.close()  # Java exits at the end of its standard input
    java_process.wait(120)


def dump(classes: str, file: Path) -> None:
    """Write the archive of ``classes``, one in a line, to ``file``."""
    new = file.with_suffix(".new")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write(classes)
        listed.flush()
        command = [java(), "-Xshare:dump", "-XX:+UseSerialGC", f"-XX:SharedClassListFile={listed.name}", f"-XX:SharedArchiveFile={new}"]
        subprocess.run([*command, "-Xlog:disable", "-cp", class_path(spark_home())], check=True, timeout=1800)  # noqa: S603 - our own program
    new.replace(file)


def main() -> int:
    """Write the archive, or with ``--record`` the list of classes."""
    if sys.argv[1:] == ["--record"]:
        with tempfile.TemporaryDirectory() as folder:
            record(Path(folder) / "classes")
            lines = sorted(set((Path(folder) / "classes").read_text("utf-8").splitlines()))
        CLASSES.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines if "source:" not in line).encode(), mtime=0))
        print(f"{len(lines)} classes")
        return 0
    dump(gzip.decompress(CLASSES.read_bytes()).decode(), archive())
    return 0


if __name__ == "__main__":
    sys.exit(main())
