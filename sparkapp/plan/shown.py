"""What the aggregates of a release show: sums and counts, the rows that each of them reads, and the persons who are counted.

Aggregates that show values of single persons are refused here. :mod:`sparkapp.plan.terms` says which conditions the others need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.comparisons import attributes
from sparkapp.plan.conditions import (
    EMPTY,
    FOUND,
    TRUE,
    Sum,
    Test,
    conjuncts,
    constant,
    flag_text,
    number_of,
    number_text,
    product_of,
    product_text,
    row_test,
    truth_text,
    without_cast,
    without_casts,
)
from sparkapp.plan.expressions import CHOICES, MOMENTS, Columns, combines, conditions_of, is_stored, power, require_shown, results_of
from sparkapp.plan.rows import Column, InputColumn, Rows
from sparkapp.plan.tree import Node, refused
from sparkapp.plan.walking import Walk

_WHOLE = frozenset({"integer", "long", "short", "byte"})
_LINEAR = frozenset({"Multiply", "Divide", "Cast", "Coalesce", "AttributeReference", "Literal"})
"""Expressions that a sum adds up like columns."""
_ROW_COUNTS = ("Count", "CountIf", "Average")
_MOST_SUMS = 3
"""Different sums that contain one column. With fewer persons than sums, the sums would determine every value."""
_FIRST_POWERS = frozenset({"Sum", "Average"})
ALL = Test()
"""The test that all rows meet."""


@dataclass
class Shown:
    """The aggregates of a release.

    Args:
        walk: The walk.
        source: The rows of the release.
        columns: Attributes that the aggregates may read.
        canonical: Texts of expressions over the rows.
    """

    walk: Walk
    source: Rows
    columns: Columns
    canonical: Canonical
    _sums: dict[Sum, bool] = field(default_factory=dict)  # of values, and whether they show those of persons
    _counts: dict[Test, None] = field(default_factory=dict)  # of rows that meet a test
    _found: dict[Test, bool] = field(default_factory=dict)  # rows with a value that is counted, and whether none may be
    _limits: dict[tuple[str, Test], None] = field(default_factory=dict)  # persons below a limit are counted in rows that meet a test
    _selected: set[Test] = field(default_factory=set)  # the rows that each aggregate reads
    _uses: dict[str, dict[tuple[str, Test], Test]] = field(default_factory=dict)  # of each value: by which aggregates, in which rows
    _means: set[str] = field(default_factory=set)  # values of which a mean contains the sum and the number
    _forms: dict[InputColumn, set[str]] = field(default_factory=dict)  # steps per person, and functions that are not linear
    _scaled: bool = False  # some are means, or contain rows that a join repeats: known multiples of two may be almost equal
    _reads: dict[tuple[InputColumn, int], set[int]] = field(default_factory=dict)  # attributes that show a column, by their power
    _of_columns: dict[str, set[Sum]] = field(default_factory=dict)  # the sums that contain each column
    _known: bool = False  # how many rows there are
    _counted: list[Test] = field(default_factory=list)  # tests of the persons who are counted
    _divisions: dict[str, bool] = field(default_factory=dict)  # conditions, and whether a part may not be empty
    _optional: set[frozenset[int]] = field(default_factory=set)  # of the columns that are read
    _summed: set[int] = field(default_factory=set)  # values that aggregates read
    _tested: list[Node] = field(default_factory=list)  # conditions of aggregates
    _counts_persons: bool = False
    _counts_rows: bool = False

    def read(self, calls: Iterable[Node]) -> None:
        """Add the aggregates of expressions over the rows.

        Raises:
            Refused: ``PlanRowsOfPersons`` or ``PlanColumnNotAllowed``.
        """
        for call in (part for node in calls for part in node.walk() if part.kind == "AggregateExpression"):
            function, kind = call.children[0], call.children[0].kind
            where = Test(truth_text(condition, self.canonical) + TRUE for condition in call.children[1:])
            self._require_no_overflow(call)
            self._require_one_relation(call)
            self._read_divisions(call)
            self._counts_rows = self._counts_rows or kind in _ROW_COUNTS
            if kind not in (*_ROW_COUNTS, *MOMENTS) or call.fields.get("isDistinct"):
                raise refused("PlanRowsOfPersons", f"{kind.upper()} shows values of single persons")
            self._summed |= {column.value for column in self._returned(function).values() if kind != "CountIf" and not column.identity}
            if any(column.identity for column in self._returned(function).values()):
                self._know_rows()
            else:
                self._read_rows(function, where)

    def _require_one_relation(self, call: Node) -> None:
        """Refuse a condition on one relation for values of another whose rows a join repeats: it would choose how often each counts."""
        read = {column.value for column in self._returned(call.children[0]).values() if not column.identity}
        relations = self.source.relations
        tested = {self.columns[id].value for part in call.walk() for test in conditions_of(part) for id in attributes(test)}
        if self.source.multiplied and read and not {relations.get(id) for id in tested} <= {relations.get(id) for id in read}:
            raise refused("PlanRowsOfPersons", "a condition on another relation chooses values whose rows a join repeats")

    def require_no_choice(self, keys: Iterable[Node]) -> None:
        """Refuse values whose rows joins repeat, in groups and parts that conditions on several columns choose.

        Sums of three or more such groups could be combined to the value of one person.
        """
        flags = {column.value for column in self.columns.values() if column.flag}
        repeated = self.source.repeats or any(self.source.relations.get(value) in self.source.repeated for value in self._summed - flags)
        chooses = self.source.chooses or any(combines(node, self.columns, self.walk.catalog) for node in (*keys, *self._tested))
        if self._summed - flags and repeated and chooses:
            raise refused("PlanRowsOfPersons", "conditions on several columns choose groups of values whose rows a join repeats")

    def _require_few_sums(self, value: Node, function: str, test: Test) -> None:
        """Refuse sums that could be solved for the values of a small group."""
        text = self.canonical.text(value)
        limit = max(1, min(_MOST_SUMS, max(person.floor for person in self.source.persons) - 1))
        for leaf in _columns(value):
            sums = self._of_columns.setdefault(self.canonical.text(leaf), set())
            sums |= {(text, test)} if function in _FIRST_POWERS else {(text, test), (f"{text} squared", test)}
            if len(sums) > limit:
                raise refused("PlanRowsOfPersons", f"it computes {len(sums)} different sums of one column; the limit is {limit}")

    def read_persons(self, test: Node | None) -> None:
        """Add a count of persons: of all, or of those with a row that meets a test."""
        self._know_rows()
        self._counts_persons = True
        self._counted += [row_test(test, self.canonical)] if test is not None else []
        for part in conjuncts(test) if test is not None else ():
            self._read_divisions(part)
            if part.kind == "EqualNullSafe":
                self._divide(part.children[:1])

    def _know_rows(self) -> None:
        """Note that persons are counted, each of whom may have one row."""
        self._known, self._counts[ALL] = True, None

    def _read_divisions(self, call: Node) -> None:
        """Add the parts into which the conditions of an aggregate, and outer joins, divide rows."""
        self._optional |= {group for id in attributes(call) if id in self.columns for group in self.columns[id].optional}
        self._divide(test for part in call.walk() for test in conditions_of(part))

    def _divide(self, conditions: Iterable[Node]) -> None:
        for condition in conditions:
            self._tested.append(condition)
            shows = self.walk.shown(condition, self.columns, persons=True)
            strict = not all(self._publishes(*column) for column in shows)
            self._divisions[truth_text(condition, self.canonical)] = strict

    def _publishes(self, name: str, column: str) -> bool:
        """Whether the owner of a column lists it, so that a part of a group may be empty."""
        view = self.walk.catalog.view(name)
        return view is not None and view.min_group_size > 0 and (view.lists_output(column) or column in view.identity_columns)

    def _shows_persons(self, value: Node) -> bool:
        """Whether a value shows columns of views with floors."""
        return any(self.walk.catalog.has_floor(name) for name, _ in self.walk.shown(value, self.columns))

    def _returned(self, function: Node) -> dict[int, Column]:
        """The columns that are the operands of an aggregate, or of which a CASE or IF in it chooses one."""
        leaves = (leaf for arg in function.children for leaf in _columns(arg))
        return {leaf.id: self.columns[leaf.id] for leaf in leaves if leaf.id in self.columns}

    # -- sums and counts ----------------------------------------------------------------------------------------------

    def _read_rows(self, function: Node, where: Test) -> None:
        """Add the sums and counts that an aggregate shows."""
        kind, args = function.kind, function.children
        value, test = self._chosen(args[0], where) if len(args) == 1 else (args[0], where)
        flag = value.kind == "AttributeReference" and self.columns[value.id].flag and self._shows_persons(value)
        if kind == "CountIf":
            test |= {truth_text(value, self.canonical) + TRUE}
        elif kind in MOMENTS and flag:
            text = flag_text(value, self.canonical)
            self._divisions.setdefault(text, False)
            test |= {text + TRUE}
        self._selected.add(test)
        if kind == "CountIf" or (kind in MOMENTS and flag) or not any(attributes(value)):
            self._known = self._counts_rows = True
            self._counts[test] = None
        elif kind in MOMENTS:
            self._read_moment(value, kind, test)
        else:
            if not is_stored(value, self.columns):  # how many rows have a value tells the values
                require_shown(self.walk.shown(value, self.columns), "a count reads", self.walk.catalog)
            found = test | {f"{product_text(value, self.canonical)}{FOUND}"}
            self._found[found] = bool(test)
            self._known, self._counts[found] = True, None

    def _chosen(self, arg: Node, where: Test) -> tuple[Node, Test]:
        """The value and the rows of ``CASE WHEN c THEN x END``, or the argument itself."""
        value = without_cast(arg)
        if value.kind not in CHOICES:
            return value, where
        conditions, (first, *others) = conditions_of(value), results_of(value)
        empty = all(without_casts(other).kind == "Literal" and constant(other) in (None, "0", "0.0") for other in others)
        if len(conditions) > 1 or not empty:
            raise refused("PlanRowsOfPersons", "a CASE in an aggregate chooses one of several values")
        return without_cast(first), where | {truth_text(conditions[0], self.canonical) + TRUE}

    def _read_moment(self, value: Node, function: str, test: Test) -> None:
        protected = self._shows_persons(value)
        if protected:
            self._require_moment(value, function)
            self._require_few_sums(value, function, test)
        elif power(value, self.columns) > 1 and any("Count" in self.columns[leaf.id].step for leaf in _columns(value)):
            raise refused("PlanRowsOfPersons", f"{function.upper()} multiplies a count: one factor could mark persons of the other")
        self._limits |= {(limit, test): None for node in value.walk() if node.kind == "Least" for limit in self._limits_of(node)}
        whole = product_text(value, self.canonical)
        sums = [whole] if function in _FIRST_POWERS else [whole, product_of((whole, whole))]
        columns = " * ".join(sorted(self.canonical.text(leaf) for leaf in _columns(value)))
        self._uses.setdefault(columns, {})[function, test] = test | (present(whole) if protected else {f"{whole}{FOUND}"})
        self._sums |= {(text, test): protected for text in sums}
        self._known = self._known or function != "Sum"
        self._means |= {*sums} if function != "Sum" and protected else set()
        form = next((self.canonical.text(part) for part in value.walk() if part.kind not in _LINEAR), "")
        for leaf in _columns(value):
            found = self.columns[leaf.id]
            for column in found.shows:
                self._forms.setdefault(column, set()).add(found.step + form)
                self._reads.setdefault((column, found.power), set()).add(found.value)
                self._scaled = self._scaled or "Average" in found.step or "repeated" in found.step
        most = 1 if self._scaled or self.source.repeats or self.source.multiplied else 2
        if any(len(values) > most for ((name, _), _), values in self._reads.items() if self.walk.catalog.has_floor(name)):
            raise refused("PlanRowsOfPersons", f"a column is aggregated of more than {most} steps, each of which may choose other rows")
        if any(len(forms) > 1 for (name, _), forms in self._forms.items() if self.walk.catalog.has_floor(name)):
            raise refused("PlanRowsOfPersons", "a column is aggregated in several forms, which may be the same for all but a few persons")

    def _limits_of(self, least: Node) -> Iterator[str]:
        """Tests of rows for which LEAST does not give its constant: ``LEAST(x, c) <> c`` and ``x IS NULL``, which LEAST ignores."""
        for child in least.children:
            if any(attributes(child)):
                yield f"{product_text(child, self.canonical)}{EMPTY}"
            else:
                yield f"{self.canonical.text(least)} <> {number_text(child)}"

    def _require_moment(self, value: Node, function: str) -> None:
        """Require that a sum or a moment of persons has one term, of two factors at most, which are columns of one dataset.

        The conditions of the floor are about the term itself, so that a constant factor in it makes another term of it.
        """
        if _is_mixed(value):
            raise refused("PlanRowsOfPersons", f"{function.upper()} of a sum of several terms, each of which may be a value of few persons")
        highest = power(value, self.columns)
        if highest * (1 if function in _FIRST_POWERS else 2) > 2:
            raise refused("PlanRowsOfPersons", f"{function.upper()} contains powers above two, which show values of single persons")
        if highest > 1 and len({name for name, _ in self.walk.shown(value, self.columns)}) > 1:
            raise refused(
                "PlanRowsOfPersons", f"{function.upper()} multiplies columns of several datasets: one could mark persons of another"
            )
        parts = [*value.walk()]
        if any(part.kind in CHOICES for part in parts):
            raise refused("PlanRowsOfPersons", "a CASE in an aggregate chooses one of several values")
        capped = any(self.columns[leaf.id].capped for leaf in _columns(value))
        if capped or any(part.kind in ("Round", "BRound") and number_of(part.children[1]) is None for part in parts):
            raise refused("PlanRowsOfPersons", f"{function.upper()} reads values that are the same for all but a few persons")

    def _require_no_overflow(self, call: Node) -> None:
        """Refuse arithmetic with whole numbers that queries may not filter by: it fails if one of them is large."""
        for part in call.walk():
            types = {str(leaf.fields.get("dataType")) for leaf in part.walk() if leaf.kind in ("AttributeReference", "Cast", "Literal")}
            united = part.kind == "AttributeReference" and self.columns[part.id].united and types <= _WHOLE
            if united or (part.kind in ("Add", "Subtract", "Multiply") and types <= _WHOLE):
                require_shown(self.walk.shown(part, self.columns), "arithmetic with whole numbers reads", self.walk.catalog)


def _columns(node: Node) -> Iterator[Node]:
    """The columns in the values of an expression, without those of its conditions."""
    if node.kind == "AttributeReference":
        yield node
    for result in results_of(node):
        yield from _columns(result)


def present(product: str) -> Test:
    """The rows in which all factors of a product have a value."""
    return Test(f"{factor}{FOUND}" for factor in product.split(" * "))


def _is_mixed(value: Node) -> bool:
    """Whether a value is a sum of several terms, or a negated one."""
    return any(part.kind in ("Add", "Subtract", "UnaryMinus") and any(attributes(part)) for part in value.walk())
