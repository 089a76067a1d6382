"""The exporter's signature over a bundle's head: without it, whoever holds a bundle could write another one."""

from __future__ import annotations

import datetime as dt

from cleanroom.identifiers import HexDigest, Name
from cleanroom.statements.model import Statement

SEAL_LIFETIME = dt.timedelta(days=3650)
"""A statement must end; a seal is judged at the instant of the export, so this bounds nothing in practice."""


class ExportSeal(Statement):
    """A person's word that they exported exactly these records."""

    typ = "cleanroom-audit-export+jws"

    run_id: Name
    head: HexDigest
