"""The query gate: checks Spark SQL against an allowlist, records column lineage, and rewrites queries to enforce privacy floors.

Other packages import from this module only. Its public API:

* :func:`analyse` checks the segments of a query document; :func:`check_sql` does the same for plain statements. Both return a
  :class:`GateVerdict` and never raise because of the query.
* :class:`Catalog`, :class:`View`, :class:`Column` and :func:`view_of` describe what a query may read. :func:`unique_members` refuses
  JSON objects with duplicate members.
* :class:`Reason`, :class:`Lineage`, :class:`RewrittenSegment` and the other members of a verdict.
* :func:`split_statements` splits a file into statements, and :class:`Tokens` a text into tokens; they raise :class:`Refusal`.
* :func:`locked_spark_conf` and :func:`locked_sql_conf` are the Spark settings that the rewritten text assumes.
* :func:`strip_invisible` makes text from a query safe to print.
"""

from cleanroom.sql.catalog import Catalog, Column, View, unique_members, view_of
from cleanroom.sql.gate import analyse, check_sql
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.sparkconf import locked_spark_conf, locked_sql_conf
from cleanroom.sql.text.tokens import Tokens, split_statements, strip_invisible
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
    Warning,
)

__all__ = [
    "AppliedFloor", "Catalog", "Column", "GateVerdict", "Lineage", "OutputColumn", "OutputLineage", "Position", "Reason", "Refusal",
    "RewrittenSegment", "SourceUse", "Tokens", "View", "Warning", "analyse", "check_sql", "locked_spark_conf", "locked_sql_conf",
    "split_statements", "strip_invisible", "unique_members", "view_of",
]  # fmt: skip
