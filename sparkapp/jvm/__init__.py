"""The payload's code in the JVM: its source, and the jar that :mod:`sparkapp.jvm_build` makes of it."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

from cleanroom.errors import PreconditionFailed

SOURCE = Path(__file__).with_name("SealedFiles.java")
OBJECTS_PROPERTY = "cleanroom.objects"
"""System property of a JVM: path of the socket on which :mod:`sparkapp.object_server` serves."""


def new_socket() -> Path:
    """Return a path for that socket in a new folder of mode 0700."""
    return Path(tempfile.mkdtemp(prefix="cleanroom-objects-")) / "socket"


def spark_home() -> Path:
    """Return the folder of the installed PySpark, which includes its jars and scripts.

    Raises:
        PreconditionFailed: ``SparkNotInstalled``.
    """
    found = find_spec("pyspark")
    if found is None or not found.submodule_search_locations:
        raise PreconditionFailed("SparkNotInstalled", "image: PySpark is not installed.")
    return Path(next(iter(found.submodule_search_locations)))


def jar() -> Path:
    """Return the path of the jar. It is among Spark's jars, so every JVM of a run has it on its class path."""
    return spark_home() / "jars" / "cleanroom-sealed-files.jar"
