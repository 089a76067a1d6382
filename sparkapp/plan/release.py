"""The groups that a plan may show: how the conditions of privacy floors must look.

Rows of persons leave a plan only as groups of this form::

    Filter (conditions of the floors)
    +- Aggregate (by the group keys)
       +- Aggregate (by the group keys and one identity)
          +- rows of persons

Each condition is one of

* at least N rows of the lower aggregate in which the identity is not NULL;
* N or more persons, or else none, with a row that meets a test;
* no person has more than a part of a sum.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.rows import Person
from sparkapp.plan.tree import Node, refused

SUMS = frozenset({"Sum", "Average"})
"""Functions to which a zero contributes nothing, and in which one person may dominate."""


@dataclass
class Floors:
    """What the conditions of a release require.

    Attributes:
        persons: Smallest number of persons in a group.
        tests: For each test of the rows of a person, in canonical text, the smallest number of persons who meet it.
        tested: Attributes that the tests and the counted values read.
        shares: For each sum of absolute values, in canonical text, the largest part of one person in percent.
        differences: Tests of the rows of a person, in canonical text: those who meet none are none or enough.
    """

    persons: int = 0
    tests: dict[str, int] = field(default_factory=dict)
    tested: set[int] = field(default_factory=set)
    shares: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


@dataclass
class Groups:
    """Groups of persons.

    Attributes:
        filter: The conditions.
        upper: The aggregate by the group keys.
        lower: The aggregate by the group keys and one identity.
        inputs: Outputs of ``lower``, by the attributes that ``upper`` reads.
        keys: For each output of ``upper`` that is a group key, its expression over the rows.
        person: Expression that reads the identity.
        floors: What the conditions require.
    """

    filter: Node
    upper: Node
    lower: Node
    inputs: dict[int, Node]
    keys: dict[int, Node]
    person: Node
    floors: Floors

    def outputs(self) -> list[Node]:
        """Outputs of ``upper`` that operators above the conditions may read."""
        conditions = {part.id for part in self.filter.expression("condition").walk() if part.kind == "AttributeReference"}
        items = self.upper.expressions("aggregateExpressions")
        return [item for item in items if item.id not in conditions or item.name.startswith("__cr_")]

    def released(self) -> list[Node]:
        """The expressions of these outputs that are not group keys."""
        return [without_alias(item) for item in self.outputs() if item.id not in self.keys]

    def merged(self, node: Node) -> list[Node]:
        """Expressions over the rows that an expression of ``upper`` combines."""
        return [self.inputs[part.id] for part in node.walk() if part.kind == "AttributeReference" and part.id in self.inputs]


@dataclass
class PartialRelease:
    """Groups whose conditions do not cover everything yet: joins with other groups follow.

    Attributes:
        groups: The groups.
        source: Canonical text of their rows.
        persons: Whom the conditions do not count.
        overlap: Groups that overlap with another one must be left out.
        floor: The strictest floor.
    """

    groups: Groups
    source: str
    persons: list[Person]
    overlap: bool
    floor: int


def without_alias(node: Node) -> Node:
    """The expression behind an alias."""
    return node.child if node.kind == "Alias" else node


def conjuncts(node: Node) -> list[Node]:
    """The conditions that AND combines."""
    if node.kind == "And":
        return [part for child in node.children for part in conjuncts(child)]
    return [node]


def groups_of(filter: Node, upper: Node, lower: Node, names: dict[int, int]) -> Groups:
    """Read a release.

    Args:
        filter: The conditions.
        upper: The aggregate below them.
        lower: The aggregate below that.
        names: For each attribute that ``upper`` reads, the output of ``lower`` that it is.

    Raises:
        Refused: ``PlanFloorMissing``.
    """
    canonical = Canonical()
    canonical.text(lower.child)
    outputs = {item.id: without_alias(item) for item in lower.expressions("aggregateExpressions")}
    inputs = {read: outputs[output] for read, output in names.items() if output in outputs}
    grouping = {canonical.text(item): item for item in lower.expressions("groupingExpressions")}
    keys = {}
    for item in upper.expressions("groupingExpressions"):
        if item.kind != "AttributeReference" or item.id not in inputs:
            raise refused("PlanFloorMissing", "the groups of persons are not those of the release")
        keys[item.id] = inputs[item.id]
    texts = {canonical.text(key) for key in keys.values()}
    identities = [item for text, item in grouping.items() if text not in texts]
    if not texts <= grouping.keys() or len(identities) != 1:
        raise refused("PlanFloorMissing", "the rows of a release are not grouped by one identity")
    person = identities[0]
    persons = {read for read, node in inputs.items() if canonical.text(node) == canonical.text(person)}
    values = {item.id: without_alias(item) for item in upper.expressions("aggregateExpressions") if item.kind == "Alias"}
    floors = Floors()
    for condition in conjuncts(filter.expression("condition")):
        _Condition(condition, values, inputs, persons, canonical).read(floors)
    return Groups(filter, upper, lower, inputs, _keys(upper, keys), person, floors)


def _keys(upper: Node, keys: dict[int, Node]) -> dict[int, Node]:
    """For each output of the aggregate that is a group key, the expression of the key."""
    outputs = {}
    for item in upper.expressions("aggregateExpressions"):
        inner = without_alias(item)
        if inner.kind == "AttributeReference" and inner.id in keys:
            outputs[item.id] = keys[inner.id]
    return outputs


def number_of(node: Node) -> int | None:
    """The whole number that an expression is, if it is a constant."""
    while node.kind == "Cast":
        node = node.child
    text = str(node.fields.get("value")) if node.kind == "Literal" else ""
    return int(text) if text.isdecimal() else None


@dataclass
class _Condition:
    node: Node
    values: dict[int, Node]
    inputs: dict[int, Node]
    persons: set[int]
    canonical: Canonical

    def read(self, floors: Floors) -> None:
        """Add what the condition requires."""
        node = self.node
        if node.kind == "GreaterThanOrEqual" and (least := number_of(node.children[1])) is not None:
            counted = self._aggregate(node.children[0], "Count")
            if counted is not None and counted.kind == "AttributeReference" and counted.id in self.persons:
                floors.persons = max(floors.persons, least)
                return
            if self._test(node.children[0], least, floors):
                return
        if node.kind == "Not" and node.child.kind == "Between" and self._none_or_enough(node.child.child, floors):
            return
        if node.kind == "LessThanOrEqual" and self._share(node.children[0], node.children[1], floors):
            return
        raise refused("PlanFloorMissing", f"the conditions of a release contain another one ({node.kind})")

    def _aggregate(self, node: Node, function: str) -> Node | None:
        """The argument of an aggregate of the groups."""
        value = self.values.get(node.id) if node.kind == "AttributeReference" else None
        return _argument(value, function)

    def _test(self, node: Node, least: int, floors: Floors) -> bool:
        """``COUNT_IF(c > 0)``, where ``c`` counts the rows of a person that meet a test."""
        found = self._aggregate(node, "CountIf")
        if found is None or found.kind != "GreaterThan" or number_of(found.children[1]) != 0:
            return False
        column = found.children[0]
        counted = _argument(self.inputs.get(column.id) if column.kind == "AttributeReference" else None, "Count")
        if counted is None:
            return False
        conditional = counted.kind == "CaseWhen" and len(counted.children) == 2
        text = self.canonical.text(counted.children[0]) if conditional else ""
        floors.tests[text] = max(floors.tests.get(text, 0), least)
        floors.tested |= {part.id for part in counted.walk() if part.kind == "AttributeReference"}
        return True

    def _none_or_enough(self, node: Node, floors: Floors) -> bool:
        """``NOT (n BETWEEN 1 AND N - 1)``."""
        found = _one_to(node)
        return found is not None and (self._test(found[0], found[1] + 1, floors) or self._difference(found[0], found[1] + 1, floors))

    def _difference(self, node: Node, least: int, floors: Floors) -> bool:
        """``COUNT_IF(c = 0)``, and ``COUNT_IF((c > 0) <> (d > 0))``, which restricts the groups further."""
        found = self._aggregate(node, "CountIf")
        if found is not None and found.kind == "EqualTo" and number_of(found.children[1]) == 0:
            column = found.children[0]
            counted = _argument(self.inputs.get(column.id) if column.kind == "AttributeReference" else None, "Count")
            if counted is None or least < floors.persons:
                return False
            floors.differences.append(self.canonical.text(counted.children[0]) if counted.kind == "CaseWhen" else "")
            return True
        return found is not None and found.kind == "Not" and all(part.kind == "GreaterThan" for part in found.child.children)

    def _share(self, left: Node, right: Node, floors: Floors) -> bool:
        """``100 * MAX(s) <= percent * SUM(s)``, where ``s`` is the sum of absolute values of a person."""
        if left.kind != "Multiply" or right.kind != "Multiply" or number_of(left.children[0]) != 100:
            return False
        percent = number_of(right.children[0])
        largest, total = self._aggregate(left.children[1], "Max"), self._aggregate(right.children[1], "Sum")
        if (
            percent is None
            or largest is None
            or total is None
            or largest.kind != "AttributeReference"
            or total.kind != "AttributeReference"
        ):
            return False
        column = self.inputs.get(largest.id)
        if largest.id != total.id or column is None or column.kind != "Coalesce":
            return False
        summed = _argument(column.children[0], "Sum")
        if summed is None or summed.kind != "Abs":
            return False
        text = self.canonical.text(summed.child)
        floors.shares[text] = min(floors.shares.get(text, 100), percent)
        return True


def _one_to(node: Node) -> tuple[Node, int] | None:
    """The expression and the number of ``x BETWEEN 1 AND n``, as the analysed form of BETWEEN contains them."""
    if node.kind != "With" or len(node.children) != 2 or node.children[0].kind != "And":
        return None
    low, high = node.children[0].children
    definition = node.children[1]
    if low.kind != "GreaterThanOrEqual" or high.kind != "LessThanOrEqual" or definition.kind != "CommonExpressionDef":
        return None
    if any(part.children[0].kind != "CommonExpressionRef" for part in (low, high)) or number_of(low.children[1]) != 1:
        return None
    most = number_of(high.children[1])
    return None if most is None else (definition.child, most)


def compares_groups(differences: Node, sizes: Node, floor: int) -> bool:
    """Whether conditions select the pairs of groups of at least ``floor`` persons that differ by fewer than ``floor`` persons.

    Args:
        differences: ``size - common BETWEEN 1 AND floor - 1`` for one of two groups.
        sizes: ``size >= floor`` for both groups.
        floor: The floor.
    """
    least = [number_of(part.children[1]) if part.kind == "GreaterThanOrEqual" else None for part in conjuncts(sizes)]
    if differences.kind != "Or" or len(least) != 2 or any(number is None or number > floor for number in least):
        return False
    found = [_one_to(part.child) if part.kind == "Between" else None for part in differences.children]
    return all(part is not None and part[0].kind == "Subtract" and part[1] >= floor - 1 for part in found)


def _argument(node: Node | None, function: str) -> Node | None:
    """The argument of an aggregate, if ``node`` is one without DISTINCT and FILTER."""
    if node is None or node.kind != "AggregateExpression" or node.fields.get("isDistinct") or len(node.children) != 1:
        return None
    call = node.child
    return call.child if call.kind == function and len(call.children) == 1 else None


def require_floors(floors: Floors, persons: Iterable[Person], counted: frozenset[int], values: dict[int, int]) -> list[Person]:
    """Require that the conditions count the persons, and return those whom they do not.

    Args:
        floors: The conditions.
        persons: Whose rows they are.
        counted: Values of the identity by which the rows are grouped.
        values: Value of each attribute.

    Raises:
        Refused: ``PlanFloorMissing``.
    """
    persons = list(persons)
    strictest = max((person.floor for person in persons), default=0)
    tested = {values[id] for id in floors.tested if id in values}
    uncovered = [person for person in persons if not counted & person.ids and not (counted & person.found and tested & person.ids)]
    least = min([floors.persons, *floors.tests.values()])
    if len(uncovered) == len(persons) or least < strictest:
        raise refused("PlanFloorMissing", f"a release shows groups of {max(least, 0)} persons; the floor is {strictest}")
    return uncovered


def require_contributors(terms: Iterable[tuple[str, str]], floors: Floors, share: int) -> None:
    """Require that the persons who contribute to each sum, or by whom two sums differ, are counted, and that none of them dominates it.

    Args:
        terms: Canonical texts of the summands, and names of their functions.
        floors: The conditions.
        share: Largest part of one person in percent.

    Raises:
        Refused: ``PlanFloorMissing``.
    """
    terms = list(terms)
    for text, function in terms:
        if not any(f"{word}({text}, " in test for test in floors.tests for word in ("Not(EqualTo", "Not(EqualTo(Cast")):
            raise refused("PlanFloorMissing", f"the persons who contribute to {function.upper()} are not counted")
        if function in SUMS and share < 100 and not any(text in summed and percent <= share for summed, percent in floors.shares.items()):
            raise refused("PlanFloorMissing", f"no condition limits the part of one person in {function.upper()}")
    differences = [test for test in floors.tests if test.startswith(("Not(EqualTo(Coalesce(", "Not(EqualTo(Cast(Coalesce("))]
    columns = list(dict.fromkeys(frozenset(re.findall(r"AttributeReference\([^()]*\)", text)) for text, _ in terms))
    for first, second in itertools.combinations(columns, 2) if floors.persons > 1 else ():
        pairs = [{one, two} for one in first for two in second if one != two]
        if not all(any(all(part in test for part in pair) for test in differences) for pair in pairs):
            raise refused("PlanFloorMissing", "the persons for whom two sums differ are not counted")


def require_merges(groups: Groups) -> None:
    """Require that the released values combine those of the rows per person: sums of sums and counts, extremes of extremes.

    Raises:
        Refused: ``PlanRowsOfPersons``.
    """
    for value in groups.released():
        for call in value.walk():
            if call.kind == "AggregateExpression" and not _is_merge(call, groups):
                raise refused("PlanRowsOfPersons", f"{call.children[0].kind.upper()} shows values of single persons")


_MERGED = {"Sum": ("Sum", "Count", "CountIf"), "Min": ("Min",), "Max": ("Max",), "CountIf": ("Count",)}


def _is_merge(call: Node, groups: Groups) -> bool:
    function = call.children[0]
    if function.kind not in _MERGED or call.fields.get("isDistinct") or len(call.children) != 1:
        return False
    arg = function.child
    if function.kind == "CountIf":
        if arg.kind != "GreaterThan" or number_of(arg.children[1]) != 0:
            return False
        arg = arg.children[0]
    lower = groups.inputs.get(arg.id) if arg.kind == "AttributeReference" else None
    return lower is not None and lower.kind == "AggregateExpression" and lower.children[0].kind in _MERGED[function.kind]
