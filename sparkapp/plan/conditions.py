"""Conditions of a release, and what they require; see :mod:`sparkapp.plan.release`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.tree import Node, refused

Test = frozenset[str]
"""A test of rows: the canonical texts of the parts that AND combines."""
Sum = tuple[str, Test]
"""A sum of a value, given by its canonical text, or of 1, in the rows that meet a test."""
FOUND, EMPTY, TRUE, NOT_TRUE = " IS NOT NULL", " IS NULL", " IS TRUE", " IS NOT TRUE"
"""The ends of the texts of those parts that :mod:`sparkapp.plan.terms` compares."""
_EXACT = ("double", "decimal", "long")
"""Types to which Spark casts a sum or a count to compare it."""


@dataclass
class Floors:
    """What the conditions of a release require.

    Attributes:
        persons: Smallest number of persons in a group.
        least: Smallest number of persons who meet a test; None without tests.
        tests: Tests of the rows of a person.
        strict: Those which the group's persons must meet, so that no group without such persons is shown.
        tested: Attributes that the tests read.
        shares: For each sum of absolute values, the largest part of one person in percent.
        unguarded: A sum of absolute values or differences includes rows that are about no person, if there are any.
        differences: Pairs of sums that are equal for all persons, or different for enough.
        difference_shares: For these pairs, the largest part of one person in the sum of the differences.
        means: Pairs of sums and of counts, of which both are equal for all persons, or one of them is different for enough.
        counted: Tests that are counted together, and whether a person meets each.
        repeated: Persons with several rows are counted.
    """

    persons: int = 0
    least: int | None = None
    tests: list[Test] = field(default_factory=list)
    strict: set[Test] = field(default_factory=set)
    tested: set[int] = field(default_factory=set)
    shares: dict[Sum, int] = field(default_factory=dict)
    unguarded: bool = False
    differences: set[frozenset[Sum]] = field(default_factory=set)
    difference_shares: dict[frozenset[Sum], int] = field(default_factory=dict)
    means: set[frozenset[frozenset[Sum]]] = field(default_factory=set)
    counted: set[frozenset[tuple[Test, bool]]] = field(default_factory=set)
    repeated: bool = False


def without_alias(node: Node) -> Node:
    """The expression behind an alias."""
    return node.child if node.kind == "Alias" else node


def without_cast(node: Node) -> Node:
    """The expression behind a cast, which Spark adds to numbers."""
    return node.child if node.kind == "Cast" else node


def without_casts(node: Node, types: tuple[str, ...] = ("",)) -> Node:
    """The expression behind all casts to some types, or to any."""
    while node.kind == "Cast" and str(node.fields.get("dataType")).startswith(types):
        node = node.child
    return node


def constant(node: Node) -> str | None:
    """The text of a constant, whatever it is cast to; None for any other expression, and for NULL."""
    node = without_casts(node)
    value = node.fields.get("value") if node.kind == "Literal" else None
    return None if value is None else str(value)


def unequal_sides(node: Node) -> list[Node]:
    """The two sides of ``a <> b``; empty for any other expression."""
    return node.child.children if node.kind == "Not" and node.child.kind == "EqualTo" else []


def conjuncts(node: Node) -> list[Node]:
    """The conditions that AND combines."""
    if node.kind == "And":
        return [part for child in node.children for part in conjuncts(child)]
    return [node]


def number_of(node: Node) -> int | None:
    """The whole number that an expression is, if it is a constant."""
    text = constant(node)
    return int(text) if text is not None and text.isdecimal() else None


def _percent(node: Node) -> int | None:
    """The percentage that a constant such as 0.8 is."""
    try:
        percent = 100 * Decimal(constant(node) or "NaN")
    except InvalidOperation:
        return None
    return int(percent) if percent == percent.to_integral_value() else None


@dataclass
class Condition:
    """One condition of a release.

    Attributes:
        node: The condition.
        values: Outputs of the upper aggregate, by ID.
        inputs: Outputs of the lower aggregate, by the attributes that the upper one reads.
        persons: Attributes of the rows per person that are the identity.
        canonical: Texts of expressions over the rows.
        person: Text of the identity over the rows.
    """

    node: Node
    values: dict[int, Node]
    inputs: dict[int, Node]
    persons: set[int]
    canonical: Canonical
    person: str = ""

    def read(self, floors: Floors) -> None:
        """Add what the condition requires."""
        node = self.node
        if node.kind == "GreaterThanOrEqual" and (least := number_of(node.children[1])) is not None:
            counted = self._aggregate(node.children[0], "Count")
            if counted is not None and counted.kind == "AttributeReference" and counted.id in self.persons:
                floors.persons = max(floors.persons, least)
                return
            known = len(floors.tests)
            if self._test(node.children[0], least, floors):
                floors.strict |= {*floors.tests[known:]}
                return
        if node.kind == "Not" and node.child.kind == "Between" and self._none_or_enough(node.child.child, floors):
            return
        if node.kind == "LessThanOrEqual" and number_of(node.children[1]) == 0 and self._share(node.children[0], floors):
            return
        raise refused("PlanFloorMissing", f"the conditions of a release contain another one ({node.kind})")

    def _aggregate(self, node: Node, function: str) -> Node | None:
        """The argument of an aggregate of the groups."""
        return argument(self._output(node), function)

    def _output(self, node: Node) -> Node | None:
        """The expression of the groups that an attribute is."""
        return self.values.get(node.id) if node.kind == "AttributeReference" else None

    def _input(self, node: Node) -> Node | None:
        """The expression of the rows per person that an attribute is."""
        return self.inputs.get(node.id) if node.kind == "AttributeReference" else None

    def _test(self, node: Node, least: int, floors: Floors) -> bool:
        """``COUNT(person) FILTER(WHERE c)``: persons with a row that meets a test, or who contribute to a sum of absolute values."""
        call = self._output(node)
        if call is None or not is_aggregate(call, ("Count",)) or len(call.children) != 2:
            return False
        counted, condition = call.children
        if [child.kind == "AttributeReference" and child.id in self.persons for child in counted.children] != [True]:
            return False
        if condition.kind == "GreaterThan":
            number, column = number_of(condition.children[1]), condition.children[0]
            summed, rows = self._absolute_sum(column), argument(self._input(column), "Count")
            if summed is not None and number == 0:
                floors.tests += _contributions(*summed[:2])
            elif rows is not None and rows.kind == "Literal" and number == 1:
                floors.repeated = True
            else:
                return False
        elif (total := self._total_that_is_not_0(condition)) is not None:
            floors.tests += _contributions(*total)
        elif condition.kind == "Or" and all(pairs := [self._pair(child) for child in condition.children]):
            floors.means.add(frozenset(pairs))
        elif pair := self._pair(condition):
            floors.differences.add(pair)
        elif not self._counted(condition, floors):
            return False
        floors.least = min(least, least if floors.least is None else floors.least)
        return True

    def _pair(self, node: Node) -> frozenset[Sum]:
        """``COALESCE(a, 0) <> COALESCE(b, 0)``, where ``a`` and ``b`` are sums or counts: those of a person differ. Otherwise empty."""
        totals = [total for side in unequal_sides(node) if (total := self._total(side)) is not None]
        return frozenset(totals) if len(totals) == 2 else frozenset()

    def _total_that_is_not_0(self, node: Node) -> Sum | None:
        """The sum or count of a person that is not 0; None for another condition."""
        sides = unequal_sides(node)
        return self._total(sides[0]) if sides and number_of(sides[1]) == 0 else None

    def _total(self, node: Node) -> Sum | None:
        """What ``COALESCE(c, 0)`` adds up, where ``c`` is a sum or a count of the rows of a person."""
        node = node.child if node.kind == "Cast" and str(node.fields.get("dataType")).startswith(_EXACT) else node
        call = self._input(node.children[0]) if node.kind == "Coalesce" and number_of(node.children[1]) == 0 else None
        if call is None or not is_aggregate(call, ("Sum", "Count", "CountIf")) or len(call.children[0].children) != 1:
            return None
        function, where = call.children[0], self._where(call)
        if function.kind == "Sum":
            return product_text(function.child, self.canonical), where
        if function.kind == "CountIf":
            where |= row_test(function.child, self.canonical)
        elif function.child.kind != "Literal":
            where |= {f"{product_text(function.child, self.canonical)}{FOUND}"}
        return "1", where

    def _where(self, call: Node) -> Test:
        """The condition of FILTER."""
        return row_test(call.children[1], self.canonical) if len(call.children) > 1 else Test()

    def _counted(self, condition: Node, floors: Floors) -> bool:
        """``t``, ``NOT t`` and ``t AND NOT u``, where each column is ``BOOL_OR(test)``."""
        found = set()
        for part in conjuncts(condition):
            test = argument(self._input(part.child if part.kind == "Not" else part), "BoolOr")
            if test is None:
                return False
            found.add((row_test(test, self.canonical), part.kind != "Not"))
            if condition is part and part.kind != "Not":
                floors.tests.append(row_test(test, self.canonical))
                floors.tested |= {leaf.id for leaf in test.walk() if leaf.kind == "AttributeReference"}
        floors.counted.add(frozenset(found))
        return True

    def _none_or_enough(self, node: Node, floors: Floors) -> bool:
        """``NOT (n BETWEEN 1 AND N - 1)``."""
        found = one_to(node)
        return found is not None and self._test(found[0], found[1] + 1, floors)

    def _share(self, node: Node, floors: Floors) -> bool:
        """``MAX(s) - part * SUM(s)``, where ``s`` is the sum of absolute values of a person, or the absolute difference of two sums."""
        if node.kind != "Subtract" or node.children[1].kind != "Multiply":
            return False
        part, sum = node.children[1].children
        percent = _percent(part)
        largest, total = self._aggregate(node.children[0], "Max"), self._aggregate(sum, "Sum")
        if percent is None or largest is None or total is None or Canonical.shared(largest) != Canonical.shared(total):
            return False
        absent = largest.children[0] if largest.kind == "If" and number_of(largest.children[1]) == 0 else largest
        guarded = absent.kind == "IsNull" and absent.child.kind == "AttributeReference" and absent.child.id in self.persons
        largest = largest.children[2] if guarded else largest
        if largest.kind == "Abs" and largest.child.kind == "Cast" and largest.child.fields.get("dataType") == "double":
            difference = largest.child.child
            one, two = (self._total(side) for side in difference.children) if difference.kind == "Subtract" else (None, None)
            if one is None or two is None:
                return False
            pair = frozenset({one, two})
            floors.difference_shares[pair] = min(floors.difference_shares.get(pair, 100), percent)
            floors.unguarded = floors.unguarded or not guarded
            return True
        summed = self._absolute_sum(largest)
        if summed is None:
            return False
        text, where, guarded = summed
        floors.shares[text, where] = min(floors.shares.get((text, where), 100), percent)
        floors.unguarded = floors.unguarded or not guarded
        return True

    def _absolute_sum(self, node: Node) -> tuple[str, Test, bool] | None:
        """What ``COALESCE(SUM(ABS(CAST(x AS DOUBLE))), 0)`` adds up, or the same sum of a square, which is its own absolute value.

        Returns also whether it leaves out the rows that are about no person.
        """
        column = self._input(node) or node
        inner = column.children[0] if column.kind == "Coalesce" and number_of(column.children[1]) == 0 else None
        call = inner if inner is None or inner.kind != "AttributeReference" else self._input(inner)
        if call is None or not is_aggregate(call, ("Sum",)):
            return None
        value = call.children[0].child
        if value.kind == "Abs" and value.child.kind == "Cast" and value.child.fields.get("dataType") == "double":
            value = value.child.child
        elif value.kind != "Multiply" or len({*map(self.canonical.text, value.children)}) > 1:
            return None
        where, about = self._where(call), f"{self.person}{FOUND}"
        return product_text(value, self.canonical), where - {about}, about in where


def _contributions(text: str, where: Test) -> dict[Test, None]:
    """The tests that a row of each person meets whose sum of a value is not 0."""
    return dict.fromkeys([where | {f"{text} <> 0"}, where | {f"{factor} <> 0" for factor in text.split(" * ")}])


def row_test(node: Node, canonical: Canonical) -> Test:
    """The test that an expression is."""
    return frozenset(_part_of_test(part, canonical) for part in conjuncts(node))


def _part_of_test(node: Node, canonical: Canonical) -> str:
    inner = node.child if node.kind == "Not" else node
    if node.kind == "IsNotNull":
        return f"{product_text(node.child, canonical)}{FOUND}"
    if inner.kind == "IsNotNull":
        return f"{product_text(inner.child, canonical)}{EMPTY}"
    if inner.kind == "EqualNullSafe" and inner.children[1].kind == "Literal" and inner.children[1].fields.get("value") == "true":
        return f"{truth_text(inner.children[0], canonical)}{NOT_TRUE if node.kind == 'Not' else TRUE}"
    return truth_text(node, canonical)


def truth_text(node: Node, canonical: Canonical) -> str:
    """The text of a condition before ``IS TRUE``."""
    if node.kind == "IsNotNull" and node.child.kind == "AttributeReference":
        return found_text(canonical.number(node.child.id))
    sides = unequal_sides(node)
    if sides and (number := number_text(sides[1])):
        return f"{product_text(sides[0], canonical)} <> {number}"
    return canonical.text(node)


def number_text(node: Node) -> str:
    """The text of a number that is a constant; empty for any other expression."""
    text = constant(node) or ""
    return text if without_casts(node).fields.get("dataType") != "string" and text.replace(".", "").isdecimal() else ""


def found_text(number: int) -> str:
    """The condition that an attribute is not NULL, as :func:`truth_text` writes it."""
    return f"#{number}{FOUND}"


def flag_text(node: Node, canonical: Canonical) -> str:
    """The condition that a flag is 1, as :func:`truth_text` writes it."""
    return f"{product_text(node, canonical)} <> 0"


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


MERGED = {
    "Sum": ("Sum", "Count", "CountIf"),
    "Average": ("Average",),
    "Moment": ("VariancePop",),
}
"""For each aggregate that combines the results for parts of the rows, the aggregates of these parts."""


def is_aggregate(node: Node | None, functions: Collection[str]) -> bool:
    """Whether an expression is one of some aggregates without DISTINCT."""
    return (
        node is not None and node.kind == "AggregateExpression" and not node.fields.get("isDistinct") and node.children[0].kind in functions
    )


def argument(node: Node | None, function: str) -> Node | None:
    """The argument of an aggregate, if ``node`` is one without DISTINCT and FILTER."""
    if node is None or not is_aggregate(node, (function,)) or len(node.children) != 1:
        return None
    call = node.child
    return call.child if len(call.children) == 1 else None


def counts_rows(node: Node | None) -> bool:
    """Whether an expression is ``COUNT(*)``."""
    counted = argument(node, "Count")
    return counted is not None and counted.kind == "Literal" and counted.fields.get("value") == "1"


def product_text(node: Node, canonical: Canonical) -> str:
    """The text of a value, without casts to other numbers. The factors of a product are in the order of their texts."""
    if node.kind == "Multiply":
        return product_of(product_text(child, canonical) for child in node.children)
    if node.kind == "Cast" and str(node.fields.get("dataType")).startswith(("double", "decimal")):
        return product_text(node.child, canonical)
    return canonical.text(node)


def product_of(texts: Iterable[str]) -> str:
    """The text of a product of values, as :func:`product_text` writes it."""
    return " * ".join(sorted(part for text in texts for part in text.split(" * ")))


def covers(tests: Collection[Test], part: Test, always: tuple[str, ...] = ()) -> bool:
    """Whether tests count the persons of a part, or those of the parts into which a further condition divides it.

    Args:
        tests: The tests.
        part: The part.
        always: Ends of the texts that every row about a person meets: those which find the identity.
    """
    wider = [test for test in tests if part <= test]
    if any(all(text.endswith(always) for text in test - part) for test in wider):
        return True
    further = sorted({text for test in wider for text in test - part if text.endswith((TRUE, FOUND))})
    return any(covers(wider, part | {text}, always) and covers(wider, part | {_opposite(text)}, always) for text in further)


def _opposite(text: str) -> str:
    """The text of the rows that do not meet a test."""
    return text.removesuffix(TRUE) + NOT_TRUE if text.endswith(TRUE) else text.removesuffix(FOUND) + EMPTY
