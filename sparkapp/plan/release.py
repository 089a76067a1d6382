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

Persons contribute to a sum if a value of theirs is neither NULL nor 0, which the sum of its absolute values shows as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.rows import Person, Rows
from sparkapp.plan.tree import Node, refused

SUMS = frozenset({"Sum", "Average"})
"""Functions to which a zero contributes nothing, and in which one person may dominate."""


@dataclass
class Floors:
    """What the conditions of a release require.

    Attributes:
        persons: Smallest number of persons in a group.
        least: Smallest number of persons who meet a test; None without tests.
        tests: For each test of the rows of a person, the texts of its parts.
        tested: Attributes that the tests read.
        shares: For each sum of absolute values, in canonical text, the largest part of one person in percent.
    """

    persons: int = 0
    least: int | None = None
    tests: list[frozenset[str]] = field(default_factory=list)
    tested: set[int] = field(default_factory=set)
    shares: dict[str, int] = field(default_factory=dict)


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
        persons: Attributes of the rows per person that are the identity.
        floors: What the conditions require.
    """

    filter: Node
    upper: Node
    lower: Node
    inputs: dict[int, Node]
    keys: dict[int, Node]
    person: Node
    persons: set[int]
    floors: Floors

    def outputs(self) -> list[Node]:
        """Outputs of ``upper`` that operators above the conditions may read."""
        conditions = {part.id for part in self.filter.expression("condition").walk() if part.kind == "AttributeReference"}
        items = self.upper.expressions("aggregateExpressions")
        return [item for item in items if item.id not in conditions or item.name.startswith("__cr_")]

    def texts(self) -> tuple[str, dict[int, str], str]:
        """Canonical texts of the rows, of the group keys and of the identity."""
        canonical = Canonical()
        source = canonical.text(self.lower.child)
        return source, {id: canonical.text(key) for id, key in self.keys.items()}, canonical.text(self.person)

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
        source: Their rows.
        persons: Whom the conditions do not count.
        compared: Canonical texts of the identities whose groups still have to be compared.
    """

    groups: Groups
    source: Rows
    persons: list[Person]
    compared: frozenset[str]

    @property
    def floor(self) -> int:
        """The strictest floor."""
        return max(person.floor for person in self.source.persons)


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
    return Groups(filter, upper, lower, inputs, _keys(upper, keys), person, persons, floors)


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
        return argument(value, function)

    def _input(self, node: Node) -> Node | None:
        """The expression of the rows per person that an attribute is."""
        return self.inputs.get(node.id) if node.kind == "AttributeReference" else None

    def _test(self, node: Node, least: int, floors: Floors) -> bool:
        """``COUNT(person) FILTER(WHERE c)``: persons with a row that meets a test, or who contribute to a sum of absolute values."""
        call = self.values.get(node.id) if node.kind == "AttributeReference" else None
        if call is None or call.kind != "AggregateExpression" or call.fields.get("isDistinct") or len(call.children) != 2:
            return False
        counted, condition = call.children
        if counted.kind != "Count" or [child.kind == "AttributeReference" and child.id in self.persons for child in counted.children] != [
            True
        ]:
            return False
        if condition.kind == "GreaterThan" and number_of(condition.children[1]) == 0:
            summed = self._absolute_sum(condition.children[0])
            if summed is None:
                return False
            texts = [f"{summand_text(summed, self.canonical)} <> 0"]
        else:
            test = argument(self._input(condition), "BoolOr")
            if test is None:
                return False
            floors.tested |= {part.id for part in test.walk() if part.kind == "AttributeReference"}
            texts = [self._contribution(part) for part in conjuncts(test)]
        floors.least = min(least, least if floors.least is None else floors.least)
        floors.tests.append(frozenset(texts))
        return True

    def _contribution(self, node: Node) -> str:
        """The text of a test; those of contributors have a form of their own."""
        if node.kind == "Not" and node.child.kind == "EqualTo" and number_of(node.child.children[1]) == 0:
            value = node.child.children[0]
            widened = value.kind == "Cast" and str(value.fields.get("dataType")).startswith(("double", "decimal"))
            return f"{self.canonical.text(value.child if widened else value)} <> 0"
        if node.kind == "IsNotNull":
            return f"{self.canonical.text(node.child)} IS NOT NULL"
        if node.kind == "EqualNullSafe" and node.children[1].kind == "Literal" and node.children[1].fields.get("value") == "true":
            return f"{self.canonical.text(node.children[0])} IS TRUE"
        return self.canonical.text(node)

    def _none_or_enough(self, node: Node, floors: Floors) -> bool:
        """``NOT (n BETWEEN 1 AND N - 1)``."""
        found = one_to(node)
        return found is not None and self._test(found[0], found[1] + 1, floors)

    def _share(self, left: Node, right: Node, floors: Floors) -> bool:
        """``100 * MAX(s) <= percent * SUM(s)``, where ``s`` is the sum of absolute values of a person."""
        if left.kind != "Multiply" or right.kind != "Multiply" or number_of(left.children[0]) != 100:
            return False
        percent = number_of(right.children[0])
        largest, total = self._aggregate(left.children[1], "Max"), self._aggregate(right.children[1], "Sum")
        summed = self._absolute_sum(largest) if largest is not None else None
        if percent is None or summed is None or largest is None or total is None or total.fields.get("exprId") != largest.fields["exprId"]:
            return False
        text = summand_text(summed, self.canonical)
        floors.shares[text] = min(floors.shares.get(text, 100), percent)
        return True

    def _absolute_sum(self, node: Node) -> Node | None:
        """``x``, if an attribute of the rows per person is ``COALESCE(SUM(ABS(x)), 0)``."""
        column = self._input(node)
        if column is None or column.kind != "Coalesce":
            return None
        summed = argument(column.children[0], "Sum")
        return summed.child if summed is not None and summed.kind == "Abs" else None


