"""The image's entry point: starts the driver or an executor, as Spark on Kubernetes requests, without trusting the cluster's operator.

The operator controls ``spark.properties``, ``SPARK_CONF_DIR`` and the executor's variables, and Spark runs code
from each of them (``spark-env.sh``, class paths, JVM options, pod templates, variables of Python workers).
Therefore Spark gets a new configuration folder, an allowlist of properties, and an allowlist of variables.
Everything else is dropped.

An executor reads the run's network secret from governance by its own attestation before its JVM starts. The driver
reads it later (:mod:`sparkapp.entry`), when it can report a failure to the ledger. See docs/decisions/007.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import javaproperties

from cleanroom.errors import InvalidInput, PreconditionFailed, Refused
from cleanroom.secret import write_secret_file
from cleanroom.spark.job import JOB_CONFIG_VARIABLE, JobConfig
from cleanroom.spark.network import NETWORK_CONF, NETWORK_SECRET, SECRET_FILE
from cleanroom.spark.tombstone import require_secret
from sparkapp.config import job_from_environment
from sparkapp.failures import redact_error, report_failure
from sparkapp.jvm import OBJECTS_PROPERTY, archive_options, class_path, listen, spark_home
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
    # The driver sends the token to an API server that the operator names, so no other file is allowed.
    r"spark\.kubernetes\.authenticate\.driver\.mounted\.oauthTokenFile": r"(/(?!\.{1,2}/)[A-Za-z0-9._-]+)+/serviceaccount/token",
    r"spark\.kubernetes\.authenticate\.driver\.mounted\.caCertFile": r"(/(?!\.{1,2}/)[A-Za-z0-9._-]+)+/serviceaccount/ca\.crt",
}
"""Properties that the driver accepts from ``spark.properties``: name pattern to value pattern. None of them can
name code, an arbitrary file, another protocol, or a variable of a process that has access to rows."""

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
"""JVM options that Spark's own launcher sets (``JavaModuleOptions``), except for the incubator vector module, which prints a warning.

https://github.com/apache/spark/blob/master/launcher/src/main/java/org/apache/spark/launcher/JavaModuleOptions.java"""
_LOGGING = """\
rootLogger.level = off
rootLogger.appenderRef.none.ref = none
appender.none.type = Null
appender.none.name = none
"""
"""Spark's logs quote rows, and an executor receives the session's log level only after it has joined. Spark ignores
a file without an appender."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Replace this process by the driver or executor that the arguments request. On failure, return the exit code.

    Args:
        arguments: The container's arguments; by default those of this process.

    Returns:
        An exit code of :data:`sparkapp.failures.EXIT_CODES`. On success the function does not return.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        job = job_from_environment()
        if given[:1] == ["driver"]:
            command, environment = driver_command(given[1:], job, os.environ)
        elif given == ["executor"]:
            with listen() as objects:
                command, environment = executor_command(job, _attested_pod(), os.environ, Path(objects.getsockname()))
                if any(dataset.format == "parquet" for dataset in job.datasets):
                    _serve_objects(objects, environment)
        else:
            raise InvalidInput("RoleUnknown", f"container: {' '.join(given[:1]) or 'no argument'} is neither driver nor executor.")
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is needed
    except Exception as error:
        failure = redact_error(error)
        print(f"failed: {failure.code}")
        return report_failure(failure, {})


def _attested_pod() -> Pod:
    from sparkapp.identity import AttestedPod  # slow to import, and a driver needs it only later

    return AttestedPod()


def driver_command(arguments: Sequence[str], job: JobConfig, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of the driver's JVM (``spark-submit`` in client mode, as in Spark's own image).

    Args:
        arguments: ``--properties-file FILE --class org.apache.spark.deploy.PythonRunner MAIN [ARGUMENT ...]``, as measured.
        job: The job of this pod.
        environment: The environment of this container.

    Raises:
        InvalidInput: ``DriverArgumentsInvalid``, ``SparkPropertiesInvalid``.
    """
    if len(arguments) < 5 or arguments[0] != "--properties-file" or arguments[2] != "--class":
        raise InvalidInput("DriverArgumentsInvalid", "container: the driver's arguments do not have the form of Spark on Kubernetes.")
    try:
        given = javaproperties.loads(Path(arguments[1]).read_text("iso-8859-1"))
    except OSError as error:
        raise InvalidInput("SparkPropertiesInvalid", "spark.properties: the file cannot be read.", cause=error.strerror) from None
    except javaproperties.InvalidUEscapeError:
        raise InvalidInput("SparkPropertiesInvalid", "spark.properties: an escape sequence is not \\u and four hex digits.") from None
    folder = _configuration_folder()
    properties = {**driver_properties(given, job, environment), "spark.driver.extraJavaOptions": " ".join(_options(folder))}
    write_secret_file(folder / "spark.properties", javaproperties.dumps(properties, timestamp=None, sort_keys=True).encode("ascii"))
    home = spark_home()
    command = [str(home / "bin/spark-submit"), "--properties-file", str(folder / "spark.properties")]
    return [*command, arguments[4].removeprefix("local://"), *arguments[5:]], _environment(environment, home, folder)


