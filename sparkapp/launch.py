"""The image's entry point: what Spark on Kubernetes asks of a container (``driver …``, ``executor``), without believing the operator.

``spark.properties``, ``SPARK_CONF_DIR`` and the executor's variables come from whoever operates the cluster, and Spark would run code from
each of them (``spark-env.sh``, class paths, JVM options, pod templates, variables of Python workers). So Spark gets a configuration
folder of our own, the properties that name places and sizes, and the measured variables; everything else is left out. An executor
gets the run's network secret from governance, by its own attestation, before its JVM starts; the driver does so itself
(:mod:`sparkapp.session`), because only it has somebody to tell when it fails.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import javaproperties

from cleanroom.errors import InvalidInput, PreconditionFailed
from cleanroom.secret import write_secret_file
from cleanroom.spark.job import JOB_CONFIG_VARIABLE, JobConfig
from cleanroom.spark.network import NETWORK_CONF, SECRET_FILE
from sparkapp.config import job_from_environment
from sparkapp.failures import redact_error, report_failure
from sparkapp.pod import Pod

_NUMBER, _SIZE, _NAME, _HOST = r"\d{1,9}", r"\d{1,9}([kmgt]b?)?", r"[A-Za-z0-9._-]{1,253}", r"[A-Za-z0-9.:\[\]_-]{1,253}"
_IMAGE, _FLAG, _LINE = r"[A-Za-z0-9._:/@-]{1,255}", r"true|false", r"[^\r\n\0]*"
ALLOWED_PROPERTIES: Mapping[str, str] = {
    r"spark\.app\.(id|name)": _NAME,
    r"spark\.master": rf"k8s://https?://{_HOST}/?",
    r"spark\.driver\.(host|bindAddress)": _HOST,
    r"spark\.(driver\.|driver\.blockManager\.|blockManager\.)port": _NUMBER,
    r"spark\.(driver|executor)\.(cores|instances)": _NUMBER,
    r"spark\.(driver|executor)\.(memory|memoryOverhead)": _SIZE,
    r"spark\.(driver|executor|kubernetes)\.memoryOverheadFactor": r"[0-9](\.[0-9]{1,6})?",
    r"spark\.kubernetes\.allocation\.[A-Za-z.]{1,60}": r"\d{1,9}(ms|s|m)?",
    r"spark\.kubernetes\.(namespace|driver\.pod\.name|executor\.podNamePrefix)": _NAME,
    r"spark\.kubernetes\.(executor\.)?container\.image": _IMAGE,
    r"spark\.kubernetes\.container\.image\.pullPolicy": r"Always|IfNotPresent|Never",
    r"spark\.kubernetes\.(submitInDriver|executor\.deleteOnTermination)": _FLAG,
    r"spark\.kubernetes\.driver\.master": rf"https?://{_HOST}/?",
    r"spark\.kubernetes\.executor\.(request|limit)\.cores": r"[0-9.]{1,9}m?",
    r"spark\.kubernetes\.(executor\.)?(node\.selector|label|annotation)\.[A-Za-z0-9._/-]+": _LINE,
    r"spark\.kubernetes\.executor\.volumes\.emptyDir\.[a-z0-9-]+\.(mount\.path|mount\.readOnly|options\.sizeLimit|options\.medium)": _LINE,
    r"spark\.kubernetes\.authenticate(\.driver|\.executor)?\.serviceAccountName": _NAME,
    # The driver shows the token to the API server that it was told of, so no other file may be named.
    r"spark\.kubernetes\.authenticate\.driver\.mounted\.oauthTokenFile": r"(/(?!\.{1,2}/)[A-Za-z0-9._-]+)+/serviceaccount/token",
    r"spark\.kubernetes\.authenticate\.driver\.mounted\.caCertFile": r"(/(?!\.{1,2}/)[A-Za-z0-9._-]+)+/serviceaccount/ca\.crt",
}
"""Properties that a driver takes from its ``spark.properties``: name pattern to value pattern. None of them can name code, a file to read,
another protocol or a variable of a process that holds rows."""

_VARIABLES = re.compile(
    r"PATH|JAVA_HOME|LANG|HOME|TMPDIR|HOSTNAME|JOB_CONFIG|CLEANROOM_[A-Z_]+|POD_[A-Z]+|KUBERNETES_(SERVICE|PORT)[A-Z0-9_]*"
    r"|SPARK_(USER|APPLICATION_ID|LOCAL_DIRS|LOCAL_IP|(DRIVER|EXECUTOR)_[A-Z_]+)|PYTHON(PATH|UNBUFFERED|DONTWRITEBYTECODE)"
)
_EXECUTOR_CLASS = "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
_MODULES = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    *(
        f"--add-opens={name}=ALL-UNNAMED"
        for name in (
            *(f"java.base/java.{name}" for name in ("lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "util")),
            *(f"java.base/java.util.{name}" for name in ("concurrent", "concurrent.atomic")),
            *(f"java.base/{name}" for name in ("jdk.internal.ref", "sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar")),
            "java.security.jgss/sun.security.krb5",
        )
    ),
    "-Djdk.reflect.useDirectMethodHandle=false",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "--enable-native-access=ALL-UNNAMED",
)
"""What Spark's own launcher gives to every JVM of its (``JavaModuleOptions``), but for a module of linear algebra that announces itself."""
_LOGGING = """\
rootLogger.level = off
rootLogger.appenderRef.none.ref = none
appender.none.type = Null
appender.none.name = none
"""
"""Spark's logs quote rows, and an executor learns of the session's level only once it has joined. Without an appender Spark would take the
file for none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the role that the container's arguments name. Returns, with an exit code of :mod:`sparkapp.failures`, only on failure."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        job = job_from_environment()
        if given[:1] == ["driver"]:
            command, environment = driver_command(given[1:], job, os.environ)
        elif given == ["executor"]:
            command, environment = executor_command(job, _attested_pod(), os.environ)
        else:
            raise InvalidInput("RoleUnknown", f"container: {' '.join(given[:1]) or 'no argument'} is neither driver nor executor.")
        os.execvpe(command[0], command, environment)  # noqa: S606 - there is no shell to want
    except Exception as error:
        failure = redact_error(error)
        print(f"failed: {failure.code}", flush=True)
        return report_failure(failure, {})


def _attested_pod() -> Pod:
    from sparkapp.identity import AttestedPod  # a driver needs it later, and beside Spark's own start

    return AttestedPod()


def driver_command(arguments: Sequence[str], job: JobConfig, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command and variables of the driver's JVM (``spark-submit`` in client mode, as in Spark's own image).

    Args:
        arguments: ``--properties-file FILE --class org.apache.spark.deploy.PythonRunner MAIN [ARGUMENT …]``, as they were measured.
        job: Of this pod.
        environment: Of this container.

    Raises:
        InvalidInput: ``DriverArgumentsInvalid``, ``SparkPropertiesInvalid``.
    """
    if len(arguments) < 5 or arguments[0] != "--properties-file" or arguments[2] != "--class":
        raise InvalidInput("DriverArgumentsInvalid", "container: the driver's arguments are not those of Spark on Kubernetes.")
    try:
        given = javaproperties.loads(Path(arguments[1]).read_text("iso-8859-1"))
    except OSError as error:
        raise InvalidInput("SparkPropertiesInvalid", "spark.properties: cannot be read.", cause=error.strerror) from None
    except javaproperties.InvalidUEscapeError:
        raise InvalidInput("SparkPropertiesInvalid", "spark.properties: an escape is not \\u and four hex digits.") from None
    folder = _configuration_folder()
    properties = driver_properties(given, job, environment)
    write_secret_file(folder / "spark.properties", javaproperties.dumps(properties, timestamp=None, sort_keys=True).encode("ascii"))
    home = spark_home()
    command = [str(home / "bin/spark-submit"), "--properties-file", str(folder / "spark.properties")]
    return [*command, arguments[4].removeprefix("local://"), *arguments[5:]], _environment(environment, home, folder)


