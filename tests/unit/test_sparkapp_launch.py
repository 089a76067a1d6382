"""The image's entry point: which of an operator's settings reach Spark, and how an executor gets the network secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

import javaproperties
import pytest

from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, PreconditionFailed
from cleanroom.secret import Secret
from cleanroom.spark.job import JobConfig
from cleanroom.spark.network import NETWORK_CONF
from sparkapp import launch
from sparkapp.jvm import archive_options
from sparkapp.session import open_session
from tests.unit.spark_support import EXECUTOR, make_job

JOB = make_job(networkSecretId="cleanroom_run-1.totals.network")
ARGUMENTS = ["--class", "org.apache.spark.deploy.PythonRunner", "local:///opt/cleanroom/sparkapp/__main__.py"]


class Granted:
    """A pod to which governance releases the given secrets only."""

    def __init__(self, **secrets: str) -> None:
        self.secrets = secrets

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        if secret_id not in self.secrets:
            raise NotFound("SecretNotFound", f"secret {secret_id!r} does not exist, or is not granted to this pod.")
        return Secret(self.secrets[secret_id].encode())


GRANTED = Granted(**{JOB.network_secret_id or "": "network-secret-of-the-run"})


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path))


def driver(tmp_path: Path, properties: dict[str, str], environment: dict[str, str] | None = None) -> tuple[list[str], dict[str, str], dict]:  # type: ignore[type-arg]
    file = tmp_path / "given.properties"
    file.write_text(javaproperties.dumps(properties, timestamp=None), "ascii")
    command, variables = launch.driver_command(["--properties-file", str(file), *ARGUMENTS], JOB, environment or {})
    found = javaproperties.loads(Path(command[2]).read_text("ascii"))
    # The only options of the JVM are the program's own.
    logs = f"-Dlog4j2.configurationFile=file://{Path(command[2]).parent}/log4j2.properties"
    assert found.pop("spark.driver.extraJavaOptions") == " ".join([logs, *archive_options()])
    return command, variables, found


def test_properties_are_parsed_and_written_as_in_java(tmp_path: Path) -> None:
    text = "#Java properties\nspark.app.name : fi\\\n   rst\nspark.master=k8s\\://https\\://10.0.0.1\\:443\nspark.app.id=a\nspark.app.id=\\u0062\n"
    file = tmp_path / "given.properties"
    file.write_text(text, "ascii")
    command, _ = launch.driver_command(["--properties-file", str(file), *ARGUMENTS], JOB, {})
    found = javaproperties.loads(Path(command[2]).read_text("ascii"))
    assert found.items() >= {"spark.app.name": "first", "spark.master": "k8s://https://10.0.0.1:443", "spark.app.id": "b"}.items()
    file.write_text("a=\\u00g1", "ascii")
    with pytest.raises(InvalidInput, match="SparkPropertiesInvalid"):
        launch.driver_command(["--properties-file", str(file), *ARGUMENTS], JOB, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.master", "local[2]"),
        ("spark.master", "k8s://https://api\nspark.jars=x"),
        ("spark.driver.extraJavaOptions", "-javaagent:/var/data/x.jar"),
        ("spark.executor.extraJavaOptions", "-XX:OnOutOfMemoryError=sh"),
        ("spark.driver.extraClassPath", "/var/data"),
        ("spark.jars", "https://operator/x.jar"),
        ("spark.submit.pyFiles", "https://operator/x.py"),
        ("spark.files", "/etc/passwd"),
        ("spark.plugins", "x.Plugin"),
        ("spark.extraListeners", "x.Listener"),
        ("spark.pyspark.python", "/var/data/python"),
        ("spark.archives", "x.zip#environment"),
        ("spark.executorEnv.LD_PRELOAD", "/var/data/x.so"),
        ("spark.executorEnv.PYTHONPATH", "/var/data"),
        ("spark.authenticate.secret", "known"),
        ("spark.authenticate.enableSaslEncryption", "false"),
        ("spark.ssl.rpc.enabled", "true"),
        ("spark.network.crypto.config.x", "y"),
        ("spark.kubernetes.executor.podTemplateFile", "/tmp/secret"),
        ("spark.kubernetes.authenticate.driver.mounted.oauthTokenFile", "/tmp/cleanroom-network-x/secret"),
        ("spark.kubernetes.authenticate.driver.mounted.oauthTokenFile", "/x/serviceaccount/../secret/serviceaccount/token"),
        ("spark.kubernetes.authenticate.driver.mounted.oauthTokenFile", "/x/./serviceaccount/token"),
        ("spark.kubernetes.authenticate.driver.mounted.caCertFile", "/x/../serviceaccount/ca.crt"),
        ("spark.kubernetes.authenticate.oauthToken", "t"),
        ("spark.kubernetes.executor.secrets.x", "/etc/x"),
        ("spark.kubernetes.executor.volumes.hostPath.x.mount.path", "/"),
        ("spark.kubernetes.scheduler.name", "x"),
        ("spark.kubernetes.allocation.pods.allocator", "x.Allocator"),
        ("spark.driver.memory", "1g -javaagent:x"),
        ("spark.sql.extensions", "x.Extension"),
        ("spark.dynamicAllocation.shuffleTracking.enabled", "true"),
        ("spark.eventLog.enabled", "true"),
        ("spark.eventLog.dir", "file:/var/data"),
        ("spark.hadoop.fs.defaultFS", "s3a://operator"),
        ("spark.redaction.regex", "nothing"),
    ],
)
def test_property_outside_of_the_allowlist_is_dropped(tmp_path: Path, name: str, value: str) -> None:
    assert name not in driver(tmp_path, {name: value})[2]


def test_service_account_path_with_a_hidden_folder_is_kept(tmp_path: Path) -> None:
    given = {
        f"spark.kubernetes.authenticate.driver.mounted.{name}": f"/home/x/.cleanroom/..data/serviceaccount/{file}"
        for name, file in (("oauthTokenFile", "token"), ("caCertFile", "ca.crt"))
    }
    assert driver(tmp_path, given)[2].items() >= given.items()


def test_properties_for_places_and_sizes_are_kept(tmp_path: Path) -> None:
    given = {
        "spark.master": "k8s://https://kubernetes.default.svc:443",
        "spark.app.id": "spark-1",
        "spark.driver.host": "cr-driver-svc.analytics.svc",
        "spark.driver.port": "7078",
        "spark.driver.memory": "512m",
        "spark.executor.instances": "2",
        "spark.executor.memory": "2g",
        "spark.kubernetes.memoryOverheadFactor": "0.4",
        "spark.kubernetes.allocation.batch.delay": "1s",
        "spark.kubernetes.namespace": "analytics",
        "spark.kubernetes.driver.pod.name": "cr-driver",
        "spark.kubernetes.container.image": "r.example/app@sha256:" + "0" * 64,
        "spark.kubernetes.executor.annotation.microsoft.containerinstance.virtualnode.ccepolicy": "cGFj",
        "spark.kubernetes.executor.label.cleanroom/run": "run-1",
        "spark.kubernetes.submitInDriver": "true",
        "spark.kubernetes.authenticate.driver.serviceAccountName": "spark",
        "spark.kubernetes.authenticate.driver.mounted.oauthTokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token",
    }
    kept = driver(tmp_path, given, {"SPARK_DRIVER_BIND_ADDRESS": "10.0.0.7"})[2]
    own = {"spark.submit.deployMode": "client", "spark.executorEnv.JOB_CONFIG": JOB.encode(), "spark.driver.bindAddress": "10.0.0.7"}
    assert kept == given | dict(NETWORK_CONF) | own


def test_weaker_protocol_and_another_job_are_overridden(tmp_path: Path) -> None:
    given = {**dict.fromkeys(NETWORK_CONF, "false"), "spark.executorEnv.JOB_CONFIG": make_job("run-2").encode()}
    kept = driver(tmp_path, given)[2]
    assert {name: kept[name] for name in NETWORK_CONF} == dict(NETWORK_CONF)
    assert JobConfig.decode(kept["spark.executorEnv.JOB_CONFIG"]) == JOB


def test_driver_gets_a_new_configuration_folder_and_allowed_variables_only(tmp_path: Path) -> None:
    given = {
        "SPARK_CONF_DIR": "/opt/spark/conf",
        "JAVA_TOOL_OPTIONS": "-javaagent:x",
        "SPARK_SUBMIT_OPTS": "-javaagent:x",
        "LD_PRELOAD": "x",
        "KUBERNETES_AUTH_TOKEN": "x",
        "JOB_CONFIG": JOB.encode(),
        "POD_NAME": "p",
    }
    command, variables, _ = driver(tmp_path, {}, given)
    folder = Path(variables["SPARK_CONF_DIR"]).parent
    assert not Path(variables["SPARK_CONF_DIR"]).exists()
    assert folder.is_relative_to(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["log4j2.properties", "spark.properties"]
    assert "off" in (folder / "log4j2.properties").read_text()
    assert not set(variables) & {"JAVA_TOOL_OPTIONS", "SPARK_SUBMIT_OPTS", "LD_PRELOAD", "KUBERNETES_AUTH_TOKEN"}
    assert (variables["JOB_CONFIG"], variables["POD_NAME"]) == (JOB.encode(), "p")
    assert command[0].endswith("/bin/spark-submit")
    assert command[-1] == "/opt/cleanroom/sparkapp/__main__.py"


OBJECTS = Path("/tmp/objects/socket")


def test_executor_gets_the_network_secret_only_in_memory(tmp_path: Path) -> None:
    command, variables = launch.executor_command(JOB, GRANTED, EXECUTOR | {"SPARK_JAVA_OPT_0": "-Dspark.authenticate=false"}, OBJECTS)
    options = dict(item[2:].split("=", 1) for item in command if item.startswith("-Dspark."))
    file = Path(options.pop("spark.authenticate.secret.file"))
    # The file is in memory: no folder has an entry for it, and it ends with the process.
    assert file.read_bytes() == b"network-secret-of-the-run"
    assert file.is_file()
    assert file.is_relative_to(f"/proc/{os.getpid()}/fd")
    assert file.readlink().name == "memfd:cleanroom-network (deleted)"
    assert os.get_inheritable(int(file.name)), "the JVM replaces this process, and reads it"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"network-secret-of" in path.read_bytes()]
    os.close(int(file.name))
    assert options == {**NETWORK_CONF, "spark.master": "k8s://driver"}
    assert "network-secret-of" not in " ".join(command) + json.dumps(variables)
    assert command[command.index("--driver-url") + 1] == EXECUTOR["SPARK_DRIVER_URL"]
    assert "-Xmx2048m" in command
    assert not [item for item in command if "authenticate=false" in item]


@pytest.mark.parametrize(
    ("job", "pod", "environment", "code"),
    [
        (make_job(), GRANTED, EXECUTOR, "NetworkSecretMissing"),
        (JOB, Granted(), EXECUTOR, "SecretNotFound"),
        (JOB, GRANTED, EXECUTOR | {"SPARK_DRIVER_URL": ""}, "ExecutorVariableMissing"),
    ],
)
def test_executor_without_variables_or_network_secret_does_not_start(
    job: JobConfig, pod: Granted, environment: dict[str, str], code: str
) -> None:
    with pytest.raises(CleanRoomError) as caught:
        launch.executor_command(job, pod, environment, OBJECTS)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        (["sh", "-c", "id"], 10, "ROLE_UNKNOWN"),
        ([], 10, "ROLE_UNKNOWN"),
        (["driver"], 10, "DRIVER_ARGUMENTS_INVALID"),
        (["driver", "--properties-file", "/nowhere", *ARGUMENTS], 10, "SPARK_PROPERTIES_INVALID"),
        (["executor", "--more"], 10, "ROLE_UNKNOWN"),
    ],
)
def test_launch_failure_is_the_termination_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], exit_code: int, code: str
) -> None:
    monkeypatch.setenv("JOB_CONFIG", JOB.encode())
    monkeypatch.setenv("CLEANROOM_TERMINATION_LOG", str(tmp_path / "termination"))
    assert launch.main(arguments) == exit_code
    assert json.loads((tmp_path / "termination").read_text())["code"] == code


def test_session_on_a_cluster_requires_a_network_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    with pytest.raises(PreconditionFailed) as caught:
        open_session("x")
    assert caught.value.code == "NetworkSecretMissing"
