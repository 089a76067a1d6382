"""The groups that a plan may show: how the conditions of privacy floors must look.

Rows of persons leave a plan only as groups of this form::

    Filter (conditions of the floors)
    +- Aggregate (by the group keys)
       +- Aggregate (by the group keys and one identity)
          +- rows of persons

Each condition is one of

* at least N rows of the lower aggregate in which the identity is not NULL;
* N or more persons, or else none, have a row that meets a test, have none, meet two tests or one of two, or have several rows;
* no person has more than a part of a sum.

Persons contribute to a sum if one of their values is neither NULL nor 0, which the sum of its absolute values shows as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import MERGED, Condition, Floors, argument, conjuncts, is_aggregate, without_alias
from sparkapp.plan.moments import Moments
from sparkapp.plan.rows import Person, Rows
from sparkapp.plan.tree import Node, refused


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
        canonical: Texts of expressions over the rows.
        source: Text of the rows.
        moments: Moments that ``upper`` computes from those of persons.
    """

    filter: Node
    upper: Node
    lower: Node
    inputs: dict[int, Node]
    keys: dict[int, Node]
    person: Node
    persons: set[int]
    floors: Floors
    canonical: Canonical
    source: str
    moments: Moments

    def outputs(self) -> list[Node]:
        """Outputs of ``upper`` that operators above the conditions may read."""
        conditions = {part.id for part in self.filter.expression("condition").walk() if part.kind == "AttributeReference"}
        items = map(self.moments.merged, self.upper.expressions("aggregateExpressions"))
        return [item for item in items if item.id not in conditions or item.name.startswith("__cr_")]

    def key_texts(self) -> dict[int, str]:
        """Canonical texts of the group keys."""
        return {id: self.canonical.text(key) for id, key in self.keys.items()}

    def released(self) -> list[Node]:
        """The expressions of these outputs that are not group keys."""
        return [without_alias(item) for item in self.outputs() if item.id not in self.keys]

    def merged(self, node: Node) -> list[Node]:
        """Expressions over the rows that an expression of ``upper`` combines."""
        return [self.inputs[part.id] for part in node.walk() if part.kind == "AttributeReference" and part.id in self.inputs]

    def sums(self) -> Iterator[Node]:
        """What the released values add up, and the tests of the persons whom they count: expressions over the rows of a person."""
        for part in (part for value in self.released() for part in value.walk() if part.kind == "AttributeReference"):
            if is_aggregate(self.inputs.get(part.id), (*MERGED["Sum"], "BoolOr")):
                yield self.inputs[part.id]
            yield from (self.inputs[id] for id in sorted(self.moments.parts.get(part.id, ())))


@dataclass
class Release:
    """Groups, and what their conditions do not cover yet: joins with other groups may follow.

    Attributes:
        groups: The groups.
        source: Their rows.
        persons: Whom the conditions do not count.
        compared: Canonical texts of the identities whose groups still have to be compared.
        terms: The aggregates: :class:`sparkapp.plan.terms.Terms`.
        values: Canonical texts of the aggregates per person by which all groups that need it are compared.
    """

    groups: Groups
    source: Rows
    persons: list[Person]
    compared: frozenset[str]
    terms: Any
    values: frozenset[str] | None = None

    @property
    def missing(self) -> bool:
        """Whether conditions are missing."""
        return bool(self.persons or self.compared)

    @property
    def floor(self) -> int:
        """The strictest floor."""
        return max(person.floor for person in self.source.persons)


def groups_of(filter: Node, upper: Node, lower: Node, names: Mapping[int, int], computed: Mapping[int, Node]) -> Groups:
    """Read a release.

    Args:
        filter: The conditions.
        upper: The aggregate below them.
        lower: The aggregate below that.
        names: For each attribute that ``upper`` reads, the output of ``lower`` that it is.
        computed: Expressions over these outputs that ``upper`` reads.

    Raises:
        Refused: ``PlanFloorMissing``.
    """
    canonical = Canonical()
    source = canonical.text(lower.child)
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
        Condition(condition, values, inputs, persons, canonical, canonical.text(person)).read(floors)
    moments = Moments({**outputs, **inputs}, canonical)
    for id, node in computed.items():
        moments.add(id, node, [output for output, value in outputs.items() if canonical.text(value) in texts])
    return Groups(filter, upper, lower, moments.inputs, _keys(upper, keys), person, persons, floors, canonical, source, moments)


def _keys(upper: Node, keys: dict[int, Node]) -> dict[int, Node]:
    """For each output of the aggregate that is a group key, the expression of the key."""
    outputs = {}
    for item in upper.expressions("aggregateExpressions"):
        inner = without_alias(item)
        if inner.kind == "AttributeReference" and inner.id in keys:
            outputs[item.id] = keys[inner.id]
    return outputs


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
    if least < strictest:
        raise refused("PlanFloorMissing", f"a release shows groups of {max(least, 0)} persons; the floor is {strictest}")
    return uncovered


def require_merges(groups: Groups) -> None:
    """Require that the released values combine those of the rows per person: sums of sums and counts, extremes of extremes.

    Raises:
        Refused: ``PlanRowsOfPersons``.
    """
    for value in groups.released():
        for call in value.walk():
            if call.kind == "AggregateExpression" and not _is_merge(call, groups):
                raise refused("PlanRowsOfPersons", f"{call.children[0].kind.upper()} shows values of single persons")


def require_no_failures(values: Iterable[Node]) -> None:
    """Require that groups which are not shown compute nothing from aggregates: it could fail, and the failure would show them.

    Raises:
        Refused: ``PlanFloorMissing``.
    """
    for value in values:
        inner = value.child if value.kind == "Sqrt" else value
        if inner.kind != "AggregateExpression" and any(part.kind == "AggregateExpression" for part in value.walk()):
            raise refused("PlanFloorMissing", "an expression reads aggregates of groups before the conditions of the floors")


def _is_merge(call: Node, groups: Groups) -> bool:
    function = call.children[0]
    if call.fields.get("isDistinct") or len(function.children) != 1 or function.child.kind != "AttributeReference":
        return False
    if function.kind == "Count":  # of persons
        return function.child.id in groups.persons and (len(call.children) == 1 or counted_test(call, groups) is not None)
    lower = groups.inputs.get(function.child.id)
    return len(call.children) == 1 and is_aggregate(lower, MERGED.get(function.kind, ()))


def counted_test(call: Node, groups: Groups) -> Node | None:
    """The test in ``COUNT(person) FILTER(WHERE t)``, where ``t`` is ``BOOL_OR(test)``."""
    condition = call.children[-1]
    return argument(groups.inputs.get(condition.id), "BoolOr") if condition.kind == "AttributeReference" else None
