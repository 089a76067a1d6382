"""Prints the part of ``requirements.lock`` that an image needs, with hashes.

Usage: ``python requirements.py worker|spark [--only NAME ...] [--without NAME ...]``.

The dependencies follow from ``pyproject.toml`` and from the ``# via`` lines of the lock. The pods' image omits packages that only workers
and the CLI use, so less attested code has access to rows.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

WORKERS_ONLY = frozenset(
    (
        *("temporalio", "azure-keyvault-keys", "azure-mgmt-msi", "azure-mgmt-authorization", "kubernetes"),
        *("typer", "rich", "plotext", "xlsxwriter", "starlette", "uvicorn"),
        *("opentelemetry-exporter-otlp-proto-http", "opentelemetry-instrumentation-httpx", "opentelemetry-instrumentation-urllib3"),
    )
)
"""Direct dependencies that neither ``sparkapp`` nor its part of ``cleanroom`` imports."""
EXTRAS = ("rows", "cluster")
"""Extras of both images."""
PROJECT = "cleanroom"


@dataclass
class Pin:
    """A package of the lock: its lines, and the packages that need it."""

    text: str
    via: set[str] = field(default_factory=set)


def read_lock(text: str) -> dict[str, Pin]:
    """Return the packages of a lock by normalised name."""
    pins: dict[str, Pin] = {}
    current: Pin | None = None
    for line in text.splitlines():
        if match := re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^]]*\])?==", line):
            current = pins.setdefault(_name(match[1]), Pin(""))
        if current is None:
            continue
        if line.lstrip().startswith("#"):
            if match := re.fullmatch(r"\s*#\s+(?:via\s+)?([A-Za-z0-9][A-Za-z0-9._-]*)(?:\s+\(.*\))?", line):
                current.via |= {_name(match[1])} - {"via"}
        else:
            current.text += line + "\n"
    return pins


def roots(project: dict[str, object], role: str) -> set[str]:
    """Return the direct dependencies of the image ``role``."""
    table = project["project"]
    assert isinstance(table, dict)
    extras = table["optional-dependencies"]
    assert isinstance(extras, dict)

    def names(items: list[str]) -> set[str]:
        return {_name(re.split(r"[^A-Za-z0-9._-]", item)[0]) for item in items}

    direct = names(table["dependencies"]).union(*(names(extras[extra]) for extra in EXTRAS))
    return direct if role == "worker" else (direct - WORKERS_ONLY) | names(extras["spark"])


def closure(pins: dict[str, Pin], wanted: set[str]) -> set[str]:
    """Return ``wanted`` and all their dependencies.

    Raises:
        LookupError: A package is not in the lock.
    """
    if missing := sorted(wanted - set(pins)):
        raise LookupError(f"requirements.lock does not contain {', '.join(missing)}")
    found: set[str] = set()
    new = set(wanted)
    while new:
        found |= new
        new = {name for name, pin in pins.items() if pin.via & new} - found
    return found


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def main() -> int:
    """Print the requirements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("worker", "spark"))
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--without", nargs="*", default=())
    options = parser.parse_args()
    here = Path(__file__).resolve().parent
    folder = here if (here / "requirements.lock").exists() else here.parent
    pins = read_lock((folder / "requirements.lock").read_text("utf-8"))
    names = closure(pins, roots(tomllib.loads((folder / "pyproject.toml").read_text("utf-8")), options.role))
    names = (names if options.only is None else names & set(options.only)) - set(options.without)
    sys.stdout.write("".join(pins[name].text for name in sorted(names)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
