"""Conditions of a release, and what they require; see :mod:`sparkapp.plan.release`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.tree import Node, refused

Test = frozenset[str]
"""A test of rows: the canonical texts of the parts that AND combines."""
FOUND, EMPTY, TRUE, NOT_TRUE = " IS NOT NULL", " IS NULL", " IS TRUE", " IS NOT TRUE"
"""The ends of the texts of those parts that :mod:`sparkapp.plan.terms` compares."""
SUMS = frozenset({"Sum", "Average"})
"""Functions to which a zero contributes nothing, and in which one person may dominate."""
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
        shares: For each sum of absolute values, in canonical text, the largest part of one person in percent.
        part_shares: The same for sums of the rows that meet a test.
        unguarded: A sum of absolute values includes rows that are about no person, if there are any.
        differences: Pairs of columns or products that are equal for all persons, or different for enough.
        part_differences: The same in the rows that meet a test.
        counted: Tests that are counted together, and whether a person meets each.
        repeated: Persons with several rows are counted.
    """

    persons: int = 0
    least: int | None = None
    tests: list[Test] = field(default_factory=list)
    strict: set[Test] = field(default_factory=set)
    tested: set[int] = field(default_factory=set)
    shares: dict[str, int] = field(default_factory=dict)
    part_shares: dict[tuple[str, Test], int] = field(default_factory=dict)
    unguarded: bool = False
    differences: set[frozenset[str]] = field(default_factory=set)
    part_differences: set[tuple[frozenset[str], Test]] = field(default_factory=set)
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


def case_of(node: Node) -> tuple[Node, Node] | None:
    """The condition and the value of ``CASE WHEN c THEN x END``."""
    return (node.children[0], node.children[1]) if node.kind == "CaseWhen" and len(node.children) == 2 else None


