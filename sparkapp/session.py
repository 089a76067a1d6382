"""Creates the Spark session: locked SQL configuration, encryption, no logs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.spark.network import NETWORK_CONF, SECRET_FILE
from cleanroom.sql import locked_spark_conf, locked_sql_conf
from sparkapp.jvm import archive_options

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOCAL_CORES_VARIABLE = "CLEANROOM_LOCAL_CORES"
"""Number of cores of a local Spark, without spark-submit. By default all cores."""

ENCRYPTION_CONF = {
    # Encrypts spills, shuffle files and cached rows on disk. Rows pass from Python to the JVM through a socket instead of a file.
    # Spark makes the key anew for each run. Executors get it from the driver, over the authenticated connection.
    "spark.io.encryption.enabled": "true",
    "spark.io.encryption.keySizeBits": "256",
}
LOGGING_CONF = {
    # Spark's logs quote rows (a failed cast shows its value), and a cluster operator can read pod logs.
    "spark.log.level": "OFF",
    "spark.executor.syncLogLevel.enabled": "true",
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # Plans quote literals of the query. Spark writes a plan again after each stage, for a web page that no pod serves.
    "spark.sql.ui.explainMode": "simple",
    "spark.sql.maxPlanStringLength": "100",
}
PYTHON_CONF = {
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.python.worker.reuse": "true",
    "spark.python.daemon.module": "sparkapp.daemon",
}
PLANNING_CONF = {
    "spark.sql.adaptive.enabled": "true",
    # Spark 4.3 makes an invalid plan of a UNION whose rows the gate makes unique for a join: this rule puts the key into it twice, and
    # RemoveRedundantAliases makes both the same column. Unread columns are still pruned.
    "spark.sql.optimizer.excludedRules": "org.apache.spark.sql.catalyst.optimizer.PushProjectionThroughUnion",
}
READING_CONF = {
    # Sealed objects that Spark's own readers read; see sparkapp/object_server.py.
    "spark.hadoop.fs.cleanroom.impl": "cleanroom.SealedFiles",
}
CLUSTER_CONF = {
    **NETWORK_CONF,
    # Executors attest themselves before they join. A plan made without them would have fewer partitions than they have cores.
    "spark.scheduler.maxRegisteredResourcesWaitingTime": "300s",
    "spark.dynamicAllocation.enabled": "false",
}
JAVA_OPTIONS = "spark.driver.extraJavaOptions"
LOCAL_CONF = {
    # A single short-lived process on few cores, without network access.
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    # One compiler starts fast, but has 48 MB for its code by default. Long queries fill them, and dropped code is compiled again.
    JAVA_OPTIONS: "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=160m",
    "spark.shuffle.compress": "false",
    # Each sort and each aggregation takes at least a page. By default it has 16 MB, which fill the heap although few rows are there.
    "spark.buffer.pageSize": "1m",
    "spark.sql.codegen.wholeStage": "true",
}


def on_cluster() -> bool:
    """Return whether spark-submit started this process, with the cluster's master and executors in separate pods."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def open_session(app_name: str, *, network_secret: Path | None = None) -> SparkSession:
    """Return a Spark session with the locked SQL configuration.

    Under spark-submit it uses the cluster's master and resources. Otherwise this process runs a local Spark without
    network access.

    Args:
        app_name: The application's name.
        network_secret: The file with the run's network secret (:func:`sparkapp.launch.network_secret_file`),
            required under spark-submit.

    Raises:
        PreconditionFailed: ``NetworkSecretMissing``.
    """
    if on_cluster() and network_secret is None:
        raise PreconditionFailed(
            "NetworkSecretMissing", "Spark: without a network secret, driver and executors cannot authenticate each other."
        )
    # Python workers must use this interpreter and these modules, not the python3 of PATH.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    root = str(Path(__file__).resolve().parent.parent)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])

    from pyspark import SparkConf
    from pyspark.sql import SparkSession

    conf = SparkConf()
    if not on_cluster():
        cores = int(os.environ.get(LOCAL_CORES_VARIABLE) or os.cpu_count() or 1)
        conf.setMaster(f"local[{cores}]").set("spark.sql.shuffle.partitions", str(max(2, cores)))
        for name, value in LOCAL_CONF.items():
            conf.set(name, value)
        conf.set(JAVA_OPTIONS, " ".join([LOCAL_CONF[JAVA_OPTIONS], *archive_options()]))
    else:
        for name, value in {**CLUSTER_CONF, SECRET_FILE: str(network_secret)}.items():
            conf.set(name, value)
    for name, value in {**PYTHON_CONF, **PLANNING_CONF, **READING_CONF, **locked_spark_conf(), **ENCRYPTION_CONF, **LOGGING_CONF}.items():
        conf.set(name, value)
    return SparkSession.builder.config(conf=conf).appName(app_name).getOrCreate()


def require_locked(spark: SparkSession) -> None:
    """Verify that the locked SQL configuration is unchanged.

    Raises:
        Refused: ``SparkConfigurationChanged``.
    """
    for name, value in locked_sql_conf().items():
        actual = spark.conf.get(name, None)
        if actual != value:
            raise Refused("SparkConfigurationChanged", f"Spark: {name} is {actual!r}; the query gate relies on {value!r}.")
