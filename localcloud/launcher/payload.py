"""Prepares the installed PySpark for the payload of the runs."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path

from cleanroom.errors import Unavailable
from localcloud.launcher.supervisor import python


def prepare_payload() -> None:
    """Compile the payload's Java class into a jar among Spark's, unless it is there. `make setup` does so in a checkout.

    Raises:
        Unavailable: ``PayloadNotBuilt`` with the end of the output.
    """
    spec = find_spec("pyspark")
    jars = Path(spec.origin).parent / "jars" if spec is not None and spec.origin else None
    if jars is not None and any(jars.glob("cleanroom-*.jar")):
        return
    done = subprocess.run(python("sparkapp.jvm_build"), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(
            "PayloadNotBuilt",
            "The Java class of the pods could not be compiled.",
            cause=(done.stdout + done.stderr)[-2000:],
            hint="Check that the Java runtime is 17 or newer, and that the installation's folder is writable.",
            retryable=False,
        )
