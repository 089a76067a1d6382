"""The subquery with the groups that differ from another group by a few persons.

It has this form::

Filter (size of one group - COUNT(*) BETWEEN 1 AND N - 1 OR size of the other group - COUNT(*) BETWEEN 1 AND N - 1)
+- Aggregate (by the keys and sizes of both groups)
   +- Join (by the person, and by what the aggregates add up for each)
      :- Join (by the keys)
      :  :- rows per person
      :  +- Filter (size >= N)
      :     +- Aggregate (by the keys: COUNT of the persons)
      :        +- rows per person
      +- the same again
"""

from __future__ import annotations

import re
from collections.abc import Set

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import argument, conjuncts, number_of, one_to, without_alias, without_casts
from sparkapp.plan.moments import form_of
from sparkapp.plan.tree import Node, join_kind, refused
from sparkapp.plan.walking import Walk

Meanings = dict[int, str]
"""What the attributes of an operator are: ``person``, ``size``, ``common``, or the text of a group key or an aggregate.

``same`` before the text of an aggregate is the number of persons for whom it is the same in both groups.
"""
_TOLERANCE = 1e-12
"""The order in which a sum is computed may differ."""
_SAME = re.compile(r"LessThanOrEqual\(Abs\(Subtract\(#(\d+), #(\d+)\)\), Multiply\((?P<part>[^,]+), Abs\(#\2\)\)\)")