def one_to(node: Node) -> tuple[Node, int] | None:
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


def argument(node: Node | None, function: str) -> Node | None:
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
    least = floors.persons if floors.least is None else min(floors.persons, floors.least)
    if len(uncovered) == len(persons) or least < strictest:
        raise refused("PlanFloorMissing", f"a release shows groups of {max(least, 0)} persons; the floor is {strictest}")
    return uncovered


class Term(NamedTuple):
    """An aggregated value."""

    value: str  # canonical text
    function: str  # class of the aggregate
    where: str = ""  # canonical text of the condition of FILTER


def summand_text(node: Node, canonical: Canonical) -> str:
    """The text of a summand; that of ``CASE WHEN w THEN x END`` is the one of a sum of x with FILTER."""
    if node.kind == "CaseWhen" and len(node.children) == 2:
        return f"{canonical.text(node.children[1])} WHERE {canonical.text(node.children[0])}"
    return canonical.text(node)


def require_contributors(terms: Iterable[Term], floors: Floors, share: int) -> None:
    """Require that the persons who contribute to each aggregate are counted, and that none of them dominates a sum.

    Args:
        terms: The aggregated values.
        floors: The conditions.
        share: Largest part of one person in percent.

    Raises:
        Refused: ``PlanFloorMissing``.
    """
    for value, function, where in terms:
        summand = f"{value} WHERE {where}" if where else value
        counts = [frozenset([f"{summand} <> 0"])]
        if function not in SUMS:
            counts.append(frozenset([f"{value} IS NOT NULL", *([f"{where} IS TRUE"] if where else [])]))
        if not any(found <= test for found in counts for test in floors.tests):
            raise refused("PlanFloorMissing", f"the persons who contribute to {function.upper()} are not counted")
        if function in SUMS and floors.shares.get(summand, 100) > share:
            raise refused("PlanFloorMissing", f"no condition limits the part of one person in {function.upper()}")


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
"""For each aggregate of the groups, those of the rows per person that it combines. COUNT counts persons."""


def _is_merge(call: Node, groups: Groups) -> bool:
    function = call.children[0]
    if function.kind == "Count":
        read = [arg.id for arg in function.children if arg.kind == "AttributeReference"]
        return len(call.children) == len(function.children) == 1 and read != [] and set(read) <= groups.persons
    if function.kind not in _MERGED or call.fields.get("isDistinct") or len(call.children) != 1:
        return False
    arg = function.child
    if function.kind == "CountIf":
        if arg.kind != "GreaterThan" or number_of(arg.children[1]) != 0:
            return False
        arg = arg.children[0]
    lower = groups.inputs.get(arg.id) if arg.kind == "AttributeReference" else None
    return lower is not None and lower.kind == "AggregateExpression" and lower.children[0].kind in _MERGED[function.kind]
