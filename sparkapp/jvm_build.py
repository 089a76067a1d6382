"""Compiles the payload's Java class into a jar next to Spark's: ``python -m sparkapp.jvm_build``.

Spark's own compiler (Janino) does it, so a Java runtime is sufficient. The same source gives the same bytes.
"""

from __future__ import annotations

import os
import sys
import zipfile
from typing import Any

from sparkapp.jvm import SOURCE, jar


def main() -> int:
    """Write the jar."""
    from pyspark import java_gateway

    launch: Any = java_gateway.launch_gateway
    gateway = launch()
    compiler = gateway.jvm.org.codehaus.janino.SimpleCompiler()
    compiler.cook(SOURCE.read_text("utf-8"))
    classes = {str(name): bytes(code) for name, code in compiler.getBytecodes().items()}
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(60)
    new = jar().with_suffix(f".{os.getpid()}")
    with zipfile.ZipFile(new, "w") as archive:
        for name, code in sorted(classes.items()):
            archive.writestr(zipfile.ZipInfo(f"{name.replace('.', '/')}.class"), code)
    new.replace(jar())
    return 0


if __name__ == "__main__":
    sys.exit(main())