def driver_properties(given: Mapping[str, str], job: JobConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """What of ``spark.properties`` the driver starts with, and what we add to it."""
    kept = {
        name: value
        for name, value in given.items()
        if any(re.fullmatch(key, name) and re.fullmatch(pattern, value) for key, pattern in ALLOWED_PROPERTIES.items())
    }
    if address := environment.get("SPARK_DRIVER_BIND_ADDRESS"):
        kept["spark.driver.bindAddress"] = address
    # Pods of this run are told the same job; as a variable of Python workers it must not be another one either.
    return {**kept, **NETWORK_CONF, "spark.submit.deployMode": "client", f"spark.executorEnv.{JOB_CONFIG_VARIABLE}": job.encode()}


def executor_command(job: JobConfig, pod: Pod, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command and variables of an executor's JVM, with the run's network secret in a file of its own.

    Raises:
        PreconditionFailed: ``ExecutorVariableMissing``, ``NetworkSecretMissing``.
        CleanRoomError: governance does not give the secret.
    """
    folder, home = _configuration_folder(), spark_home()
    secret = network_secret_file(job, pod)
    told = {
        "--driver-url": "SPARK_DRIVER_URL",
        "--executor-id": "SPARK_EXECUTOR_ID",
        "--cores": "SPARK_EXECUTOR_CORES",
        "--app-id": "SPARK_APPLICATION_ID",
        "--hostname": "SPARK_EXECUTOR_POD_IP",
        "--resourceProfileId": "SPARK_RESOURCE_PROFILE_ID",
        "--podName": "SPARK_EXECUTOR_POD_NAME",
    }
    for name in (*told.values(), "SPARK_EXECUTOR_MEMORY"):
        if not environment.get(name):
            raise PreconditionFailed("ExecutorVariableMissing", f"container: {name} is not set, so there is no driver to join.")
    # Spark reads a secret from a file only where it believes to be on Kubernetes; the master's real address comes from the driver.
    settings = {**NETWORK_CONF, SECRET_FILE: str(secret), "spark.master": "k8s://driver"}
    command = [
        *(_java(environment), *_MODULES, f"-Xmx{environment['SPARK_EXECUTOR_MEMORY']}"),
        *(f"-D{name}={value}" for name, value in settings.items()),
        *("-cp", f"{folder}:{home / 'jars'}/*", _EXECUTOR_CLASS),
    ]
    for option, name in told.items():
        command += [option, environment[name]]
    return command, _environment(environment, home, folder)


def network_secret_file(job: JobConfig, pod: Pod) -> Path:
    """A new file, of mode 0600, with the run's network secret.

    Raises:
        PreconditionFailed: ``NetworkSecretMissing``.
        CleanRoomError: governance does not give it.
    """
    if job.network_secret_id is None:
        raise PreconditionFailed(
            "NetworkSecretMissing",
            f"run {job.run_id!r}: its job names no network secret, so driver and executors cannot know each other.",
            hint="The clean room must be of this version.",
        )
    file = Path(tempfile.mkdtemp(prefix="cleanroom-network-")) / "secret"
    write_secret_file(file, pod.secret(job.network_secret_id).reveal())
    return file


def spark_home() -> Path:
    """Where PySpark is installed, jars and scripts included.

    Raises:
        PreconditionFailed: ``SparkNotInstalled``.
    """
    found = find_spec("pyspark")
    if found is None or not found.submodule_search_locations:
        raise PreconditionFailed("SparkNotInstalled", "image: PySpark is not installed.")
    return Path(next(iter(found.submodule_search_locations)))


def _configuration_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cleanroom-spark-"))
    (folder / "log4j2.properties").write_text(_LOGGING, "ascii")
    return folder


def _java(environment: Mapping[str, str]) -> str:
    home = environment.get("JAVA_HOME")
    return str(Path(home) / "bin/java") if home else shutil.which("java") or "java"


def _environment(given: Mapping[str, str], home: Path, folder: Path) -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *(path for path in given.get("PYTHONPATH", "").split(os.pathsep) if path and path != root)]
    return {
        **{name: value for name, value in given.items() if _VARIABLES.fullmatch(name)},
        "SPARK_HOME": str(home),
        "SPARK_CONF_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }


if __name__ == "__main__":
    sys.exit(main())
