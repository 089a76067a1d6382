"""What a release shows, and the conditions on it: sums of values, and counts of rows.

Every number of a result is computed from some of them: a mean from a sum and a count, a variance also from the sum of the squares. Each
sum, and each difference of two of them, must depend on no person or on enough, and no person may dominate it. The same holds in each part
into which the conditions of the SELECT divide a group, because the sums of some rows can be combined to that of a part: ``SUM(x) - SUM(x)
FILTER (WHERE a) - SUM(x) FILTER (WHERE b)``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cleanroom.sql.context import Context
from cleanroom.sql.model import SUM, ColumnKey, PartOfDivision, ReleasedAggregate, Value
from cleanroom.sql.privacy import aggregates, polynomials
from cleanroom.sql.privacy.groups import Numbers, PersonGroups
from cleanroom.sql.privacy.release import test_of
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import columns_in, parenthesised
from cleanroom.sql.vocabulary import FUNCTIONS

_COLUMN = re.compile("(`[^`]*`[.]`[^`]*`) IS NOT NULL")


Tests = tuple[str, ...]
"""Tests of rows that AND combines."""


class Summand(NamedTuple):
    """A value of which a release shows the sum."""

    text: str  # a column, a function of one, a product of two, or an expression over data of the author
    type: str
    protected: bool  # it shows values of persons
    present: Tests  # the rows in which it is not NULL
    power: bool = False  # it is a product
    root: str = ""  # what it is the square of
    counts: bool = False  # it is how many rows a person has

    def compared(self, part: PartOfDivision) -> str:
        """The sum in the rows of a part, to be compared with others. It does not overflow, and loses no digits."""
        kind = "DECIMAL(20, 0)" if self.type == "long" else "DOUBLE"
        text = self.text if self.type == "number" else f"CAST({self.text} AS {kind})"
        return Numbers(text, where=_all_of(part, ())).aggregate("SUM")


class Sums:
    """The sums and counts of a release."""

    def __init__(self, ctx: Context, floor: int) -> None:
        """Read the aggregates of a SELECT.

        Raises:
            Refusal: They could be solved for the values of single persons.
        """
        self._ctx, self._known = ctx, ctx.scope.columns
        self._sums: dict[tuple[Summand, PartOfDivision], None] = {}
        self._counts: dict[tuple[Tests, PartOfDivision], None] = {}  # of rows that meet tests
        self._found: dict[tuple[Tests, PartOfDivision], None] = {}  # rows with a value that is counted
        self._limits: dict[tuple[Tests, PartOfDivision], None] = {}  # rows below a limit
        self._selectors: set[PartOfDivision] = set()
        self._counts_rows = False
        self._uses: dict[str, dict[tuple[str, PartOfDivision], Tests]] = {}  # of each value: by which aggregates, and the rows they read
        self._means: set[Summand] = set()  # they and the number of values are in a mean
        self._columns: dict[ColumnKey, set[tuple[str, PartOfDivision]]] = {}
        self._forms: dict[ColumnKey, set[str]] = {}
        self._steps: dict[ColumnKey, set[str]] = {}
        self._reads: dict[tuple[ColumnKey, int | None], set[str]] = {}  # the same values of persons, in rows that steps choose
        for item in ctx.scope.released.values():
            if item.persons or (item.arg is not None and item.arg.identity):  # each person may have one row
                self._counts_rows, self._counts[(), ()] = True, None
            else:
                self._read(item)
        for uses in self._uses.values():
            functions = {function for function, _ in uses}
            # A sum and a mean show how many values there are, and so do three means.
            if len(functions) > 1 or (len(uses) > 2 and "SUM" not in functions):
                self._counts |= {(present, part): None for (_, part), present in uses.items()}
        self._check(floor)

    def _read(self, item: ReleasedAggregate) -> None:
        value, part = item.value, item.part
        self._selectors.add(part)
        if value is None:
            self._counts[(), part] = None
        elif FUNCTIONS[item.name].disclosure == "mixture":
            self._add(item.name, value, part)
        else:
            tests = _present([parenthesised(value, SUM)])
            self._found[tests, part] = self._counts[tests, part] = None
        self._counts_rows = self._counts_rows or value is None or item.name != "SUM"

    def _add(self, name: str, value: Value, part: PartOfDivision) -> None:
        """Add what an aggregate of a value sums up."""
        columns = aggregates.protected_columns(value, self._ctx.catalog)
        self._limits |= {((test,), part): None for test in sorted(value.caps)}
        factors = polynomials.factors_of(value) if columns else (parenthesised(value, SUM),)
        powers = [factors, tuple(sorted(factors * 2))] if name in aggregates.POWERS else [factors]
        summands = [self._summand(power, value, bool(columns)) for power in powers]
        read, known = columns_in(summands[0].text), self._known
        self._uses.setdefault(" ".join(read), {})[name, part] = summands[0].present
        self._sums |= {(summand, part): None for summand in summands}
        self._means |= {*summands} if name != "SUM" else set()
        form = value.sql if value.transformed else "filled" if value.filled else "sum" if name == "SUM" else "plain"
        for column in columns:
            self._columns.setdefault(column, set()).add((value.sql, part))
            self._columns[column] |= {(f"{value.sql} squared", part)} if name in aggregates.POWERS else set()
            self._forms.setdefault(column, set()).add(form)
        for text in read:
            for column in aggregates.protected_columns(known[text], self._ctx.catalog) if text in known else ():
                self._steps.setdefault(column, set()).add(known[text].step)
                self._reads.setdefault((column, known[text].degree), set()).add(text)

    def _summand(self, factors: Sequence[str], value: Value, protected: bool) -> Summand:
        """A value, given its factors."""
        if len(factors) > 1:
            root = self._summand(factors[:1], value, protected).text if len({*factors}) == 1 else ""
            return Summand(_product(factors, self._known), "number", protected, _present(factors), True, root)
        kind = self._known.get(factors[0], value).type
        return Summand(factors[0], kind, protected, _present(factors), counts=value.made_by_text and not protected)

    def _check(self, floor: int) -> None:
        """Refuse sums that could be solved for the values of a small group, or that depend on each other by the text."""
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
            several = len(forms - {"sum"}) > 1 or ("sum" in forms and forms - {"sum", "filled", "plain"})
            if several or len(self._steps.get(column, ())) > 1:
                raise Refusal(
                    "TooManyMoments",
                    f"the SELECT aggregates {column[1]} in several forms (plain, rounded, capped, 0 for NULL, or the SUM, AVG, MIN or MAX "
                    "of each person): the difference could be a value of one person; use one of them",
                )

        for (column, _), texts in self._reads.items():
            # Known multiples of two sums may be equal for all but a few persons, like the sums themselves.
            scaled = self._ctx.scope.repeats or self._ctx.scope.multiplied or re.search("AVG|repeated", " ".join(self._steps[column]))
            if len(texts) > (1 if scaled else 2):
                raise Refusal(
                    "TooManyMoments",
                    f"the SELECT aggregates {column[1]} of {len(texts)} steps or relations, each of which may contain other rows: sums "
                    "could be combined to the value of one row; use one of them, or the sums of two steps per person without a join",
                )

    # -- conditions ---------------------------------------------------------------------------------------------------

    def require(self, groups: PersonGroups, share: int, parts: Iterable[PartOfDivision]) -> None:
        """Add the conditions to those of ``groups``.

        Args:
            groups: Groups of persons.
            share: Largest part of one person in a sum, in percent.
            parts: The parts into which conditions divide each group.
        """
        for tests, part in self._found:
            groups.require(_all_of(part, tests), none=bool(part))
        self._require(groups, share, list(self._sums), list(self._counts), list(self._limits))
        groups.require_differences((_count(part, ()), _count(part, tests)) for tests, part in self._counts if tests)
        summands, counted = dict.fromkeys(summand for summand, _ in self._sums), dict.fromkeys(tests for tests, _ in self._counts)
        for part in parts if len(self._selectors) > 1 else ():
            for tests in counted:
                groups.require(_all_of(part, tests))
            counts = [(tests, part) for tests in {(): None} | counted]
            self._require(groups, share, [(summand, part) for summand in summands], counts, [(tests, part) for tests, _ in self._limits])

    def _require(
        self,
        groups: PersonGroups,
        share: int,
        sums: Sequence[tuple[Summand, PartOfDivision]],
        counts: Sequence[tuple[Tests, PartOfDivision]],
        limits: Sequence[tuple[Tests, PartOfDivision]],
    ) -> None:
        roots = {summand.root for summand, part in sums if not part}
        for summand, part in sums:
            where, total = _all_of(part, ()), summand.compared(part)
            if summand.protected:
                groups.require_share(summand.text, where, share, total if summand.root else "")
            if part or summand.text not in roots:  # those who contribute to a square are not more
                groups.require_contributors(summand.text, where, total, none=bool(part))
        for tests, part in counts:  # with the counts of each of two columns, that of both shows how many rows have none
            if len(tests) > 1 and all(((test,), part) in counts for test in tests):
                groups.require(_all_of(part, tuple(f"NOT ({test})" for test in tests)))
        counted = [_count(part, tests) for tests, part in counts]
        groups.require_differences(self._pairs(sums, counted))
        groups.require_differences(itertools.combinations(counted, 2) if self._counts_rows else ())
        for power in (False, True):  # sums and moments of one power may be almost equal
            totals = [summand.compared(part) for summand, part in sums if summand.power == power]
            groups.require_differences(itertools.combinations(totals, 2), share)
        groups.require_means(self._pairs_of_means(sums, counted))
        for tests, part in limits:
            groups.require(_all_of(part, tests))

    def _pairs(self, sums: Sequence[tuple[Summand, PartOfDivision]], counts: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Pairs of two sums, or of a sum and a count, of which the result may show the difference."""
        totals = [summand.compared(part) for summand, part in sums]
        yield from itertools.combinations(totals, 2)
        for total, (summand, part) in zip(totals, sums, strict=True) if self._counts_rows else ():
            shown = _count(part, (f"{summand.text} <> 0",)) if summand.counts else total
            yield from ((shown, text) for text in dict.fromkeys([_count(part, summand.present), *counts]) if text != shown)

    def _pairs_of_means(
        self, sums: Sequence[tuple[Summand, PartOfDivision]], counts: Sequence[str]
    ) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
        """A mean and another sum: if the sums are equal, the result may show that the numbers of values are not."""
        for (summand, part), (other, rows) in itertools.permutations(sums, 2):
            totals = summand.compared(part), other.compared(rows)
            own = _count(part, summand.present)
            numbers = [_count(rows, other.present)] if other in self._means else counts
            yield from ((totals, (own, number)) for number in numbers if summand in self._means and number != own)


def _present(texts: Iterable[str]) -> Tests:
    return tuple(f"{text} IS NOT NULL" for text in sorted({*texts}))


def _all_of(part: PartOfDivision, tests: Tests) -> str:
    return " AND ".join([*([test_of(part)] if part else []), *sorted(tests)])


def _count(part: PartOfDivision, tests: Tests) -> str:
    """The number of rows of a part that meet tests."""
    text = _all_of(part, tests)
    column = _COLUMN.fullmatch(text)
    return f"COUNT({column[1]})" if column else f"COUNT_IF({text})" if text else "COUNT(*)"


def _product(factors: Sequence[str], columns: Mapping[str, Value]) -> str:
    """The product as a double: that of two whole numbers may overflow."""
    known = [text in columns and columns[text].type == "number" for text in factors]
    return " * ".join(text if number else f"CAST({text} AS DOUBLE)" for text, number in zip(factors, known, strict=True))
