"""The exporter's signature over a bundle's head. Without it, any holder of a bundle could write another one."""

from __future__ import annotations

import datetime as dt

from cleanroom.identifiers import HexDigest, Name
from cleanroom.statements.model import Statement

SEAL_LIFETIME = dt.timedelta(days=3650)
"""Signed statements must expire. A seal is verified as of the time of the export, so this limit has no effect in practice."""


class ExportSeal(Statement):
    """A user's signed statement that they exported exactly these records."""

    typ = "cleanroom-audit-export+jws"

    run_id: Name
    head: HexDigest
