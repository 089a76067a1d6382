"""What a release shows, and the conditions on it: sums of values, and counts of rows.

Every number of a result is computed from some of them: a mean from a sum and a count, a variance also from the sum of the squares. Each
sum, and each difference of two of them, must depend on no person or on enough, and no person may dominate it. The same holds in each part
into which the conditions of the SELECT divide a group, because the sums of some rows can be combined to that of a part: ``SUM(x) - SUM(x)
FILTER (WHERE a) - SUM(x) FILTER (WHERE b)``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cleanroom.sql.context import Context
from cleanroom.sql.model import SUM, ColumnKey, PartOfDivision, ReleasedAggregate, Value
from cleanroom.sql.privacy import aggregates
from cleanroom.sql.privacy.groups import Numbers, PersonGroups
from cleanroom.sql.privacy.release import test_of
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import columns_in, parenthesised
from cleanroom.sql.vocabulary import FUNCTIONS

_FORMS = re.compile(r"(?:LEAST|B?ROUND|LN|LOG10|LOG2|LOG1P|COALESCE|NVL|IFNULL)\([^()']*\)")
_COLUMN = re.compile("(`[^`]*`[.]`[^`]*`) IS NOT NULL")


class Summand(NamedTuple):
    """A value of which a release shows the sum."""

    text: str  # a column, a function of one, a product of two, or an expression over data of the author
    type: str
    protected: bool  # it shows values of persons
    single: bool  # it is no product
    counts: bool  # it is how many rows a person has

    def compared(self, where: str) -> str:
        """The sum in the rows that meet a condition, to be compared with others. It does not overflow, and loses no digits."""
        kind = "DECIMAL(20, 0)" if self.type == "long" else "DOUBLE"
        return Numbers(self.text if self.type == "number" else f"CAST({self.text} AS {kind})", where=where).aggregate("SUM")


class Sums:
    """The sums and counts of a release."""

    def __init__(self, ctx: Context, floor: int) -> None:
        """Read the aggregates of a SELECT.

        Raises:
            Refusal: They could be solved for the values of single persons.
        """
        self._ctx, self._numbers = ctx, ctx.scope.numbers
        self._sums: dict[tuple[Summand, PartOfDivision], None] = {}
        self._counts: dict[tuple[str, PartOfDivision], None] = {}
        self._found: dict[tuple[str, PartOfDivision], None] = {}
        self._limits: dict[tuple[str, PartOfDivision], None] = {}
        self._selectors: set[PartOfDivision] = set()
        self._counts_rows = False
        self._functions: dict[tuple[str, PartOfDivision], set[str]] = {}
        self._columns: dict[ColumnKey, set[tuple[str, PartOfDivision]]] = {}
        self._forms: dict[ColumnKey, set[str]] = {}
        for item in ctx.scope.released:
            if not any(arg.identity for arg in item.args):
                self._read(item)
        self._check(floor)

    def _read(self, item: ReleasedAggregate) -> None:
        value, part = aggregates.selected(item, self._ctx.catalog)
        kind = FUNCTIONS[item.name].disclosure
        self._selectors.add(part)
        if value is None:
            self._counts["", part] = None
        elif kind == "mixture":
            self._add(item.name, value, part)
        else:
            test = " AND ".join(f"{parenthesised(arg, SUM)} IS NOT NULL" for arg in (value, *item.args[1:]))
            self._found[test, part] = None
            self._counts |= {(test, part): None} if kind == "count" else {}
        self._counts_rows = self._counts_rows or value is None or (kind != "extreme" and item.name not in aggregates.SUMS)

    def _add(self, name: str, value: Value, part: PartOfDivision) -> None:
        """Add what an aggregate of a value sums up."""
        summands = self._summands(value, aggregates.POWERS.get(name, 1))
        self._sums |= {(summand, part): None for summand in summands}
        self._limits |= {(test, part): None for test in sorted(value.caps)}
        functions = self._functions.setdefault((summands[0].text, part), set())
        functions.add(name)
        if len(functions) > 1:  # a sum and a mean show how many values there are
            self._counts[f"{summands[0].text} IS NOT NULL", part] = None
        form = value.sql if value.transformed else "filled" if value.filled else "sum" if name in aggregates.SUMS else "plain"
        for column in aggregates.protected_columns(value, self._ctx.catalog):
            self._columns.setdefault(column, set()).update((summand.text, part) for summand in summands)
            self._forms.setdefault(column, set()).add(form)

    def _summands(self, value: Value, power: int) -> list[Summand]:
        protected = bool(aggregates.protected_columns(value, self._ctx.catalog))
        counts = value.made_by_text and not protected
        names = sorted(columns_in(value.sql))
        if value.mixed or len(names) > aggregates.MAX_POWER or not self._numbers.keys() >= set(names):
            first = Summand(parenthesised(value, SUM), value.type, protected, True, counts)
        elif len(names) == 1:
            calls = _FORMS.findall(value.sql) if value.transformed or value.filled else []
            first = Summand(next(iter(calls), names[0]), self._numbers[names[0]].type, protected, True, counts)
        else:
            first = Summand(_product(*(self._numbers[name] for name in names)), "number", protected, False, counts)
        return [first, *(Summand(_square(first), "number", protected, False, False) for _ in range(power - 1))]

    def _check(self, floor: int) -> None:
        """Refuse sums that could be solved for the values of a small group, or of which an earlier step has scaled one."""
        limit = max(1, min(aggregates.MOST_MOMENTS, floor - 1))
        for column, sums in sorted(self._columns.items()):
            forms = self._forms[column]
            if len(sums) > limit:
                raise Refusal(
                    "TooManyMoments",
                    f"the SELECT computes {len(sums)} different sums of {column[1]} for the same rows; the limit is {limit}, because more "
                    "could be solved for single values",
                )
            # The sum is the same with 0 in place of NULL.
            if len(forms - {"sum"}) > 1 or ("sum" in forms and forms - {"sum", "filled", "plain"}):
                raise Refusal(
                    "TooManyMoments",
                    f"the SELECT aggregates {column[1]} in several forms (plain, rounded, capped, 0 for NULL): the difference could be a "
                    "value of one person; use one of them",
                )
        read = [self._numbers[name] for summand, _ in self._sums for name in columns_in(summand.text) if name in self._numbers]
        scaled = next((value for value in read if value.scale != 1 and aggregates.protected_columns(value, self._ctx.catalog)), None)
        if scaled is not None and len({summand for summand, _ in self._sums}) > 1:
            raise Refusal(
                "ConditionalAggregate",
                f"an earlier step multiplies {scaled.name} by a constant: next to sums of other values, which could differ from it for one "
                "person, multiply the result instead",
            )

    # -- conditions ---------------------------------------------------------------------------------------------------

    def require(self, groups: PersonGroups, share: int, parts: Iterable[PartOfDivision]) -> None:
        """Add the conditions to those of ``groups``.

        Args:
            groups: Groups of persons.
            share: Largest part of one person in a sum, in percent.
            parts: The parts into which conditions divide each group.
        """
        for test, part in self._found:
            groups.require(_all_of(part, test), none=bool(part))
        self._require(groups, share, list(self._sums), list(self._counts), list(self._limits))
        summands, tests = dict.fromkeys(summand for summand, _ in self._sums), dict.fromkeys(test for test, _ in self._counts)
        for part in parts if len(self._selectors) > 1 else ():
            for test in tests:
                groups.require(_all_of(part, test))
            counts = [(test, part) for test in {"": None} | tests]
            self._require(groups, share, [(summand, part) for summand in summands], counts, [(test, part) for test, _ in self._limits])

    def _require(
        self,
        groups: PersonGroups,
        share: int,
        sums: Sequence[tuple[Summand, PartOfDivision]],
        counts: Sequence[tuple[str, PartOfDivision]],
        limits: Sequence[tuple[str, PartOfDivision]],
    ) -> None:
        for summand, part in sums:
            if summand.protected and share < 100:
                groups.require_share(summand.text, test_of(part), share)
            groups.require_contributors(summand.text, test_of(part), none=bool(part))
        groups.require_differences(self._pairs(sums, counts))
        for test, part in limits:
            groups.require(_all_of(part, test))

    def _pairs(
        self, sums: Sequence[tuple[Summand, PartOfDivision]], counts: Sequence[tuple[str, PartOfDivision]]
    ) -> Iterator[tuple[str, str]]:
        """Pairs of sums and counts of which the result may show the difference."""
        yield from itertools.combinations([summand.compared(test_of(part)) for summand, part in sums], 2)
        if not self._counts_rows:
            return
        for summand, part in sums:
            counted = _count(f"{summand.text} IS NOT NULL", part)
            if summand.counts and summand.single:
                yield _count(f"{summand.text} <> 0", part), counted
            elif summand.single:
                yield summand.compared(test_of(part)), counted
        yield from itertools.combinations([_count(test, part) for test, part in counts], 2)


def _all_of(part: PartOfDivision, test: str) -> str:
    return " AND ".join(text for text in (test_of(part), test) if text)


def _count(test: str, part: PartOfDivision) -> str:
    """The number of rows of a part that meet a test."""
    text = _all_of(part, test)
    column = _COLUMN.fullmatch(text)
    return f"COUNT({column[1]})" if column else f"COUNT_IF({text})" if text else "COUNT(*)"


def _product(one: Value, two: Value) -> str:
    """The product as a double: that of two whole numbers may overflow."""
    return " * ".join(value.sql if value.type == "number" else f"CAST({value.sql} AS DOUBLE)" for value in (one, two))


def _square(one: Summand) -> str:
    text = one.text if one.type == "number" else f"CAST({one.text} AS DOUBLE)"
    return f"{text} * {text}"