def driver_properties(given: Mapping[str, str], job: JobConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the driver's properties: the allowed ones of ``given``, and the fixed ones.

    Args:
        given: The content of ``spark.properties``.
        job: The job of this pod.
        environment: The environment of this container.

    Raises:
        Refused: ``DynamicAllocationRefused``.
    """
    if given.get("spark.dynamicAllocation.enabled", "false").strip().lower() != "false":
        from cleanroom.settings import NO_DYNAMIC_ALLOCATION  # slow to import

        raise Refused("DynamicAllocationRefused", f"spark.properties: {NO_DYNAMIC_ALLOCATION}", party="operator")
    kept = {
        name: value
        for name, value in given.items()
        if any(re.fullmatch(key, name) and re.fullmatch(pattern, value) for key, pattern in ALLOWED_PROPERTIES.items())
    }
    if address := environment.get("SPARK_DRIVER_BIND_ADDRESS"):
        kept["spark.driver.bindAddress"] = address
    # Executors and Python workers must have the measured job in their environment.
    return {**kept, **NETWORK_CONF, "spark.submit.deployMode": "client", f"spark.executorEnv.{JOB_CONFIG_VARIABLE}": job.encode()}


def _serve_objects(objects: socket.socket, environment: Mapping[str, str]) -> None:
    """Start the server from which Spark's readers in this pod read (:mod:`sparkapp.object_server`).

    It ends with the JVM, which keeps the other end of its standard input open without using it.
    """
    read, write = os.pipe()
    os.set_inheritable(write, True)
    command = [sys.executable, "-P", "-m", "sparkapp.object_server", str(objects.fileno())]
    subprocess.Popen(command, stdin=read, env=dict(environment), pass_fds=(objects.fileno(),))  # noqa: S603 - our own program
    os.close(read)


def executor_command(job: JobConfig, pod: Pod, environment: Mapping[str, str], objects: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of an executor's JVM. Writes the run's network secret to a new file in memory.

    Args:
        job: The job of this pod.
        pod: The pod's identity.
        environment: The environment of this container.
        objects: The socket of the server that opens the run's objects for Spark.

    Raises:
        PreconditionFailed: ``ExecutorVariableMissing``, ``NetworkSecretMissing``.
        CleanRoomError: Governance did not release the secret.
    """
    folder, home = _configuration_folder(), spark_home()
    secret = network_secret_file(job, pod)
    options = {
        "--driver-url": "SPARK_DRIVER_URL",
        "--executor-id": "SPARK_EXECUTOR_ID",
        "--cores": "SPARK_EXECUTOR_CORES",
        "--app-id": "SPARK_APPLICATION_ID",
        "--hostname": "SPARK_EXECUTOR_POD_IP",
        "--resourceProfileId": "SPARK_RESOURCE_PROFILE_ID",
        "--podName": "SPARK_EXECUTOR_POD_NAME",
    }
    for name in (*options.values(), "SPARK_EXECUTOR_MEMORY"):
        if not environment.get(name):
            raise PreconditionFailed("ExecutorVariableMissing", f"container: {name} is not set, so the executor cannot join a driver.")
    # Spark reads the secret from a file only if the master begins with k8s. The executor gets the real address from its driver.
    settings = {**NETWORK_CONF, SECRET_FILE: str(secret), "spark.master": "k8s://driver"}
    command = [
        *(_java(environment), *_MODULES, *_options(folder), f"-Xmx{environment['SPARK_EXECUTOR_MEMORY']}"),
        *(f"-D{name}={value}" for name, value in {**settings, OBJECTS_PROPERTY: str(objects)}.items()),
        *("-cp", class_path(home), _EXECUTOR_CLASS),
    ]
    for option, name in options.items():
        command += [option, environment[name]]
    return command, _environment(environment, home, folder)


def network_secret_file(job: JobConfig, pod: Pod) -> Path:
    """Write the run's network secret to a new file in memory and return its path, under which this pod's JVM reads it.

    The file exists as long as this process, also after it has become a JVM, and has no name in a file system.

    Raises:
        PreconditionFailed: ``NetworkSecretMissing``.
        Refused: ``SecretRevoked``, ``NetworkSecretInvalid``.
        CleanRoomError: Governance did not release the secret.
    """
    if job.network_secret_id is None:
        raise PreconditionFailed(
            "NetworkSecretMissing",
            f"run {job.run_id!r}: the job has no network secret, so driver and executors cannot authenticate each other.",
            hint="The clean room must have this version.",
        )
    secret = require_secret(pod.secret(job.network_secret_id), job.network_secret_id)
    if not NETWORK_SECRET.fullmatch(secret.reveal()):
        raise Refused("NetworkSecretInvalid", f"run {job.run_id!r}: its network secret does not have the format of the clean room's.")
    descriptor = os.memfd_create("cleanroom-network", 0)
    os.write(descriptor, secret.reveal())
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")


def _options(folder: Path) -> list[str]:
    """Return the options of both JVMs: no logs, and the class data archive of the image.

    Java uses the archive only with the class path that it was made for, so the configuration of logs is not on it.
    """
    return [f"-Dlog4j2.configurationFile=file://{folder}/log4j2.properties", *archive_options()]


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
        "SPARK_CONF_DIR": str(folder / "none"),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }


if __name__ == "__main__":
    sys.exit(main())
