"""The query gate: an allow-list over Spark SQL, column lineage, and privacy floors enforced by a rewrite.

``analyse(segments, catalog)`` is the whole of it; see :mod:`cleanroom.sql.gate`.
"""

from cleanroom.sql.catalog import Catalog, Column, View, view_of
from cleanroom.sql.gate import analyse, check_sql
from cleanroom.sql.lexical import strip_invisible
from cleanroom.sql.sparkconf import locked_spark_conf, locked_sql_conf
from cleanroom.sql.verdict import (
    AppliedFloor,
    GateVerdict,
    Lineage,
    OutputColumn,
    OutputLineage,
    Position,
    Reason,
    RewrittenSegment,
    SourceUse,
)

__all__ = [
    "AppliedFloor",
    "Catalog",
    "Column",
    "GateVerdict",
    "Lineage",
    "OutputColumn",
    "OutputLineage",
    "Position",
    "Reason",
    "RewrittenSegment",
    "SourceUse",
    "View",
    "analyse",
    "check_sql",
    "locked_spark_conf",
    "locked_sql_conf",
    "strip_invisible",
    "view_of",
]
