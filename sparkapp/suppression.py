"""Rows per person of a release: held in Spark's memory, and the number of rows that privacy floors leave out of the result."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Suppression:
    """The rows per person of a release, and the groups that are shown.

    Attributes:
        persons: One row per group and person.
        shown: The groups that meet the conditions of the floors.
        keys: Names of the group keys in both.
    """

    persons: DataFrame
    shown: DataFrame
    keys: tuple[str, ...]

    def unpersist(self) -> None:
        """Free the memory."""
        for part in (self.shown, self.persons):
            part.unpersist(blocking=True)

    def count(self, floor: int) -> int | None:
        """Return the number of groups that are not shown, if they are about at least ``floor`` persons; None otherwise.

        Without that limit, the number would say whether a group exists that contains a single person.
        """
        from pyspark.sql import functions

        names = [f"k{index}" for index in range(len(self.keys))]
        rows = self.persons.select(*self.keys, "__cr_p").toDF(*names, "person")
        shown = self.shown.select(*self.keys).toDF(*[f"shown_{name}" for name in names])
        same = [rows[name].eqNullSafe(shown[f"shown_{name}"]) for name in names]
        left_out = rows.join(shown, functools.reduce(operator.and_, same, functions.lit(True)), "left_anti")
        groups = functions.count_distinct(functions.struct(functions.lit(0), *names))
        (found,) = left_out.agg(groups.alias("groups"), functions.count_distinct("person").alias("persons")).collect()
        return int(found["groups"]) if found["persons"] >= floor else None


def hold_persons(spark: SparkSession, frame: DataFrame) -> tuple[DataFrame, Suppression | None]:
    """Keep the rows per person of the first release, and its groups, in memory: the result and the count read them.

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
    shown, persons = (Frame(dataset.ofRows(spark._jsparkSession, node), spark) for node in found)
    for part in (persons, shown):
        part.persist()
    keys = tuple(name for name in persons.columns if name.startswith("__cr_k"))
    return Frame(dataset.ofRows(spark._jsparkSession, plan), spark), Suppression(persons, shown, keys)


def _first_release(plan: Any) -> tuple[Any, Any] | None:
    """The groups that are shown and the rows per person of the first release: nodes of the plan in the JVM."""
    waiting: list[tuple[Any, Any]] = [(plan, None)]
    while waiting:
        node, shown = waiting.pop()
        name = node.nodeName()
        if name == "SubqueryAlias" and node.alias() == "__cr_r":
            persons = node.child()
            while persons.nodeName() == "SubqueryAlias":
                persons = persons.child()
            return shown, persons
        if shown is not None and name not in ("Filter", "Project", "Aggregate", "SubqueryAlias", "Join"):
            shown = None
        children = node.children()
        for index in reversed(range(children.size())):
            child = children.apply(index)
            waiting.append((child, _shown(node, name, index, shown)))
    return None


def _shown(node: Any, name: str, index: int, shown: Any) -> Any:
    """The part of the plan with the groups that are shown, as seen from a child."""
    if name == "Join" and index == 0 and node.right().nodeName() == "SubqueryAlias" and node.right().alias().startswith("__cr_"):
        return shown or node
    if name == "SubqueryAlias" and node.alias().startswith("__cr_g"):
        return shown or node
    if name in ("Filter", "Project", "Aggregate", "SubqueryAlias"):
        return shown
    return None
