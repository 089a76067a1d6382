"""The processes that the image's entry point starts: command line, variables, files, and every property pattern."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError
from cleanroom.secret import Secret
from cleanroom.spark.network import NETWORK_CONF
from sparkapp import config, jvm, launch
from tests.unit.spark_support import EXECUTOR, make_job

JOB = make_job(networkSecretId="cleanroom_run-1.network")
MAIN = "local:///opt/cleanroom/sparkapp/__main__.py"
ROOT = str(Path(launch.__file__).resolve().parent.parent)


OPENED = [
    f"--add-opens={name}=ALL-UNNAMED"
    for name in (
        *("java.base/java.lang", "java.base/java.lang.invoke", "java.base/java.lang.reflect", "java.base/java.io", "java.base/java.net"),
        *("java.base/java.nio", "java.base/java.util", "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic"),
        *("java.base/jdk.internal.ref", "java.base/sun.nio.ch", "java.base/sun.nio.cs", "java.base/sun.security.action"),
        *("java.base/sun.util.calendar", "java.security.jgss/sun.security.krb5"),
    )
]
JVM = ["-Djdk.reflect.useDirectMethodHandle=false", "-Dio.netty.tryReflectionSetAccessible=true", "--enable-native-access=ALL-UNNAMED"]


class Pod:
    """A pod to which governance releases one secret; it notes what was asked for."""

    def __init__(self, value: bytes = b"network-secret-of-the-run") -> None:
        self.value, self.asked = value, []  # type: ignore[var-annotated]

    def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
        self.asked.append(secret_id)
        return Secret(self.value)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "spark/jars").mkdir(parents=True)
    (tmp_path / "spark/jars/slf4j-api-2.jar").touch()
    monkeypatch.setattr(launch, "spark_home", lambda: tmp_path / "spark")
    monkeypatch.setattr(launch, "archive_options", lambda: ["-XX:Archive"])
    monkeypatch.setenv("JOB_CONFIG", JOB.encode())
    monkeypatch.setenv("CLEANROOM_TERMINATION_LOG", str(tmp_path / "termination"))
    return tmp_path / "spark"


OBJECTS = Path("/tmp/objects/socket")


def executor(environment: dict[str, str] | None = None, pod: Any = None) -> tuple[list[str], dict[str, str]]:
    return launch.executor_command(JOB, pod or Pod(), EXECUTOR if environment is None else environment, OBJECTS)


def driver(tmp_path: Path, *arguments: str, environment: dict[str, str] | None = None) -> tuple[list[str], dict[str, str]]:
    file = tmp_path / "given"
    file.write_text("")
    given = ["--properties-file", str(file), "--class", "org.apache.spark.deploy.PythonRunner", *(arguments or (MAIN,))]
    return launch.driver_command(given, JOB, environment or {})


# --- main


@pytest.mark.parametrize("role", ["driver", "executor"])
def test_process_is_replaced_by_the_requested_role(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path, role: str) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(launch.os, "execvpe", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(launch, "_attested_pod", Pod)
    for name, value in {**EXECUTOR, "JAVA_HOME": "/java", "LD_PRELOAD": "/x.so"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "given").write_text("")
    arguments = ["driver", "--properties-file", str(tmp_path / "given"), "--class", "x", MAIN] if role == "driver" else ["executor"]
    monkeypatch.setattr(launch.sys, "argv", ["launch", *arguments])
    launch.main()
    ((program, command, environment),) = started
    assert program == command[0] == (str(home / "bin/spark-submit") if role == "driver" else "/java/bin/java")
    assert environment["JOB_CONFIG"] == JOB.encode()
    assert "LD_PRELOAD" not in environment


def test_failure_is_redacted_printed_and_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Pod):
        def secret(self, secret_id: str, *, fresh: bool = False) -> Secret:
            raise ValueError("CANARY")

    monkeypatch.setattr(launch, "_attested_pod", Broken)
    assert launch.main(["executor"]) == 17
    output = capsys.readouterr().out
    assert output == "failed: PayloadError\n"
    assert "CANARY" not in (tmp_path / "termination").read_text()


@pytest.mark.parametrize(("value", "code"), [("", "JobConfigMissing"), ("%", "JobConfigInvalid")])
def test_container_without_a_job_does_not_start(monkeypatch: pytest.MonkeyPatch, value: str, code: str) -> None:
    monkeypatch.setenv("JOB_CONFIG", value)
    with pytest.raises(CleanRoomError, match=code):
        config.job_from_environment()
    assert launch.main(["executor"]) in (10, 14)


def test_job_is_read_from_the_measured_variable() -> None:
    assert config.job_from_environment() == JOB


# --- driver


def test_driver_runs_the_measured_program_with_its_arguments(tmp_path: Path, home: Path) -> None:
    command, variables = driver(tmp_path, MAIN, "a", "b")
    assert not Path(variables["SPARK_CONF_DIR"]).exists()
    folder = Path(variables["SPARK_CONF_DIR"]).parent
    properties = folder / "spark.properties"
    assert command == [
        str(home / "bin/spark-submit"),
        *("--properties-file", str(properties)),
        *("/opt/cleanroom/sparkapp/__main__.py", "a", "b"),
    ]
    assert stat.S_IMODE(properties.stat().st_mode) == 0o600
    lines = properties.read_text().splitlines()
    assert lines == sorted(lines)
    assert not [line for line in lines if line.startswith("#")]
    assert folder.name.startswith("cleanroom-spark-")
    assert (folder / "log4j2.properties").read_text().splitlines() == [
        "rootLogger.level = off",
        "rootLogger.appenderRef.none.ref = none",
        "appender.none.type = Null",
        "appender.none.name = none",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--properties-file", "f", "--class", "x"],
        ["--conf", "f", "--class", "x", MAIN],
        ["--properties-file", "f", "--jars", "x", MAIN],
        [],
    ],
)
def test_other_arguments_of_a_driver_are_rejected(arguments: list[str]) -> None:
    with pytest.raises(CleanRoomError, match="DriverArgumentsInvalid"):
        launch.driver_command(arguments, JOB, {})


def test_bind_address_of_the_pod_replaces_the_given_one() -> None:
    given = {"spark.driver.bindAddress": "10.0.0.1"}
    for environment, address in (({}, "10.0.0.1"), ({"SPARK_DRIVER_BIND_ADDRESS": "10.0.0.7"}, "10.0.0.7")):
        assert launch.driver_properties(given, JOB, environment)["spark.driver.bindAddress"] == address


KEPT = {
    "spark.app.name": "a.b-c_1",
    "spark.app.id": "spark-1",
    "spark.master": "k8s://http://[::1]:443/",
    "spark.driver.bindAddress": "10.0.0.1",
    "spark.driver.blockManager.port": "7079",
    "spark.blockManager.port": "7079",
    "spark.driver.cores": "1",
    "spark.executor.cores": "2",
    "spark.executor.memoryOverhead": "384mb",
    "spark.driver.memoryOverheadFactor": "0.1",
    "spark.kubernetes.allocation.batch.size": "5",
    "spark.kubernetes.executor.podNamePrefix": "cr",
    "spark.kubernetes.executor.container.image": "r/app:1",
    "spark.kubernetes.container.image.pullPolicy": "IfNotPresent",
    "spark.kubernetes.executor.deleteOnTermination": "false",
    "spark.kubernetes.driver.master": "https://10.0.0.1/",
    "spark.kubernetes.executor.request.cores": "500m",
    "spark.kubernetes.executor.limit.cores": "1.5",
    "spark.kubernetes.node.selector.kubernetes.io/os": "linux",
    "spark.kubernetes.executor.volumes.emptyDir.spark-local-1.mount.path": "/var/data",
    "spark.kubernetes.executor.volumes.emptyDir.spark-local-1.options.sizeLimit": "1Gi",
    "spark.kubernetes.authenticate.executor.serviceAccountName": "spark",
    "spark.kubernetes.authenticate.serviceAccountName": "spark",
}
DROPPED = {
    "spark.app.name": "a b",
    "spark.app.id": "",
    "spark.master": "k8s://https://api/path",
    "spark.driver.host": "a/b",
    "spark.driver.port": "1234567890",
    "spark.executor.instances": "-1",
    "spark.executor.memory": "2x",
    "spark.executor.memoryOverheadFactor": "10.0",
    "spark.kubernetes.allocation.batch.delay": "1h",
    "spark.kubernetes.namespace": "a/b",
    "spark.kubernetes.container.image": "a b",
    "spark.kubernetes.container.image.pullPolicy": "always",
    "spark.kubernetes.submitInDriver": "yes",
    "spark.kubernetes.driver.master": "http://user@api",
    "spark.kubernetes.executor.request.cores": "1000000000",
    "spark.kubernetes.executor.label.x": "a\nb",
    "spark.kubernetes.executor.annotation.x": "a\rb",
    "spark.kubernetes.executor.volumes.emptyDir.UPPER.mount.path": "/var/data",
    "spark.kubernetes.executor.volumes.emptyDir.x.mount.subPath": "x",
    "spark.kubernetes.authenticate.driver.serviceAccountName": "a/b",
    "spark.kubernetes.authenticate.driver.mounted.oauthTokenFile": "/var/run/token",
    "spark.kubernetes.authenticate.driver.mounted.caCertFile": "/serviceaccount/token",
    "xspark.app.name": "a",
    "spark.app.namex": "a",
    "sparkXappXname": "a",
}


def test_value_of_each_property_has_a_form() -> None:
    kept = launch.driver_properties(KEPT, JOB, {})
    assert {name: kept.get(name) for name in KEPT} == KEPT
    dropped = launch.driver_properties(DROPPED, JOB, {})
    assert set(dropped) & set(DROPPED) == set()


@pytest.mark.parametrize("value", ["true", " TRUE ", "yes", ""])
def test_dynamic_allocation_is_refused_with_the_reason(value: str, tmp_path: Path) -> None:
    given = {"spark.dynamicAllocation.enabled": value}
    with pytest.raises(CleanRoomError, match=r"DynamicAllocationRefused: .*remove idle executors") as caught:
        launch.driver_properties(given, JOB, {})
    assert caught.value.party == "operator"
    (tmp_path / "given").write_text(f"spark.dynamicAllocation.enabled={value}\n")
    assert launch.main(["driver", "--properties-file", str(tmp_path / "given"), "--class", "x", MAIN]) == 12
    assert "DYNAMIC_ALLOCATION_REFUSED" in (tmp_path / "termination").read_text()


@pytest.mark.parametrize("name", ["minExecutors", "maxExecutors", "shuffleTracking.enabled"])
def test_other_settings_of_dynamic_allocation_have_no_effect(name: str) -> None:
    given = {"spark.dynamicAllocation.enabled": "false", f"spark.dynamicAllocation.{name}": "1"}
    assert not given.keys() & launch.driver_properties(given, JOB, {}).keys()


def test_every_pattern_of_the_allowlist_is_tested() -> None:
    tested = {pattern for pattern in launch.ALLOWED_PROPERTIES for name in (*KEPT, *DROPPED) if re.fullmatch(pattern, name)}
    assert tested == set(launch.ALLOWED_PROPERTIES)


# --- executor


def test_executor_runs_sparks_backend_with_the_pods_values(tmp_path: Path, home: Path) -> None:
    command, variables = executor({**EXECUTOR, "JAVA_HOME": "/java"})
    folder = Path(variables["SPARK_CONF_DIR"]).parent
    at = command.index("-Xmx2048m")
    logs = f"-Dlog4j2.configurationFile=file://{folder}/log4j2.properties"
    assert command[:at] == ["/java/bin/java", "-XX:+IgnoreUnrecognizedVMOptions", *OPENED, *JVM, logs, "-XX:Archive"]
    settings = [item for item in command[at + 1 :] if item.startswith("-D")]
    assert [item.split("=")[0] for item in settings] == [
        *(f"-D{name}" for name in NETWORK_CONF),
        "-Dspark.authenticate.secret.file",
        "-Dspark.master",
        "-Dcleanroom.objects",
    ]
    assert settings[-1] == f"-Dcleanroom.objects={OBJECTS}"
    assert command[at + 1 + len(settings) :] == [
        *("-cp", f"{home}/jars/slf4j-api-2.jar:{home}/jars/*", "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"),
        *("--driver-url", EXECUTOR["SPARK_DRIVER_URL"], "--executor-id", "1", "--cores", "2", "--app-id", "spark-1"),
        *("--hostname", "10.0.0.8", "--resourceProfileId", "0", "--podName", "cr-exec-1"),
    ]


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_executor_starts_a_server_that_opens_parquet_objects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, format_: str) -> None:
    dataset = JOB.datasets[0].model_copy(update={"format": format_})
    monkeypatch.setenv("JOB_CONFIG", JOB.model_copy(update={"datasets": (dataset,)}).encode())
    for name, value in EXECUTOR.items():
        monkeypatch.setenv(name, value)
    replaced: list[Any] = []
    started: list[Any] = []
    monkeypatch.setattr(launch, "_attested_pod", Pod)
    monkeypatch.setattr(launch.os, "execvpe", lambda *arguments: replaced.append(arguments))
    monkeypatch.setattr(launch.subprocess, "Popen", lambda command, **options: started.append((command, options)))
    pipes: list[tuple[int, int]] = []
    genuine = os.pipe
    monkeypatch.setattr(launch.os, "pipe", lambda: pipes.append(genuine()) or pipes[-1])
    launch.main(["executor"])
    ((_, java, environment),) = replaced
    if format_ == "csv":
        assert (started, pipes) == ([], [])
        return
    ((command, options),) = started
    (path,) = [item.partition("=")[2] for item in java if item.startswith("-Dcleanroom.objects=")]
    (number,) = options["pass_fds"]
    assert command == [sys.executable, "-P", "-m", "sparkapp.object_server", str(number)]
    assert Path(path).is_socket()
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
    # The JVM, which replaces this process, keeps the writing end. The server ends when it is closed.
    ((read, write),) = pipes
    assert options == {"stdin": read, "env": environment, "pass_fds": (number,)}
    assert os.get_inheritable(write)
    os.close(write)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


@pytest.mark.parametrize("name", EXECUTOR)
def test_executor_needs_each_of_its_variables(name: str) -> None:
    for environment in (EXECUTOR | {name: ""}, {key: value for key, value in EXECUTOR.items() if key != name}):
        with pytest.raises(CleanRoomError, match="ExecutorVariableMissing") as caught:
            executor(environment)
        assert name in caught.value.message


def test_java_comes_from_its_home_or_from_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert executor()[0][0] == "/usr/bin/java"
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    assert executor()[0][0] == "java"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"tombstone:AAAAAAAAAAAAAAAAAAAAAAAAAAAA", "SecretRevoked"),
        (b"short", "NetworkSecretInvalid"),
        (b"a b" * 20, "NetworkSecretInvalid"),
    ],
)
def test_executor_without_a_usable_network_secret_does_not_start(tmp_path: Path, value: bytes, code: str) -> None:
    with pytest.raises(CleanRoomError, match=code):
        executor(pod=Pod(value))
    assert not list(tmp_path.glob("cleanroom-network-*"))


def test_network_secret_is_read_by_the_id_of_the_job() -> None:
    pod = Pod()
    command, _ = executor(pod=pod)
    file = next(item.split("=")[1] for item in command if item.startswith("-Dspark.authenticate.secret.file="))
    assert Path(file).readlink().name.startswith("memfd:cleanroom-network")
    assert pod.asked == ["cleanroom_run-1.network"]


# --- environment


@pytest.mark.parametrize("given", [None, "", f"/a:{ROOT}::/b"])
def test_python_of_the_image_finds_these_modules_first(given: str | None) -> None:
    _, variables = executor(EXECUTOR if given is None else {**EXECUTOR, "PYTHONPATH": given})
    assert variables["PYTHONPATH"] == os.pathsep.join([ROOT, *(["/a", "/b"] if given else [])])
    assert variables["PYSPARK_PYTHON"] == variables["PYSPARK_DRIVER_PYTHON"] == sys.executable


def test_variables_of_the_image_replace_the_operators(home: Path) -> None:
    given = dict.fromkeys(("SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"), "/operator")
    _, variables = executor({**EXECUTOR, **given})
    assert variables["SPARK_HOME"] == str(home)
    assert "/operator" not in variables.values()


def test_only_named_variables_reach_spark() -> None:
    kept = {"PATH", "LANG", "HOME", "TMPDIR", "HOSTNAME", "CLEANROOM_X", "POD_NAME", "KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT_443_TCP"}
    kept |= {"SPARK_USER", "SPARK_LOCAL_DIRS", "SPARK_LOCAL_IP", "SPARK_DRIVER_X", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    dropped = {"JDK_JAVA_OPTIONS", "CLEANROOM_x", "KUBERNETES_TRUST_CERTIFICATES", "SPARK_DAEMON_JAVA_OPTS", "SPARK_JAVA_OPT_0"}
    dropped |= {"PYTHONSTARTUP", "PYTHONHOME", "HADOOP_CONF_DIR", "SPARK_EXTRA_CLASSPATH", "SPARK_DIST_CLASSPATH", "XPATH", "PATHX"}
    _, variables = executor({**EXECUTOR, **dict.fromkeys(kept | dropped, "x")})
    assert (kept - set(variables), dropped & set(variables)) == (set(), set())
    assert set(EXECUTOR) - set(variables) == {"SPARK_RESOURCE_PROFILE_ID"}  # an argument of the command


def test_home_of_spark_is_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert (launch.spark_home() / "jars").is_dir()
    for spec in (None, type("Spec", (), {"submodule_search_locations": None})):
        monkeypatch.setattr(jvm, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(CleanRoomError, match="SparkNotInstalled"):
            launch.spark_home()
