"""What the aggregates of a release require of its conditions.

* The persons who contribute to a moment are counted, and none of them dominates a sum.
* Two sums of a row are the same for all persons, or differ for enough of them.
* Persons whom differences of counts of persons show are none or enough.
* So are those in each part into which the conditions of aggregates and outer joins divide a group.
* A group has enough different values, if they are counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sparkapp.plan.canonical import Canonical
from sparkapp.plan.comparisons import attributes
from sparkapp.plan.conditions import (
    FOUND,
    NOT_TRUE,
    SUMS,
    TRUE,
    Floors,
    Test,
    conjuncts,
    constant,
    covers,
    filtered,
    flag_text,
    found_text,
    is_true,
    number_of,
    product_of,
    product_text,
    row_test,
    row_text,
    truth_text,
    without_cast,
)
from sparkapp.plan.expressions import CHOICES, COUNTS, EXTREMES, MOMENTS, Columns, conditions_of, power, require_shown, results_of
from sparkapp.plan.parts import Parts, forms_in
from sparkapp.plan.release import Groups
from sparkapp.plan.rows import NOTHING, Column, Rows
from sparkapp.plan.shared_rows import SharedRows
from sparkapp.plan.tree import Node, refused
from sparkapp.plan.walking import Walk

_WHOLE = frozenset({"integer", "long", "short", "byte"})
_NUMBERS = ("integer", "long", "short", "byte", "double", "float", "decimal")
_MEANS = frozenset({"Average", "RegrAvgX", "RegrAvgY"})
_ROW_COUNTS = frozenset({"Count", "CountIf", "RegrCount", "Average"})


class Term(NamedTuple):
    """An aggregate of values of persons: their canonical texts, the class of the aggregate, and the condition of FILTER.

    If it is ``conditional``, a CASE or IF chooses the values. ``columns`` are the columns of a sum of several terms, which other
    aggregates could take apart, and ``products`` those of two.
    """

    values: tuple[str, ...]
    function: str
    where: str
    conditional: bool = False
    columns: tuple[str, ...] = ()
    products: tuple[tuple[str, str], ...] = ()


@dataclass
class Terms:
    """The aggregates of a release.

    Args:
        walk: The walk.
        source: The rows of the release.
        columns: Attributes that the aggregates may read.
        canonical: Texts of expressions over the rows.

    Attributes:
        different: Canonical texts of the aggregates that count different values.
        parts: What they show of the parts into which their conditions divide a group.
    """

    walk: Walk
    source: Rows
    columns: Columns
    canonical: Canonical
    different: set[str] = field(default_factory=set)
    parts: Parts = field(default_factory=Parts)
    _terms: list[Term] = field(default_factory=list)
    _sums: dict[str, None] = field(default_factory=dict)  # columns and products that are summed
    _stored: dict[str, str] = field(default_factory=dict)  # those of views with floors, and the count of their values
    _present: dict[str, tuple[str, str]] = field(default_factory=dict)  # counts of values, and the sum of the values
    # To counts and extremes, by test and class; whether there may be none, and what is counted
    _contributors: dict[tuple[Test, str], tuple[bool, tuple[str, str]]] = field(default_factory=dict)
    _conditions: set[str] = field(default_factory=set)  # counts of rows that meet a condition
    _shared: list[SharedRows] = field(default_factory=list)
    _moment: bool = False
    _known: bool = False  # how many rows there are
    _summed: set[tuple[str, str]] = field(default_factory=set)
    _counted: list[tuple[frozenset[int], Test]] = field(default_factory=list)
    _divisions: dict[tuple[Test, ...], bool] = field(default_factory=dict)  # and whether a part may not be empty
    _optional: set[frozenset[int]] = field(default_factory=set)  # of the columns that are read
    _identities: set[frozenset[int]] = field(default_factory=set)
    _counts_rows: bool = False

    def read(self, calls: Iterable[Node], *, merged: bool = False) -> None:
        """Add the aggregates of expressions over the rows.

        Args:
            calls: The expressions.
            merged: They are computed per person. A count next to a sum of the same values is then a part of a mean.

        Raises:
            Refused: ``PlanRowsOfPersons`` or ``PlanColumnNotAllowed``.
        """
        for call in (part for node in calls for part in node.walk() if part.kind == "AggregateExpression"):
            function, kind = call.children[0], call.children[0].kind
            where = self.canonical.text(call.children[1]) if len(call.children) > 1 else ""
            self._require_no_overflow(call)
            self._read_divisions(call)
            if not any(column.identity for column in self._returned(function).values()):
                self.parts.select(function, where, self.canonical)
            distinct = bool(call.fields.get("isDistinct")) or kind == "HyperLogLogPlusPlus"
            if kind in COUNTS and distinct and not self._read_persons(function, where):
                self.different.add(self.canonical.text(call))
            self._counts_rows = self._counts_rows or (kind in _ROW_COUNTS and not distinct)
            if kind in COUNTS:
                self._read_rows(function, where)
            if kind in EXTREMES:
                require_shown(self.walk.shown(call, self.columns, persons=True), "an extreme shows", self.walk.catalog)
            if kind in COUNTS | EXTREMES:
                self._read_contributors(function, where)
                continue
            if kind not in MOMENTS or distinct:
                raise refused("PlanRowsOfPersons", f"{kind.upper()} shows values of single persons")
            values = [without_cast(arg) for arg in function.children]
            flags = [value for value in values if value.kind == "AttributeReference" and self.columns[value.id].flag]
            for flag in flags if self._shows_persons(flags) else ():
                self._divisions.setdefault(tuple(_parts([flag_text(flag, self.canonical)])), False)
            self._read_moment([value for value in values if value not in flags], kind, where)
            self._read_shared([arg for arg, value in zip(function.children, values, strict=True) if value not in flags], kind, where)
        if merged:
            self._contributors = {test: found for test, found in self._contributors.items() if found[1] not in self._summed}
        for part, sum in list(self._present.items()) if merged else ():
            if sum in self._summed:
                del self._present[part]
                self._known = True
        self._known = self._known or bool(self._present)

    def read_persons(self, test: Node | None, person: frozenset[int]) -> None:
        """Add a count of persons: of all, or of those with a row that meets a test."""
        self._count(row_test(test, self.canonical) if test is not None else None, person)
        for part in conjuncts(test) if test is not None else ():
            self._read_divisions(part)
            if part.kind == "EqualNullSafe":
                self._divide([part.children[:1]])

    def _count(self, test: Test | None, person: frozenset[int]) -> None:
        self._identities.add(person)
        if test is not None:
            self._counted.append((person, test))

    def _read_divisions(self, call: Node) -> None:
        """Add the parts into which the conditions of an aggregate, and outer joins, divide rows."""
        self._optional |= {group for id in attributes(call) if id in self.columns for group in self.columns[id].optional}
        self._divide(tests for part in call.walk() if (tests := conditions_of(part)))

    def _divide(self, conditions: Iterable[Sequence[Node]]) -> None:
        for tests in conditions:
            shows = NOTHING.union(*(self.walk.shown(test, self.columns, persons=True) for test in tests))
            division = tuple(_parts([truth_text(test, self.canonical) for test in tests]))
            self._divisions[division] = not all(self._publishes(*column) for column in shows)

    def _publishes(self, name: str, column: str) -> bool:
        """Whether the owner of a column lists it, so that a part of a group may be empty."""
        view = self.walk.catalog.view(name)
        return view is not None and view.min_group_size > 0 and (view.lists_output(column) or column in view.identity_columns)

    def _shows_persons(self, values: Iterable[Node]) -> bool:
        """Whether values show columns of views with floors."""
        return any(self.walk.catalog.has_floor(name) for value in values for name, _ in self.walk.shown(value, self.columns))

    def _returned(self, function: Node) -> dict[int, Column]:
        """The columns that are the operands of an aggregate, or of which a CASE or IF in it chooses one."""
        leaves = (leaf for arg in function.children for leaf in _columns(arg))
        return {leaf.id: self.columns[leaf.id] for leaf in leaves if leaf.id in self.columns}

    def _read_rows(self, function: Node, where: str) -> None:
        """Add COUNT and COUNT_IF: sums of 1."""
        args = function.children
        if function.kind != "CountIf" and any(column.identity or column.flag for column in self._returned(function).values()):
            return
        counted = args if function.kind == "CountIf" else []
        tests = frozenset([*is_true(where), *(f"{self.canonical.text(arg)}{TRUE}" for arg in counted)])
        if function.kind == "CountIf" or not any(any(attributes(arg)) for arg in args):
            self._known = True
            self._conditions |= {row_text(tests)} - {"1"}
        elif function.kind == "RegrCount":
            read = [leaf for arg in args for leaf in arg.walk() if leaf.kind == "AttributeReference"]
            self._present |= {f"1 IF {self.canonical.text(leaf)}{FOUND}": ("", "") for leaf in read}
        else:
            read = [leaf for arg in args for leaf in _columns(arg)]
            self.parts.present |= {f"{self.canonical.text(leaf)}{FOUND}": None for leaf in read}
            test = tests | {f"{product_text(arg, self.canonical)}{FOUND}" for arg in args}
            self._present[row_text(test)] = product_text(args[0], self.canonical), where

    def _read_contributors(self, function: Node, where: str) -> None:
        """Add the persons with a value that an aggregate counts, or of which it is an extreme."""
        args, columns = function.children, self._returned(function).values()
        if function.kind in ("CountIf", "RegrCount") or not columns or any(column.identity or column.flag for column in columns):
            return
        test = frozenset([*(f"{product_text(arg, self.canonical)}{FOUND}" for arg in args), *is_true(where)])
        empty = bool(where) or any(arg.kind in CHOICES for arg in args)
        part = (product_text(args[0], self.canonical), where) if function.kind == "Count" else ("", "")
        self._contributors[test, function.kind] = empty, part

    def _read_moment(self, values: Sequence[Node], function: str, where: str) -> None:
        protected = []
        self._require_moment(values, function)
        for value in values:
            text, parts = product_text(value, self.canonical), self._parts_of(value, where)
            if self._shows_persons([value]):
                protected.append(text)
                self._stored |= parts
            self._read_parts(value, function not in SUMS | _MEANS)
            if any(attributes(value)):
                self._summed.add((text, where))
                self._sums |= dict.fromkeys(parts)
        texts = [product_text(value, self.canonical) for value in values if any(attributes(value))]
        if function not in SUMS | _MEANS:
            self._sums |= dict.fromkeys(_squares(texts, where))
            self._moment = True
        mixed = [value for value in values if _is_mixed(value)]
        leaves = {self.canonical.text(leaf): leaf for value in values for leaf in value.walk() if leaf.kind == "AttributeReference"}
        if mixed or len(texts) > 1:
            several, one = [{f"{text}{FOUND}"} for text in leaves], [{f"{text}{FOUND}", *is_true(where)} for text in texts]
            self._present |= {row_text(frozenset(test)): ("", "") for test in (several if len(several) > 1 else one)}
        self._known = self._known or bool(mixed) or len(texts) > 1 or (bool(texts) and function != "Sum")
        if protected:
            results = {self.canonical.text(leaf): leaf for value in mixed for leaf in _columns(value)}
            mine = [text for text, leaf in results.items() if _is_number(leaf) and self._shows_persons([leaf])]
            conditional = any(value.kind in CHOICES for value in values)
            products = (part for value in mixed for part in value.walk() if part.kind == "Multiply")
            multiplied = any(all(any(attributes(child)) for child in part.children) for part in products)  # a constant is no factor
            pairs = itertools.combinations(mine, 2) if multiplied else ()
            self._terms.append(Term(tuple(protected), function, where, conditional, tuple(mine), tuple(pairs)))

    def _read_shared(self, args: Sequence[Node], function: str, where: str) -> None:
        values = [without_cast(arg) for arg in args if any(attributes(arg))]
        texts = [product_text(value, self.canonical) for value in values]
        if len(values) == 2 and texts[0] != texts[1]:
            protected = {text for text, value in zip(texts, values, strict=True) if self._shows_persons([value])}
            self._shared.append(SharedRows(args, texts, protected, where, function not in SUMS | _MEANS))

    def _require_moment(self, values: Sequence[Node], function: str) -> None:
        """Require that a moment contains two factors at most, which are columns of one dataset."""
        squares = function not in SUMS | _MEANS
        powers = [power(value, self.columns) for value in values]
        shows = NOTHING.union(*(self.walk.shown(value, self.columns) for value in values))
        if not any(self.walk.catalog.has_floor(name) for name, _ in shows):
            return
        if max(powers, default=1) * (2 if squares else 1) > 2:
            raise refused("PlanRowsOfPersons", f"{function.upper()} contains powers above two, which show values of single persons")
        if ((squares and len(values) > 1) or max(powers, default=1) > 1) and len({name for name, _ in shows}) > 1:
            raise refused(
                "PlanRowsOfPersons", f"{function.upper()} multiplies columns of several datasets: one could mark persons of another"
            )
        leaves = [self.columns[leaf.id] for value in values for leaf in _columns(value)]
        rounds = [part for value in values for part in value.walk() if part.kind in ("Round", "BRound")]
        if any(leaf.capped for leaf in leaves) or any(number_of(part.children[1]) is None for part in rounds):
            raise refused("PlanRowsOfPersons", f"{function.upper()} reads values that are the same for all but a few persons")

    def _read_parts(self, value: Node, squares: bool) -> None:
        leaves = {self.canonical.text(leaf): leaf for leaf in _columns(value)}
        numbers = {text: leaf for text, leaf in leaves.items() if _is_number(leaf)}
        protected = {text for text, leaf in numbers.items() if self._shows_persons([leaf])}
        self.parts.add(value, numbers, self.canonical, squares=squares, protected=protected)

    def _parts_of(self, value: Node, where: str) -> dict[str, str]:
        """The columns and products that a summand consists of, whatever its factors and constants, and how often they have a value."""
        leaves = list(_columns(value))
        numbers = [leaf for leaf in leaves if _is_number(leaf)]
        forms = forms_in(value, self.canonical)
        texts = dict.fromkeys(forms.get(text, text) for text in (self.canonical.text(leaf) for leaf in numbers))
        columns = {text: row_text(Test([f"{text}{FOUND}"])) for text in texts}
        whole = product_text(value, self.canonical)
        if where:
            return {filtered(whole, where): row_text(Test([f"{whole}{FOUND}", *is_true(where)])), **columns}
        if value.kind in CHOICES or len(numbers) < len(leaves):
            return {whole: row_text(Test([f"{whole}{FOUND}"])), **columns}
        if len(columns) > 1 and all(part.kind not in ("Add", "Subtract") for part in value.walk()):
            return {" * ".join(sorted(pair)): "" for pair in itertools.combinations(columns, 2)}
        return columns

    def _read_persons(self, function: Node, where: str) -> bool:
        """Add COUNT(DISTINCT …) of identities; False if it counts other values."""
        args = function.children
        identities = {id: column.value for id, column in self._returned(function).items() if column.identity}
        parts = [*(f"{product_text(arg, self.canonical)}{FOUND}" for arg in args), *is_true(where)]
        if not identities:  # another column may be different for each person as well
            self._counted.append((frozenset(), frozenset(parts)))
            self._require_values_of_owners(function)
            return False
        plain = all(arg.kind == "AttributeReference" for arg in args) and not where
        always = plain and not any(person.found and not person.ids.isdisjoint(identities.values()) for person in self.source.persons)
        self._count(None if always else frozenset(parts), frozenset(map(self.canonical.number, identities)))
        return True

    def _require_values_of_owners(self, function: Node) -> None:
        """Refuse a count of different values that the author may choose for each person: one more value tells that a person is there."""
        persons = frozenset[int]().union(*(person.all_ids for person in self.source.persons))
        for column in self._returned(function).values():
            if column.value not in persons and not all(self.walk.catalog.has_floor(name) for name, _ in column.shows):
                raise refused("PlanRowsOfPersons", "a count of different values reads a column without a floor")

    def _require_no_overflow(self, call: Node) -> None:
        """Refuse arithmetic with whole numbers that queries may not filter by: it fails if one of them is large."""
        for part in call.walk():
            types = {str(leaf.fields.get("dataType")) for leaf in part.walk() if leaf.kind in ("AttributeReference", "Cast", "Literal")}
            if (part.kind in ("Add", "Subtract", "Multiply") and types <= _WHOLE) or self._sums_united(part):
                require_shown(self.walk.shown(part, self.columns), "arithmetic with whole numbers reads", self.walk.catalog)

    def _sums_united(self, node: Node) -> bool:
        """Whether a sum of whole numbers of a union may overflow by a number that the author knows."""
        leaf = node.child if node.kind == "Sum" else node
        whole = leaf.kind == "AttributeReference" and str(leaf.fields.get("dataType")) in _WHOLE
        return whole and node is not leaf and self.columns[leaf.id].united

    # -- conditions ---------------------------------------------------------------------------------------------------

    def require(self, floors: Floors) -> None:
        """Require the conditions on the contributors of each moment, and on the persons for whom two sums differ.

        Raises:
            Refused: ``PlanFloorMissing``.
        """
        share = min(person.share for person in self.source.persons)
        if self._terms and floors.unguarded and self._is_partial():
            raise refused("PlanFloorMissing", "the part of one person is one of a sum that includes rows about no person")
        for values, function, where, conditional, columns, products in self._terms:
            summands = [filtered(value, where) for value in values]
            tests = [{f"{summand} <> 0" for summand in summands}, {*(f"{value} <> 0" for value in values), where + TRUE}]
            factors = {factor for value in values for factor in value.split(" * ")}  # all of them are not 0 if the values are not
            tests.append({f"{filtered(factor, where)} <> 0" for factor in factors})
            if not any(_counts(floors, frozenset(test), bool(where) or conditional) for test in tests):
                raise refused("PlanFloorMissing", f"the persons who contribute to {function.upper()} are not counted")
            summands += _squares(values, where) if function not in SUMS | _MEANS else []
            if any(floors.shares.get(summand, 100) > share for summand in summands):
                raise refused("PlanFloorMissing", f"no condition limits the part of one person in {function.upper()}")
            for term in [*((text,) for text in columns), *products] if floors.persons > 1 else ():
                if not covers(floors.tests, frozenset([*(f"{text} <> 0" for text in term), *is_true(where)])):
                    raise refused("PlanFloorMissing", f"the persons who contribute to a term of {function.upper()} are not counted")
            if any(floors.shares.get(text, 100) > share for text in columns):
                raise refused("PlanFloorMissing", f"no condition limits the part of one person in a term of {function.upper()}")
        if floors.persons < 2:
            return
        for rows in self._shared:
            rows.require(floors, share, self.canonical)
        if not all(_counts(floors, test, empty) for (test, _), (empty, _) in self._contributors.items()):
            raise refused("PlanFloorMissing", "the persons who contribute to a count or an extreme are not counted")
        pairs = [*itertools.combinations(self._sums, 2)] if self._moment or len(self._summed) > 1 else []
        if self._known:
            pairs += [(part, self._stored[part]) for part in self._sums if part in self._stored and " * " not in part]
            pairs += [(part, "1") for part in self._present]
        pairs += [*itertools.combinations(self._present, 2), *itertools.product(self._present, self._conditions)]
        limits = {(pair, Test()) for pair in self.parts.caps}
        if not {frozenset(pair) for pair in pairs} <= floors.differences or not limits <= floors.part_differences:
            raise refused("PlanFloorMissing", "the persons for whom two sums differ are not counted")
        self._require_divisions(floors)
        if self._shared and self.parts.combined:
            raise refused("PlanFloorMissing", "an aggregate of two values is next to aggregates with other conditions")
        self.parts.require(floors, self._all_divisions(floors.tests), share, self._known)

    def _always(self) -> tuple[str, ...]:
        """Ends of the texts of the tests which find an identity: every row about its person meets them."""
        values = frozenset[int]().union(*(person.all_ids for person in self.source.persons))
        ids = [id for id, column in self.source.columns.items() if column.value in values]
        return tuple(f"#{self.canonical.number(id)}){FOUND}" for id in ids)

    def _is_partial(self) -> bool:
        """Whether some rows are about no person of some kind, because they come from another part of a union."""
        always = frozenset[int]().union(*(person.ids for person in self.source.persons if not person.partial))
        return any(person.partial and always.isdisjoint(person.ids) for person in self.source.persons)

    def _require_divisions(self, floors: Floors) -> None:
        """Require that enough persons are in each part of a group, or none if the part may be empty."""
        strict = bool(self._optional) or any(self._divisions.values())
        found = floors.strict if strict else floors.tests
        divisions = self._all_divisions(found)
        for parts in itertools.product(*divisions) if divisions else ():
            if not covers(found, frozenset[str]().union(*parts), self._always()):
                raise refused("PlanFloorMissing", "the persons in a part of a group are not counted")

    def _all_divisions(self, tests: Iterable[Test]) -> set[tuple[Test, ...]]:
        return {*self._divisions, *(self._found(group, tests) for group in self._optional)}

    def _found(self, group: frozenset[int], tests: Iterable[Test]) -> tuple[Test, ...]:
        """The parts with and without a row of an outer join. Any of the compared columns tells them apart."""
        ids = [id for id, column in self.source.columns.items() if column.value in group]
        texts = [found_text(self.canonical.number(id)) for id in ids]
        known = frozenset[str]().union(*tests)
        text = next((text for text in texts if text + TRUE in known), "")
        optional = {column.value for column in self.source.columns.values() if group in column.optional}
        found, without = _parts([text])
        # The rows without one are about no person, if none is on the other side of the join.
        return (found,) if all(person.ids <= optional for person in self.source.persons) else (found, without)

    def require_counted(self, releases: Sequence[tuple[Groups, frozenset[int]]]) -> None:
        """Require the conditions on persons whom differences of counts of persons show.

        Args:
            releases: All groups of the release, and the numbers of the attributes that are the identity which each of them counts.

        Raises:
            Refused: ``PlanFloorMissing``.
        """
        if releases[0][0].floors.persons < 2:
            return
        made = self.source.overlapping or self.source.multiplied
        divided = [part for parts in self._divisions for part in parts]
        divided += [part for group in self._optional for part in self._found(group, releases[0][0].floors.tests)]
        several = made or any(len(ids) > 1 for ids in self.source.unique)
        for person in {*self._identities, *(counted for counted, _ in self._counted)}:
            tests = [test for _, test in self._counted] + (divided if several else [])
            repeated = made and self._counts_rows
            if not tests and not repeated:
                continue
            floors = [groups.floors for groups, ids in releases if person <= ids]
            if not any(found.counted >= _conditions(tests) and (found.repeated or not repeated) for found in floors):
                raise refused("PlanFloorMissing", "the persons whom a difference of counts shows are not counted")
        if several and not self._identities and not releases[0][0].floors.counted >= _conditions(divided):
            raise refused("PlanFloorMissing", "the persons whom a condition leaves out are not counted")


def _squares(texts: Sequence[str], where: str) -> list[str]:
    """Texts of the squares and products of values."""
    return [filtered(product_of(pair), where) for pair in itertools.combinations_with_replacement(texts, 2)]


def _conditions(tests: Sequence[Test]) -> set[frozenset[tuple[Test, bool]]]:
    """Conditions on persons who meet none of each test, none of all, both of two, or one of two."""
    found = {frozenset([(test, False)]) for test in tests} | ({frozenset((test, False) for test in tests)} if tests else set())
    for one, two in itertools.combinations(dict.fromkeys(tests), 2):
        found |= {frozenset([(one, first), (two, second)]) for first, second in ((True, True), (True, False), (False, True))}
    return found


def _columns(node: Node) -> Iterator[Node]:
    """The columns in the values of an expression, without those of its conditions."""
    if node.kind == "AttributeReference":
        yield node
    for result in results_of(node):
        yield from _columns(result)


def _is_number(column: Node) -> bool:
    return str(column.fields.get("dataType")).startswith(_NUMBERS)


def _counts(floors: Floors, test: Test, empty: bool) -> bool:
    """Whether conditions require that enough persons meet a test; none may meet it either if the part may be ``empty``.

    If enough persons meet a test that contains the parts of another one, they also meet the other one.
    """
    return covers(floors.tests, test) if empty else any(test <= strict for strict in floors.strict)


def _parts(texts: Sequence[str]) -> Iterator[Test]:
    """The tests of the rows that take each branch of a CASE with these conditions; the last part takes ELSE."""
    for index in range(len(texts) + 1):
        yield frozenset([*(text + NOT_TRUE for text in texts[:index]), *(text + TRUE for text in texts[index : index + 1])])


def _is_mixed(value: Node) -> bool:
    """Whether a value is a sum of several terms, of which one is a column, or one of several columns."""
    parts = [*value.walk()]
    if any(part.kind in CHOICES and len({leaf.id for leaf in _columns(part)}) > 1 for part in parts):
        return True
    sums = [part for part in parts if part.kind in ("Add", "Subtract")]
    return any(any(attributes(part)) and not any(_is_zero(child) for child in part.children) for part in sums)


def _is_zero(node: Node) -> bool:
    text = constant(node)
    return text is not None and text.strip("0.") == ""
