"""Moments of groups that are computed from those of persons.

The sum of the products of the deviations of two values from their means is::

    SUM(n * c + n * x * y) - SUM(n * x) * SUM(n * y) / SUM(n)

A person has ``n`` values with the covariance ``c``. ``x`` and ``y`` are the person's means minus the largest ones of the group, which are
without influence on the result. A window computes them from the rows per person::

    Project (x: mean - largest)
    +- Window (largest: MAX(mean) by the group keys)
       +- Project (mean: of a person with equal values, the largest of them; of others, the sum by the number)
          +- rows per person
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import argument, case_of, product_text, without_alias, without_casts
from sparkapp.plan.tree import Node

_NUMBERS = ("double", "long")
"""Types to which Spark casts the parts of a moment."""
_IF_NOT_0 = "NullIf(With(NullIfResult(EqualTo(CommonExpressionRef(), 0), CommonExpressionRef()), CommonExpressionDef({})))"


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern of forms, in which the same letter means the same attribute."""
    names: set[str] = set()

    def group(match: re.Match[str]) -> str:
        known = match[0] in names
        names.add(match[0])
        return f"(?P={match[0]})" if known else f"(?P<{match[0]}>#[0-9]+)"

    return re.compile(re.sub(r"\b[a-z]\b", group, re.escape(text)))


_MOMENT = _pattern(
    "Subtract(Sum(Add(Multiply(n, c), Multiply(Multiply(n, x), y))), Divide(Multiply(Sum(Multiply(n, x)), Sum(Multiply(n, y))), "
    f"{_IF_NOT_0.format('Sum(n)')}))"
)
_MEAN = f"CaseWhen(EqualTo(v, 0), m, Divide(s, {_IF_NOT_0.format('n')}))"
_PARTS = {"v": "VariancePop", "m": "Max", "s": "Sum", "n": "Count"}
_FRAME = "SpecifiedWindowFrame(UnboundedPreceding$(), UnboundedFollowing$())"
_DEVIATION = _pattern(f"Subtract({_MEAN}, WindowExpression(Max({_MEAN}), WindowSpecDefinition(KEYS{_FRAME})))")


class _Values(NamedTuple):
    """The values that an aggregate reads: texts of the arguments and of the condition of FILTER."""

    args: tuple[str, ...]
    where: str


@dataclass
class Moments:
    """Finds moments in the aggregates of groups.

    Attributes:
        inputs: Outputs of the rows per person, by the attributes that the aggregates read. Those of moments are added.
        canonical: Texts of expressions over the rows.
        deviations: The attributes that are differences of means, and the values.
        parts: For each attribute that stands for a covariance, those of the numbers, covariances and sums that the moment combines.
    """

    inputs: dict[int, Node]
    canonical: Canonical
    deviations: dict[int, _Values] = field(default_factory=dict)
    parts: dict[int, set[int]] = field(default_factory=dict)
    _sums: dict[int, int] = field(default_factory=dict)  # of the values of deviations

    def add(self, id: int, node: Node, keys: Collection[int]) -> None:
        """Add a computed column of the rows per person, if it is the difference of a mean from the largest of its group.

        Args:
            id: The attribute.
            node: Its expression over :attr:`inputs`.
            keys: Attributes that are the group keys.
        """
        frame, partition = "WindowSpecDefinition(", "".join(f"#{key}, " for key in sorted(keys))
        found = _DEVIATION.fullmatch(form_of(node).replace(frame + partition, f"{frame}KEYS"))
        read = {name: int(text[1:]) for name, text in found.groupdict().items()} if found else {}
        values = {self._values(read.get(name), kind) for name, kind in _PARTS.items()}
        if len(values) == 1 and (same := values.pop()) is not None:
            self.deviations[id], self._sums[id] = same, read["s"]

    def _values(self, id: int | None, kind: str) -> _Values | None:
        call = self.inputs.get(id) if id is not None else None
        if call is None or call.kind != "AggregateExpression" or call.fields.get("isDistinct") or call.children[0].kind != kind:
            return None
        args = tuple(product_text(arg, self.canonical) for arg in call.children[0].children)
        return _Values(args, ", ".join(self.canonical.text(where) for where in call.children[1:]))

    def merged(self, node: Node) -> Node:
        """An expression over the rows per person with one aggregate, ``Moment``, in place of each moment."""
        found = _MOMENT.fullmatch(form_of(node)) if node.kind == "Subtract" else None
        covariance = self._covariance(*(int(found[name][1:]) for name in "ncxy")) if found else None
        if found is not None and covariance is not None:
            inner, number, *deviations = (int(found[name][1:]) for name in "cnxy")
            self.parts.setdefault(-inner, set()).update([inner, number, *(self._sums[id] for id in deviations)])
            return self._merge("Moment", inner, covariance)
        read = argument(node, "Sum")
        if read is not None and read.kind == "AttributeReference" and self._values(read.id, "Count") in self.deviations.values():
            return self._merge("Sum", read.id, _of_both(self.inputs[read.id], "RegrCount"))
        return node.with_children([self.merged(child) for child in node.children])

    def _merge(self, function: str, id: int, combined: Node) -> Node:
        """An aggregate of an attribute that stands for ``combined`` in place of the input ``id``."""
        self.inputs[-id] = combined
        package = combined.package
        read = Node("AttributeReference", package, {"exprId": {"id": -id}, "dataType": "double", "name": "c"})
        return Node("AggregateExpression", package, {"isDistinct": False}, [Node(function, package, {}, [read])])

    def _covariance(self, number: int, inner: int, first: int, second: int) -> Node | None:
        """The covariance of a person's values, if all parts of a moment are about the same values."""
        one, two = self.deviations.get(first), self.deviations.get(second)
        counted, values = self._values(number, "Count"), self._values(inner, "VariancePop" if first == second else "CovPopulation")
        if one is None or two is None or values is None or counted != one or values.where != one.where or two.where != one.where:
            return None
        return (
            _of_both(self.inputs[inner], "CovPopulation") if values.args == (one.args if first == second else one.args + two.args) else None
        )


