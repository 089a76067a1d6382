"""The code of the recorded earlier release, whose workers ``tests/scenario/test_upgrade.py`` upgrades, and the members of its messages.

``python -m tests.histories.release`` records the current code. Do so when a version is released, or, until the first release, together
with the histories (``make histories``).
"""

from __future__ import annotations

import importlib
import io
import json
import lzma
import pkgutil
import tarfile
from pathlib import Path

import cleanroom.messages
from cleanroom.messages.base import Message
from cleanroom.temporal.build import PACKAGES, ROOT, compute_build_id

ARCHIVE = Path(__file__).resolve().parent / "release.tar.xz"
MEMBERS = ARCHIVE.with_name("messages.json")


def messages() -> dict[str, type[Message]]:
    """Return the classes of all messages by name."""
    for module in pkgutil.iter_modules(cleanroom.messages.__path__):
        importlib.import_module(f"cleanroom.messages.{module.name}")
    found: list[type[Message]] = [Message]
    for kind in found:
        found += kind.__subclasses__()
    return {kind.__name__: kind for kind in found[1:] if kind.__module__.startswith("cleanroom.messages.")}


def record_release() -> None:
    """Pack the Python files of the workers, and list the members of their messages. The same code gives the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
            entry = tarfile.TarInfo(path.relative_to(ROOT).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            archive.addfile(entry, io.BytesIO(path.read_bytes()))
    ARCHIVE.write_bytes(lzma.compress(buffer.getvalue(), preset=9))
    members = {name: sorted(kind.model_fields) for name, kind in sorted(messages().items())}
    MEMBERS.write_text(json.dumps(members, indent=1) + "\n", "utf-8")
    print(f"release {compute_build_id(ROOT)}: {ARCHIVE.stat().st_size} bytes")


def unpack_release(folder: Path) -> None:
    """Unpack the recorded release into ``folder``, for ``PYTHONPATH``."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")


if __name__ == "__main__":
    record_release()