class OverlappingGroups:
    """The groups of a release that differ from another one by fewer than ``floor`` persons, but not by none.

    Args:
        walk: The walk over the plan.
        source: Canonical text of the rows of the release.
        keys: Canonical texts of its group keys.
        floor: The strictest floor.

    Attributes:
        person: Canonical text of the identity whose persons are compared. Known after :meth:`columns`.
        values: Canonical texts of the aggregates per person that are compared. Known after :meth:`columns`.
    """

    def __init__(self, walk: Walk, source: str, keys: Set[str], floor: int) -> None:
        self._walk, self._source, self._keys, self._floor = walk, source, keys, floor
        self.values: set[str] = set()
        self._table = self.person = ""

    def columns(self, node: Node) -> Meanings:
        """The texts of the group keys that the columns of the subquery ``node`` are.

        Raises:
            Refused: ``PlanFloorMissing``.
        """
        while node.kind == "SubqueryAlias":
            node = node.child
        if node.kind != "Project":
            raise self._refused()
        (having,) = node.children
        if having.kind != "Filter" or having.child.kind != "Aggregate" or having.child.child.kind != "Join":
            raise self._refused()
        aggregate, join = having.child, having.child.child
        left, right = (self._sized(child) for child in join.children)
        found = {id: f"first {meaning}" for id, meaning in left.items()} | {id: f"second {meaning}" for id, meaning in right.items()}
        if join_kind(join) != "Inner" or self._compared(join.expression("condition"), found, "EqualTo") != {
            ("first person", "second person")
        }:
            raise self._refused()
        grouped = sorted(_meaning(item, found) for item in aggregate.expressions("groupingExpressions"))
        if grouped != sorted(f"{side} {meaning}" for side in ("first", "second") for meaning in (*self._keys, "size")):
            raise self._refused()
        outputs = self._outputs(aggregate, "aggregateExpressions", found)
        condition = having.expression("condition")
        differences = {self._difference(part, outputs) for part in _alternatives(condition)}
        counts = {count for _, count in differences}
        if "common" not in counts or differences != {(f"{side} size", count) for side in ("first", "second") for count in counts}:
            raise self._refused()
        self.values = {count.removeprefix("same ") for count in counts if count.startswith("same ")}
        return {id: meaning.removeprefix("first ") for id, meaning in self._outputs(node, "projectList", outputs).items()}

    def _refused(self) -> Exception:
        return refused("PlanFloorMissing", "the condition on overlapping groups is not that of the floor")

    def _difference(self, node: Node, outputs: Meanings) -> tuple[str, str]:
        """The size and the count in ``size - count BETWEEN 1 AND floor - 1``."""
        found = one_to(node.child) if node.kind == "Between" else None
        if found is None or found[1] != self._floor - 1 or found[0].kind != "Subtract":
            raise self._refused()
        size, count = (_meaning(part, outputs) for part in found[0].children)
        return size, count

    def _sized(self, node: Node) -> Meanings:
        """The rows per person with the sizes of their groups."""
        while node.kind == "SubqueryAlias":
            node = node.child
        if node.kind != "Project" or node.child.kind != "Join" or join_kind(node.child) != "Inner":
            raise self._refused()
        rows, groups = (self._rows(child) for child in node.child.children)
        condition = node.child.fields.get("condition")
        pairs = self._compared(node.child.read(condition), rows | groups, "EqualNullSafe") if condition else set()
        if pairs != {(key, key) for key in self._keys} or "size" in rows.values() or "size" not in groups.values():
            raise self._refused()
        return self._outputs(node, "projectList", rows | {id: meaning for id, meaning in groups.items() if meaning == "size"})

    def _rows(self, node: Node) -> Meanings:
        """The rows per person, or the sizes of the groups of at least ``floor`` persons."""
        while node.kind == "SubqueryAlias":
            node = node.child
        if node.kind == "Project":
            return self._outputs(node, "projectList", self._rows(node.child))
        if node.kind == "CTERelationRef":
            return self._table_rows(node)
        if node.kind != "Filter" or node.child.kind != "Aggregate":
            raise self._refused()
        rows = self._rows(node.child.child)
        grouped = sorted(_meaning(item, rows) for item in node.child.expressions("groupingExpressions"))
        found = self._outputs(node.child, "aggregateExpressions", rows)
        condition = node.expression("condition")
        size = condition.children[0] if condition.kind == "GreaterThanOrEqual" else condition
        least = number_of(condition.children[1]) if condition.kind == "GreaterThanOrEqual" else None
        if grouped != sorted(self._keys) or size.kind != "AttributeReference" or found.get(size.id) != "size" or least != self._floor:
            raise self._refused()
        return found

    def _table_rows(self, node: Node) -> Meanings:
        lower = self._walk.lower(node)
        canonical = Canonical()
        if lower is None or canonical.text(lower.aggregate.child) != self._source or self._table not in ("", str(node.fields["cteId"])):
            raise refused("PlanFloorMissing", "overlapping groups are computed from other rows than the release")
        self._table = str(node.fields["cteId"])
        grouping = {canonical.text(item) for item in lower.aggregate.expressions("groupingExpressions")}
        texts = {item.id: canonical.text(without_alias(item)) for item in lower.aggregate.expressions("aggregateExpressions")}
        found = {read: texts[output] for read, output in lower.names.items() if texts[output] in grouping}
        if not self._keys <= grouping or len(grouping - self._keys) != 1:
            raise self._refused()
        (self.person,) = grouping - self._keys
        meanings = {id: text if text in self._keys else "person" for id, text in found.items()}
        for read, output in lower.names.items():
            meanings.setdefault(read, texts[output])
        return meanings

    @staticmethod
    def _compared(condition: Node, found: Meanings, kind: str) -> set[tuple[str, str]]:
        """Pairs of attributes that all parts of a condition compare."""
        pairs = set()
        for part in conjuncts(condition):
            sides = [_meaning(side, found) for side in part.children]
            pairs.add((sides[0], sides[1]) if part.kind == kind and len(sides) == 2 else ("", ""))
        return pairs

    @staticmethod
    def _outputs(node: Node, member: str, found: Meanings) -> Meanings:
        outputs = {}
        for item in node.expressions(member):
            inner = without_alias(item)
            counted, same = argument(inner, "Count"), argument(inner, "CountIf")
            number = _number(inner)
            if inner.kind == "AttributeReference" and inner.id in found:
                outputs[item.id] = found[inner.id]
            elif counted is not None and counted.kind == "AttributeReference" and found.get(counted.id) == "person":
                outputs[item.id] = "size"
            elif counted is not None and counted.kind == "Literal" and counted.fields.get("value") == "1":
                outputs[item.id] = "common"
            elif same is not None and (text := _same_value(same, found)):
                outputs[item.id] = f"same {text}"
            elif number is not None and number.id in found:
                outputs[item.id] = found[number.id]
        return outputs


def _number(node: Node) -> Node | None:
    """The attribute ``x`` of ``COALESCE(CAST(x AS DOUBLE), 0)``."""
    if node.kind != "Coalesce" or len(node.children) != 2 or number_of(node.children[1]) != 0:
        return None
    inner = without_casts(node.children[0], ("double",))
    return inner if inner.kind == "AttributeReference" else None


def _same_value(test: Node, found: Meanings) -> str:
    """The text of what ``ABS(x - y) <= 1E-12 * ABS(y)`` compares in two groups; empty for any other test."""
    match = _SAME.fullmatch(form_of(test))
    if match is None or any(part.kind == "Cast" for part in test.walk()) or not 0 <= float(match["part"]) <= _TOLERANCE:
        return ""
    first, second = (found.get(int(id), "") for id in match.groups()[:2])
    text = first.removeprefix("first ")
    return text if first == f"first {text}" and second == f"second {text}" else ""


def _alternatives(node: Node) -> list[Node]:
    """The conditions that OR combines."""
    return [part for child in node.children for part in _alternatives(child)] if node.kind == "Or" else [node]


def _meaning(node: Node, found: Meanings) -> str:
    """What an expression is, if it is an attribute with a meaning."""
    return found.get(node.id, "") if node.kind == "AttributeReference" else ""