def _of_both(call: Node, function: str) -> Node:
    """An aggregate of ``CASE WHEN y IS NOT NULL THEN x END`` as one of ``x`` and ``y``: it reads the rows that have both."""
    case = case_of(without_casts(call.children[0].children[0], _NUMBERS))
    if case is None or case[0].kind != "IsNotNull":
        return call
    both = [case[1], case[0].child]
    return replace(call, children=[replace(call.children[0], kind=function, children=both), *call.children[1:]])


def form_of(node: Node) -> str:
    """The operators of an expression, without casts to numbers, and the attributes that it reads. Those of a window are sorted."""
    node = without_casts(node, _NUMBERS)
    if node.kind == "AttributeReference":
        return f"#{node.id}"
    if node.kind == "Literal":
        return str(node.fields.get("value"))
    if node.kind == "AggregateExpression" and not node.fields.get("isDistinct") and len(node.children) == 1:
        return form_of(node.child)
    children = node.children
    if node.kind == "WindowSpecDefinition":
        children = sorted(children, key=lambda child: (child.kind, child.id if child.kind == "AttributeReference" else 0))
    return f"{node.kind}({', '.join(map(form_of, children))})"


def computed_columns(node: Node) -> tuple[Node, dict[int, Node]] | None:
    """The operator below projections and windows, and their outputs as expressions over it; None without a window."""
    operators = []
    while node.kind in ("Project", "Window"):
        operators.append(node)
        node = node.child
    if all(operator.kind != "Window" for operator in operators):
        return None
    found: dict[int, Node] = {}
    for operator in reversed(operators):
        items = operator.expressions("projectList" if operator.kind == "Project" else "windowExpressions")
        values = {item.id: _substituted(without_alias(item), found) for item in items}
        found = values if operator.kind == "Project" else found | values
    return node, found


def _substituted(node: Node, values: Mapping[int, Node]) -> Node:
    if node.kind == "AttributeReference":
        return values.get(node.id, node)
    return node.with_children([_substituted(child, values) for child in node.children])


def renamed(node: Node, names: Mapping[int, int]) -> Node:
    """An expression that reads other attributes; those without a name are not found later."""
    if node.kind == "AttributeReference":
        return replace(node, fields={**node.fields, "exprId": {"id": names.get(node.id, 0)}})
    return node.with_children([renamed(child, names) for child in node.children])
