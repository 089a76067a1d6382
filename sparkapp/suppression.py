"""Rows per person of a release: held in Spark's memory, and the number of rows that privacy floors leave out of the result."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Suppression:
    """The rows per person of a release, its groups, and those that are shown.

    Attributes:
        persons: One row per group and person.
        groups: One row per group.
        shown: The groups that meet the conditions of the floors.
        left_out: The keys of the others.
        keys: Names of the group keys in all but ``left_out``.
    """

    persons: DataFrame
    groups: DataFrame
    shown: DataFrame
    left_out: DataFrame
    keys: tuple[str, ...]

    def unpersist(self) -> None:
        """Free the memory."""
        for part in (self.shown, self.groups, self.persons):
            part.unpersist(blocking=True)

    def count(self, floor: int) -> int | None:
        """Return the number of groups that are not shown, if they are about at least ``floor`` persons; None otherwise.

        Without that limit, the number would say whether a group exists that contains a single person.
        """
        number = self.left_out.count()
        if number == 0:
            return None
        persons = _matching(self.persons.select(*self.keys, "__cr_p"), self.keys, self.left_out, "left_semi")
        return number if persons.select("__cr_p").where("__cr_p IS NOT NULL").distinct().count() >= floor else None


def _matching(rows: DataFrame, names: Sequence[str], others: DataFrame, how: str) -> DataFrame:
    """A join of rows with others on all their columns, of which NULLs are equal."""
    from pyspark.sql import functions

    same = (rows[name].eqNullSafe(others[other]) for name, other in zip(names, others.columns, strict=True))
    return rows.join(others, functools.reduce(operator.and_, same, functions.lit(True)), how)


def hold_persons(spark: SparkSession, frame: DataFrame) -> tuple[DataFrame, Suppression | None]:
    """Keep the rows per person of the first release and its groups in memory: the result and the count read them.

    Returns:
        The same rows as ``frame``, and the release; None without a release.
    """
    from pyspark.sql import DataFrame as Frame

    jvm: Any = spark._jvm
    optimizer, dataset = jvm.org.apache.spark.sql.catalyst.optimizer, jvm.org.apache.spark.sql.classic.Dataset
    # Without common table expressions, each part of the plan can be computed alone.
    plan = optimizer.InlineCTE(True, False, False).apply(frame._jdf.queryExecution().analyzed())
    found = _first_release(plan)
    if found is None:
        return frame, None

    def frame_of(node: Any) -> DataFrame:
        return Frame(dataset.ofRows(spark._jsparkSession, node), spark)

    persons, groups, shown = map(frame_of, found)
    # Without joins, those that are shown are a filter of the groups.
    for part in (persons, groups, *([shown] if found[2].nodeName() == "Join" else [])):
        part.persist()
    keys = tuple(name for name in persons.columns if name.startswith("__cr_k"))
    others = _others(jvm, *found[1:])
    # A filter of the groups is one job without a join.
    left_out = (groups if others is None else frame_of(others)).selectExpr(*(f"{name} AS left_{name}" for name in keys))
    if others is None:
        left_out = _matching(left_out, left_out.columns, shown.select(*keys), "left_anti")
    return frame_of(plan), Suppression(persons, groups, shown, left_out, keys)


def _others(jvm: Any, groups: Any, shown: Any) -> Any:
    """The groups that are not shown, if those that are shown are a filter of the groups; None otherwise."""
    while shown.nodeName() in ("SubqueryAlias", "Project"):
        shown = shown.child()
    if shown.nodeName() != "Filter" or not shown.child().fastEquals(groups):
        return None
    catalyst = jvm.org.apache.spark.sql.catalyst
    met = catalyst.expressions.EqualNullSafe(shown.condition(), catalyst.expressions.Literal.TrueLiteral())
    return catalyst.plans.logical.Filter(catalyst.expressions.Not(met), groups)


def _first_release(plan: Any) -> tuple[Any, Any, Any] | None:
    """The rows per person, the groups, and the groups that are shown, of the first release: nodes of the plan in the JVM."""
    waiting: list[tuple[Any, Any]] = [(plan, None)]
    while waiting:
        node, shown = waiting.pop()
        name = node.nodeName()
        if name == "Aggregate" and node.child().nodeName() == "SubqueryAlias" and node.child().alias() == "__cr_r":
            persons = node.child()
            while persons.nodeName() == "SubqueryAlias":
                persons = persons.child()
            return persons, node, shown
        if shown is not None and name not in ("Filter", "Project", "Aggregate", "SubqueryAlias", "Join"):
            shown = None
        children = node.children()
        for index in reversed(range(children.size())):
            child = children.apply(index)
            waiting.append((child, _shown(node, name, index, shown)))
    return None


def _shown(node: Any, name: str, index: int, shown: Any) -> Any:
    """The part of the plan with the groups that are shown, as seen from a child."""
    right = node.right() if name == "Join" and index == 0 else None
    if right is not None and right.nodeName() == "SubqueryAlias" and right.alias().startswith("__cr_") and right.alias() != "__cr_v":
        return shown or node
    if name == "SubqueryAlias" and node.alias().startswith("__cr_g"):
        return shown or node
    if name in ("Filter", "Project", "Aggregate", "SubqueryAlias"):
        return shown
    return None
