"""Checks Spark's analysed plan of a statement before Spark executes it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cleanroom.errors import Refused
from cleanroom.sql import Catalog
from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import conjuncts
from sparkapp.plan.tree import Node, parse_plan, refused
from sparkapp.plan.vocabulary import require_known, view_name
from sparkapp.plan.walk import PlanWalk
from sparkapp.reading import SPARK_TYPES, rows_of_persons
from sparkapp.session import open_session

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_PART = 6_000
"""Bytes in one reply of the JVM, which is 8,000 characters of base64."""


class PlanCheck:
    """The check of the plans of one session.

    Args:
        spark: A session in which the views are registered.
        catalog: The views with their owners' rules.
    """

    def __init__(self, spark: SparkSession, catalog: Catalog) -> None:
        self._catalog = catalog
        self._registered: dict[str, str] = {}
        for view in catalog.views:
            (found,) = [node for node in analysed_plan(spark.table(view.name)).walk() if node.kind == "View"]
            if view.min_group_size and not _has_persons_only(found.child, view.identity_columns):
                raise refused("PlanLeafUnknown", f"the view {view.name} has rows without an identity, which its floor cannot count")
            self._registered[view.name.lower()] = Canonical().text(found.child)

    def require_safe(self, frame: DataFrame) -> None:
        """Require that the plan of a statement reads registered views only and enforces their floors.

        Args:
            frame: The rows of the statement.

        Raises:
            Refused: ``PlanLeafUnknown``, ``PlanOperatorNotAllowed``, ``PlanExpressionNotAllowed``, ``PlanFloorMissing``,
                ``PlanJoinNotAllowed``, ``PlanColumnNotAllowed``, ``PlanRowsOfPersons`` or ``PlanUnreadable``.
        """
        plan = self.require_known(frame)
        try:
            PlanWalk(self._catalog).result(plan)
        except Refused:
            raise
        except Exception as error:
            raise refused("PlanUnreadable", f"the check failed ({type(error).__name__})") from error

    def require_known(self, frame: DataFrame) -> Node:
        """Require that a plan consists of known operators and expressions over registered views. Return the plan.

        A view that a segment creates is checked so before its rows are counted; what it contains may still be rows of persons.
        """
        plan = analysed_plan(frame)
        for view in require_known(plan, frozenset(self._registered)):
            name = view_name(view)
            if Canonical().text(view.child) != self._registered[name]:
                raise refused("PlanLeafUnknown", f"the view {name} is not the one that was registered")
        return plan


def analysed_plan(frame: DataFrame) -> Node:
    """Spark's analysed plan of ``frame``."""
    return parse_plan(plan_text(frame))


def plan_text(frame: DataFrame) -> str:
    """The text of Spark's analysed plan of ``frame``, as ``LogicalPlan.toJSON`` writes it.

    The JVM sends a reply in parts of 8,192 characters, and the last part waits for the acknowledgement of those before it: 40 ms, by
    Nagle's algorithm (RFC 896) and Linux's delayed acknowledgements. So the text comes compressed, in replies of one part.
    """
    jvm: Any = frame.sparkSession._jvm
    written = jvm.org.apache.commons.io.output.ByteArrayOutputStream()
    json_methods = getattr(getattr(jvm.org.json4s.jackson, "JsonMethods$"), "MODULE$")
    writer = jvm.java.io.OutputStreamWriter(jvm.java.util.zip.DeflaterOutputStream(written), "UTF-8")
    json_methods.mapper().writeValue(writer, frame._jdf.queryExecution().analyzed().jsonValue())  # closes the writer
    compressed = written.toInputStream()
    return zlib.decompress(b"".join(iter(lambda: bytes(compressed.readNBytes(_PART)), b""))).decode()


def _has_persons_only(plan: Node, identities: Iterable[str]) -> bool:
    """Whether a plan leaves out the rows without an identity."""
    conditions = conjuncts(plan.expression("condition")) if plan.kind == "Filter" else []
    found = {part.child.name.lower() for part in conditions if part.kind == "IsNotNull" and part.child.kind == "AttributeReference"}
    return found >= set(identities)


def check_on_empty_views(statements: Sequence[str], catalog: Catalog, spark: SparkSession | None = None) -> None:
    """Check the plans of a rewritten query without data.

    Args:
        statements: The segments in the order in which they run.
        catalog: The views with their owners' rules.
        spark: A session; None to start one.

    Raises:
        Refused: See :meth:`PlanCheck.require_safe`.
    """
    session = spark or open_session("lint")
    try:
        for view in catalog.views:
            names = {column.name.lower() for column in view.visible()} | set(view.identity_columns)
            schema = ", ".join(f"`{item.name}` {SPARK_TYPES[item.type]}" for item in view.columns if item.name.lower() in names)
            frame = session.createDataFrame([], schema)
            if view.min_group_size:
                frame = rows_of_persons(frame, view.identity_columns)
            frame.createOrReplaceTempView(view.name)
        check = PlanCheck(session, catalog)
        for statement in statements:
            frame = session.sql(statement)
        check.require_safe(frame)
    finally:
        if spark is None:
            session.stop()
