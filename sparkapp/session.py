"""The Spark session: locked, quiet and lean."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.spark.network import NETWORK_CONF, SECRET_FILE
from cleanroom.sql.sparkconf import locked_spark_conf, locked_sql_conf

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOCAL_CORES_VARIABLE = "CLEANROOM_LOCAL_CORES"
"""Cores of a driver that was started without spark-submit and therefore executes everything itself; all when absent."""

ENCRYPTION_CONF = {
    # Spills and shuffle files are encrypted, and rows go from Python to the JVM through a socket instead of a file.
    "spark.io.encryption.enabled": "true",
}
LOGGING_CONF = {
    # Spark's logs quote rows (a failed cast shows its value) and pod logs are the operator's to read.
    "spark.log.level": "OFF",
    "spark.executor.syncLogLevel.enabled": "true",
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.eventLog.enabled": "false",
}
PYTHON_CONF = {
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.python.worker.reuse": "true",
    "spark.python.daemon.module": "sparkapp.daemon",
    "spark.sql.adaptive.enabled": "true",
}
CLUSTER_CONF = {
    **NETWORK_CONF,
    # Executors attest themselves before they join; a plan that is made without them has fewer parts than they have cores.
    "spark.scheduler.maxRegisteredResourcesWaitingTime": "300s",
}
LOCAL_CONF = {
    # One process: short-lived, on few cores, talking to nobody.
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto",
    "spark.shuffle.compress": "false",
    "spark.sql.codegen.wholeStage": "true",
}


def on_cluster() -> bool:
    """Whether spark-submit has started this process: with the cluster's master, and executors in pods of their own."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def open_session(app_name: str, *, network_secret: Path | None = None) -> SparkSession:
    """A Spark session with the locked SQL configuration.

    Under spark-submit the cluster's master and resources are used, and ``network_secret`` is the file by which executors are known
    (:func:`sparkapp.launch.network_secret_file`). Otherwise this process is a local Spark, which talks to nobody.

    Raises:
        PreconditionFailed: ``NetworkSecretMissing``.
    """
    if on_cluster() and network_secret is None:
        raise PreconditionFailed("NetworkSecretMissing", "Spark: executors would not be known to the driver, nor it to them.")
    # Python workers must be this very interpreter with these very modules, not the python3 of PATH.
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
    else:
        for name, value in {**CLUSTER_CONF, SECRET_FILE: str(network_secret)}.items():
            conf.set(name, value)
    for name, value in {**PYTHON_CONF, **locked_spark_conf(), **ENCRYPTION_CONF, **LOGGING_CONF}.items():
        conf.set(name, value)
    return SparkSession.builder.config(conf=conf).appName(app_name).getOrCreate()


def require_locked(spark: SparkSession) -> None:
    """Check that nothing has changed the locked configuration.

    Raises:
        Refused: ``SparkConfigurationChanged``.
    """
    for name, value in locked_sql_conf().items():
        actual = spark.conf.get(name, None)
        if actual != value:
            raise Refused("SparkConfigurationChanged", f"Spark: {name} is {actual!r}; the query gate relies on {value!r}.")
