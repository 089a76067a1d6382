"""Build ID of the running code, which Temporal's Worker Versioning routes workflows by. Needs the standard library only.

The build ID is a digest of the code that workflows and activities execute, and of its locked dependencies. The image's build writes it
to :data:`BUILD_FILE`, where people can read it; code that runs from a checkout computes the same value. Print it with
``python3 cleanroom/temporal/build.py``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""Folder of the packages: the checkout, or ``/opt/cleanroom`` in the image."""
PACKAGES: Final = ("activities", "cleanroom", "workers", "workflows")
LOCK: Final = "requirements.lock"
BUILD_FILE: Final = "build-id"
LENGTH: Final = 16
"""Hexadecimal digits of a build ID. It is part of Kubernetes names and labels, so it is short."""


def compute_build_id(root: Path) -> str:
    """Return the digest of the Python files of :data:`PACKAGES` and of :data:`LOCK` in ``root``."""
    files = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    digest = hashlib.sha256()
    for path in sorted((*files, *root.glob(LOCK)), key=lambda item: item.relative_to(root).as_posix()):
        content = path.read_bytes()
        # The lengths separate the names and contents.
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:LENGTH]


def stated_build_id(root: Path = ROOT) -> str | None:
    """Return the build ID that the image's build wrote; None for a checkout."""
    file = root / BUILD_FILE
    return file.read_text("ascii").strip() if file.exists() else None


def build_id(root: Path = ROOT) -> str:
    """Return the build ID that the image's build wrote, or compute it."""
    return stated_build_id(root) or compute_build_id(root)


if __name__ == "__main__":
    print(build_id())
