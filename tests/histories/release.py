"""The code of the recorded earlier release, whose workers ``tests/scenario/test_upgrade.py`` upgrades.

``python -m tests.histories.release`` records the current code. Do so when a version is released, or, until the first release, together
with the histories (``make histories``).
"""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

from cleanroom.temporal.build import PACKAGES, ROOT, compute_build_id

ARCHIVE = Path(__file__).resolve().parent / "release.tar.xz"


def record_release() -> None:
    """Pack the Python files of the workers. The same code gives the same archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
            entry = tarfile.TarInfo(path.relative_to(ROOT).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            archive.addfile(entry, io.BytesIO(path.read_bytes()))
    ARCHIVE.write_bytes(lzma.compress(buffer.getvalue(), preset=9))
    print(f"release {compute_build_id(ROOT)}: {ARCHIVE.stat().st_size} bytes")


def unpack_release(folder: Path) -> None:
    """Unpack the recorded release into ``folder``, for ``PYTHONPATH``."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")


if __name__ == "__main__":
    record_release()
