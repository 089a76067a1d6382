"""The configuration of Spark sessions, on a cluster and in one process, and that a session keeps it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError
from cleanroom.spark.network import NETWORK_CONF
from cleanroom.sql import locked_spark_conf, locked_sql_conf
from sparkapp import jvm, session


class Builder:
    """A session builder that returns the configuration instead of a session."""

    def config(self, *, conf: Any) -> Builder:
        self.settings = dict(conf.getAll())
        return self

    def appName(self, name: str) -> Builder:
        self.settings["spark.app.name"] = name
        return self

    def getOrCreate(self) -> dict[str, str]:
        return self.settings


@pytest.fixture(autouse=True)
def _builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyspark.sql.SparkSession.builder", Builder())
    monkeypatch.setattr(session, "archive_options", list)
    # A configuration begins with the settings of the JVM that an earlier test has started in this process.
    monkeypatch.setattr("pyspark.SparkContext._jvm", None)
    for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "PYTHONPATH", "CLEANROOM_LOCAL_CORES", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)


def settings(secret: Path | None = None) -> dict[str, str]:
    opened: Any = session.open_session("run-1", network_secret=secret)
    return opened


def on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    return settings(Path("/run/secret"))


FIXED = {
    "spark.io.encryption.enabled": "true",
    "spark.io.encryption.keySizeBits": "256",
    "spark.log.level": "OFF",
    "spark.executor.syncLogLevel.enabled": "true",
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.ui.explainMode": "simple",
    "spark.sql.maxPlanStringLength": "100",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.eventLog.enabled": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.python.worker.reuse": "true",
    "spark.python.daemon.module": "sparkapp.daemon",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.optimizer.excludedRules": "org.apache.spark.sql.catalyst.optimizer.PushProjectionThroughUnion",
    "spark.hadoop.fs.cleanroom.impl": "cleanroom.SealedFiles",
    "spark.app.name": "run-1",
    **locked_spark_conf(),
}


def test_cluster_session_encrypts_authenticates_and_does_not_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_cluster(monkeypatch) == {
        **FIXED,
        **NETWORK_CONF,
        "spark.authenticate.secret.file": "/run/secret",
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "300s",
        "spark.dynamicAllocation.enabled": "false",
    }


def test_local_session_has_no_network_and_the_same_protection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANROOM_LOCAL_CORES", "3")
    local = settings()
    assert {name: local[name] for name in FIXED} == FIXED
    assert {name: value for name, value in local.items() if name not in FIXED} == {
        "spark.master": "local[3]",
        "spark.sql.shuffle.partitions": "3",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=160m",
        "spark.shuffle.compress": "false",
        "spark.buffer.pageSize": "1m",
        "spark.sql.codegen.wholeStage": "true",
    }


def test_local_session_uses_the_class_archive_if_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session, "archive_options", jvm.archive_options)
    monkeypatch.setattr(jvm, "archive", lambda: tmp_path / "archive")
    plain = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=160m"
    assert settings()["spark.driver.extraJavaOptions"] == plain
    (tmp_path / "archive").touch()
    quiet = "-XX:+IgnoreUnrecognizedVMOptions -Xshare:auto -Xlog:disable -Xlog:all=error:stderr"
    assert settings()["spark.driver.extraJavaOptions"] == f"{plain} -XX:SharedArchiveFile={tmp_path}/archive {quiet}"


def test_local_session_uses_all_cores_and_at_least_two_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.os, "cpu_count", lambda: 7)
    assert settings()["spark.master"] == "local[7]"
    monkeypatch.setattr(session.os, "cpu_count", lambda: None)
    assert (settings()["spark.master"], settings()["spark.sql.shuffle.partitions"]) == ("local[1]", "2")


@pytest.mark.parametrize("given", [None, "/a:/b"])
def test_python_workers_use_this_interpreter_and_these_modules(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    root = str(Path(session.__file__).resolve().parent.parent)
    if given:
        monkeypatch.setenv("PYTHONPATH", given)
    for _ in range(2):
        settings()
        assert os.environ["PYTHONPATH"] == ":".join([root, *([given] if given else [])])
    assert os.environ["PYSPARK_PYTHON"] == os.environ["PYSPARK_DRIVER_PYTHON"] == sys.executable


def test_cluster_session_without_a_network_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    with pytest.raises(CleanRoomError, match="NetworkSecretMissing"):
        settings()


class Running:
    """A session with the given settings."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.conf = settings


@pytest.mark.parametrize("name", locked_sql_conf())
def test_each_changed_or_absent_locked_setting_stops_the_run(name: str) -> None:
    locked: Any = Running(locked_sql_conf())
    session.require_locked(locked)
    for value in ("other", None):
        changed: Any = Running({**locked_sql_conf(), name: value})  # type: ignore[dict-item]
        with pytest.raises(CleanRoomError, match="SparkConfigurationChanged"):
            session.require_locked(changed)
