"""Entry point of ``python -m localcloud``: checks that the extra ``local`` is installed, then runs the command line."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys

from cleanroom.errors import PreconditionFailed

LOCAL_EXTRA = ("psutil", "tomli_w", "jsonschema", "python_multipart", "pyspark", "pyarrow", "kubernetes")
"""Modules of the extra ``local`` in pyproject.toml that the launcher or the stand-ins import."""


def require_local_extra() -> None:
    """Require the modules of the extra ``local``, and Java, which Spark needs.

    Raises:
        PreconditionFailed: ``LocalExtraMissing`` names the missing modules. ``JavaMissing``.
    """
    missing = [name for name in LOCAL_EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise PreconditionFailed(
            "LocalExtraMissing",
            f"The local cloud needs Python packages that are not installed: {', '.join(missing)}.",
            hint="Install the extra: `pip install 'cleanroom[local]'`.",
        )
    if "up" in sys.argv[1:2] and shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        raise PreconditionFailed(
            "JavaMissing",
            "Spark needs Java, and there is no program `java` on the PATH.",
            hint="Install a Java runtime 17 or newer, for example the package default-jre-headless, or set JAVA_HOME.",
        )


def run() -> int:
    """Run the command line and return its exit code."""
    try:
        require_local_extra()
    except PreconditionFailed as error:
        # JSON on standard error, which `cleanroom up` parses.
        print(json.dumps(error.to_dict()), file=sys.stderr)
        return error.exit_code
    # Imported after the check, because it imports packages of the extra.
    from localcloud.launcher.command_line import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
