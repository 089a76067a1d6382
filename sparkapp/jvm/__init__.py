"""The payload's code in the JVM: its source, and the jar that :mod:`sparkapp.jvm_build` makes of it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path

from cleanroom.errors import PreconditionFailed

SOURCE = Path(__file__).with_name("SealedFiles.java")
CLASSES = Path(__file__).with_name("classes.txt.gz")
"""The classes in the class data archive; see :mod:`sparkapp.jvm_archive`."""
QUIET = ("-XX:+IgnoreUnrecognizedVMOptions", "-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr")
"""A JVM that cannot use the archive starts without it, and prints nothing about it."""
OBJECTS_PROPERTY = "cleanroom.objects"
"""System property of a JVM: path of the socket on which :mod:`sparkapp.object_server` serves."""


SOCKET_PATH_BYTES = 107
"""Longest path of a Unix domain socket in Linux (unix(7)). Folders for temporary files can have longer names."""


def listen() -> socket.socket:
    """Return a socket that listens in a new folder of mode 0700. A client can connect before a server accepts."""
    name = "cleanroom-objects-xxxxxxxx/socket"
    fits = len(os.fsencode(tempfile.gettempdir())) + 1 + len(name) <= SOCKET_PATH_BYTES
    folder = tempfile.mkdtemp(prefix="cleanroom-objects-", dir=None if fits else "/tmp")  # noqa: S108 - a new folder
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{folder}/socket")
    listener.listen(64)
    return listener


def spark_home() -> Path:
    """Return the folder of the installed PySpark, which includes its jars and scripts.

    Raises:
        PreconditionFailed: ``SparkNotInstalled``.
    """
    found = find_spec("pyspark")
    if found is None or not found.submodule_search_locations:
        raise PreconditionFailed("SparkNotInstalled", "image: PySpark is not installed.")
    location = Path(next(iter(found.submodule_search_locations)))
    # spark-submit puts the archive python/lib/pyspark.zip of the same installation before it on the path.
    archived = next((parent for parent in location.parents if parent.suffix == ".zip"), None)
    return location if archived is None else archived.parents[2]


def class_path(home: Path) -> str:
    """Return the class path of a JVM of Spark, as Spark's own launcher builds it without a configuration folder."""
    jars = home / "jars"
    return ":".join([*map(str, jars.glob("slf4j-api-*.jar")), f"{jars}/*"])


def jar() -> Path:
    """Return the path of the jar. It is among Spark's jars, so every JVM of a run has it on its class path."""
    return spark_home() / "jars" / "cleanroom-sealed-files.jar"


def archive() -> Path:
    """Return the path of the class data archive."""
    return spark_home() / "cleanroom.jsa"


def archive_options() -> list[str]:
    """Return the options of a JVM that uses the class data archive, if there is one."""
    return [f"-XX:SharedArchiveFile={archive()}", *QUIET] if archive().exists() else []


def java() -> str:
    """Return the Java program of this environment."""
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin/java") if home else shutil.which("java") or "java"