def constant(node: Node) -> str | None:
    """The text of a constant, whatever it is cast to; None for any other expression, and for NULL."""
    node = without_casts(node)
    value = node.fields.get("value") if node.kind == "Literal" else None
    return None if value is None else str(value)


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
                value, where, condition_text = product_text(summed, self.canonical).partition(" WHERE ")
                factors = (value, *value.split(" * "))
                for parts in dict.fromkeys((factors[:1], factors[1:])):
                    floors.tests.append(frozenset(f"{part}{where}{condition_text} <> 0" for part in parts))
                if case := case_of(summed):
                    part = row_test(case[0], self.canonical)
                    floors.tests.append(part | {f"{product_text(case[1], self.canonical)} <> 0"})
            elif rows is not None and rows.kind == "Literal" and number == 1:
                floors.repeated = True
            else:
                return False
        elif not self._differ(condition, floors) and not self._counted(condition, floors):
            return False
        floors.least = min(least, least if floors.least is None else floors.least)
        return True

    def _differ(self, node: Node, floors: Floors) -> bool:
        """``COALESCE(a, 0) <> COALESCE(b, 0)``, where ``a`` and ``b`` are sums or counts: those of a person differ."""
        if node.kind != "Not" or node.child.kind != "EqualTo":
            return False
        one, two = (self._total(side) for side in node.child.children)
        if one is None or two is None:
            return False
        floors.differences.add(frozenset({one, two}))
        return True

    def _total(self, node: Node) -> str | None:
        """The text of what ``COALESCE(c, 0)`` adds up, where ``c`` is a sum or a count of the rows of a person."""
        node = node.child if node.kind == "Cast" and str(node.fields.get("dataType")).startswith(_EXACT) else node
        call = self._input(node.children[0]) if node.kind == "Coalesce" and number_of(node.children[1]) == 0 else None
        if call is None or not is_aggregate(call, ("Sum", "Count", "CountIf")) or len(call.children[0].children) != 1:
            return None
        function, where = call.children[0], [self.canonical.text(condition) for condition in call.children[1:]]
        if function.kind == "Sum":
            return " WHERE ".join([product_text(function.child, self.canonical), *where])
        tests = row_test(function.child, self.canonical) if function.kind == "CountIf" else Test()
        if function.kind == "Count" and function.child.kind != "Literal":
            tests = Test([f"{product_text(function.child, self.canonical)}{FOUND}"])
        return row_text(tests.union(f"{condition}{TRUE}" for condition in where))

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
                floors.differences |= self._difference(test)
                floors.part_differences |= self._part_differences(test)
        floors.counted.add(frozenset(found))
        return True

    def _difference(self, test: Node) -> set[frozenset[str]]:
        """The counts that differ where ``test <> other`` holds."""
        if test.kind != "Not" or test.child.kind != "EqualTo":
            return set()
        return {frozenset(row_text(row_test(side, self.canonical)) for side in test.child.children)}

    def _part_differences(self, test: Node) -> set[tuple[frozenset[str], Test]]:
        """The values that differ where one condition of AND holds, in the rows that meet the others."""
        parts = conjuncts(test)
        rests = [[*parts[:index], *parts[index + 1 :]] for index in range(len(parts))]
        return {
            (pair, frozenset[str]().union(*(row_test(other, self.canonical) for other in rest)))
            for part, rest in zip(parts, rests, strict=True)
            for pair in self._row_difference(part)
        }

    def _row_difference(self, test: Node) -> set[frozenset[str]]:
        """The values that differ in a row: ``COALESCE(x, 0) <> COALESCE(y, 0)``, ``x <> 1``, ``NOT test``, ``test <> other``."""
        if test.kind != "Not":
            return set()
        if test.child.kind != "EqualTo":
            return {frozenset({"1", row_text(row_test(test.child, self.canonical))})}
        sides = [without_cast(side) for side in test.child.children]
        if all(side.kind == "Coalesce" and number_of(side.children[1]) == 0 for side in sides):
            return {frozenset(product_text(side.children[0], self.canonical) for side in sides)}
        if number_of(sides[1]) == 1:
            return {frozenset({product_text(sides[0], self.canonical), "1"})}
        return {frozenset(row_text(row_test(side, self.canonical)) for side in sides)}

    def _none_or_enough(self, node: Node, floors: Floors) -> bool:
        """``NOT (n BETWEEN 1 AND N - 1)``."""
        found = one_to(node)
        return found is not None and self._test(found[0], found[1] + 1, floors)

    def _share(self, node: Node, floors: Floors) -> bool:
        """``MAX(s) - part * SUM(s)``, where ``s`` is the sum of absolute values of a person."""
        if node.kind != "Subtract" or node.children[1].kind != "Multiply":
            return False
        part, sum = node.children[1].children
        percent = _percent(part)
        largest, total = self._aggregate(node.children[0], "Max"), self._aggregate(sum, "Sum")
        summed = self._absolute_sum(largest) if largest is not None else None
        if percent is None or summed is None or largest is None or total is None or total.fields.get("exprId") != largest.fields["exprId"]:
            return False
        text = product_text(summed, self.canonical)
        floors.shares[text] = min(floors.shares.get(text, 100), percent)
        if case := case_of(summed):
            key = product_text(case[1], self.canonical), row_test(case[0], self.canonical)
            floors.part_shares[key] = min(floors.part_shares.get(key, 100), percent)
        floors.unguarded = floors.unguarded or not self._is_guarded(largest)
        return True

    def _absolute_sum(self, node: Node) -> Node | None:
        """``x``, if an attribute of the rows per person is ``COALESCE(SUM(ABS(CAST(x AS DOUBLE))), 0)``."""
        column = self._input(node)
        if column is None or column.kind != "Coalesce":
            return None
        summed = argument(column.children[0], "Sum")
        number = summed.child if summed is not None and summed.kind == "Abs" else summed
        if number is None or (number is summed and not _is_square(number, self.canonical)):
            return None
        if number.kind != "Cast" or number.fields.get("dataType") != "double":
            return None
        return number.child.children[1] if self._is_about_persons(number.child) else number.child

    def _is_guarded(self, node: Node) -> bool:
        """Whether a sum of absolute values leaves out the rows that are about no person."""
        column = self._input(node)
        return column is not None and any(self._is_about_persons(part) for part in column.walk())

    def _is_about_persons(self, node: Node) -> bool:
        """``CASE WHEN identity IS NOT NULL THEN x END``."""
        case = case_of(node)
        return case is not None and case[0].kind == "IsNotNull" and self.canonical.text(case[0].child) == self.person


def _is_square(node: Node, canonical: Canonical) -> bool:
    factors = product_text(node, canonical).split(" * ")
    return len(factors) == 2 and factors[0] == factors[1]


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
    if node.kind == "Not" and node.child.kind == "EqualTo" and number_of(node.child.children[1]) == 0:
        return flag_text(node.child.children[0], canonical)
    return canonical.text(node)


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
    "Sum": ("Sum", "Count", "CountIf", "RegrCount"),
    "Min": ("Min",),
    "Max": ("Max",),
    "Moment": ("VariancePop", "CovPopulation"),
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
    if case := case_of(node):  # as that of an aggregate with FILTER
        condition, value = case
        if number_of(value) == 1:
            return row_text(row_test(condition, canonical))
        return f"{product_text(value, canonical)} WHERE {canonical.text(condition)}"
    return canonical.text(node)


def product_of(texts: Iterable[str]) -> str:
    """The text of a product of values, as :func:`product_text` writes it."""
    return " * ".join(sorted(part for text in texts for part in text.split(" * ")))


def filtered(text: str, where: str) -> str:
    """The text of a value in the rows that FILTER keeps, as :func:`product_text` writes it."""
    return f"{text} WHERE {where}" if where else text


def is_true(where: str) -> list[str]:
    """The part of a test that the condition of FILTER is, if there is one."""
    return [f"{where}{TRUE}"] if where else []


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


def row_text(test: Test) -> str:
    """The text of ``CASE WHEN test THEN 1 END``: 1 for each row that meets the test."""
    return f"1 IF {' AND '.join(sorted(test))}" if test else "1"
