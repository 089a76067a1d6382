"""Means and moments of groups that are computed from those of persons.

The sum of the squares of the deviations of values from their mean is::

    SUM(n * c + n * x * x) - SUM(n * x) * SUM(n * x) / SUM(n)

A person has ``n`` values with the variance ``c``. ``x`` is the person's mean minus the largest one of the group, which is without
influence on the result. A window computes it from the rows per person::

    Project (x: mean - largest)
    +- Window (largest: MAX(mean) by the group keys)
       +- Project (mean: of a person with equal values, the largest of them; of others, the sum by the number)
          +- rows per person
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.conditions import Test, is_aggregate, product_text, row_test, without_alias, without_casts
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


_NUMBER = _IF_NOT_0.format("Sum(n)")
_FREEDOM = _IF_NOT_0.format("Greatest(Subtract(Sum(n), 1), 0)")
_MOMENT = (
    "Subtract(Sum(Add(Multiply(n, c), Multiply(Multiply(n, x), x))), "
    f"Divide(Multiply(Sum(Multiply(n, x)), Sum(Multiply(n, x))), {_NUMBER}))"
)
_VARIANCES = [_pattern(f"Divide(Greatest({_MOMENT}, 0), {number})") for number in (_NUMBER, _FREEDOM)]
_AVERAGE = _pattern(f"Divide(Sum(s), {_NUMBER})")
_MEAN = f"CaseWhen(EqualTo(v, 0), m, Divide(s, {_IF_NOT_0.format('n')}))"
_PARTS = {"v": "VariancePop", "m": "Max", "s": "Sum", "n": "Count"}
_FRAME = "SpecifiedWindowFrame(UnboundedPreceding$(), UnboundedFollowing$())"
_DEVIATION = _pattern(f"Subtract({_MEAN}, WindowExpression(Max({_MEAN}), WindowSpecDefinition(KEYS{_FRAME})))")

_Values = tuple[str, Test]
"""The values that an aggregate reads: the text of the argument, and the condition of FILTER."""


@dataclass
class Moments:
    """Finds means and moments in the aggregates of groups.

    Attributes:
        inputs: Outputs of the rows per person, by the attributes that the aggregates read. Those of means and moments are added.
        canonical: Texts of expressions over the rows.
        deviations: The attributes that are differences of means, with the values and the attribute of their sum.
        parts: For each attribute that stands for a mean or a moment, those that it combines.
    """

    inputs: dict[int, Node]
    canonical: Canonical
    deviations: dict[int, tuple[_Values, int]] = field(default_factory=dict)
    parts: dict[int, set[int]] = field(default_factory=dict)

    def add(self, id: int, node: Node, keys: Collection[int]) -> None:
        """Add a computed column of the rows per person, if it is the difference of a mean from the largest of its group.

        Args:
            id: The attribute.
            node: Its expression over :attr:`inputs`.
            keys: Attributes that are the group keys.
        """
        frame, partition = "WindowSpecDefinition(", "".join(f"#{key}, " for key in sorted(keys))
        read = _attributes(_DEVIATION, form_of(node).replace(frame + partition, f"{frame}KEYS"))
        values = {self._values(read.get(name), kind) for name, kind in _PARTS.items()}
        if len(values) == 1 and (same := values.pop()) is not None:
            self.deviations[id] = same, read["s"]

    def _values(self, id: int | None, kind: str) -> _Values | None:
        call = self.inputs.get(id) if id is not None else None
        if call is None or not is_aggregate(call, (kind,)):
            return None
        where = row_test(call.children[1], self.canonical) if len(call.children) > 1 else Test()
        return product_text(call.children[0].children[0], self.canonical), where

    def merged(self, node: Node) -> Node:
        """An expression over the rows per person with one aggregate in place of each mean and each moment."""
        if node.kind == "Divide":
            form = form_of(node)
            read = _attributes(_AVERAGE, form)
            if read and self._values(read["s"], "Sum") == self._values(read["n"], "Count") is not None:
                return self._merge("Average", read["s"], {read["s"], read["n"]})
            read = next(filter(None, (_attributes(pattern, form) for pattern in _VARIANCES)), {})
            values, total = self.deviations.get(read.get("x", 0), (None, 0))
            if values is not None and values == self._values(read["n"], "Count") == self._values(read["c"], "VariancePop"):
                return self._merge("Moment", read["c"], {read["c"], read["n"], total})
        return node.with_children([self.merged(child) for child in node.children])

    def _merge(self, function: str, id: int, parts: set[int]) -> Node:
        """An aggregate of an attribute that stands for the input ``id``, or for the mean of its values."""
        call = self.inputs[id]
        if function == "Average":
            call = replace(call, children=[replace(call.children[0], kind=function), *call.children[1:]])
        self.inputs[-id], self.parts[-id] = call, parts
        read = Node("AttributeReference", call.package, {"exprId": {"id": -id}, "dataType": "double", "name": "c"})
        return Node("AggregateExpression", call.package, {"isDistinct": False}, [Node(function, call.package, {}, [read])])


def _attributes(pattern: re.Pattern[str], form: str) -> dict[str, int]:
    """The attributes in a form; nothing if it is another form."""
    found = pattern.fullmatch(form)
    return {name: int(text[1:]) for name, text in found.groupdict().items()} if found else {}


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
