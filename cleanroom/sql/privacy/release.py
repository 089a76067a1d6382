"""What a SELECT and a whole query release."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from cleanroom.sql.model import (
    ATOM,
    NO_NAMES,
    CheckedQuery,
    PartOfDivision,
    ProtectedInput,
    Release,
    ReleasedAggregate,
    Value,
)
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import Scope
from cleanroom.sql.vocabulary import FUNCTIONS

MAX_COUNTED = 16
"""Conditions under which a SELECT counts persons. Every two of them are compared."""
MAX_PARTS = 32
"""Parts into which the conditions inside aggregates may divide a group. Each costs a distinct count per protected input."""


def releases_groups(scope: Scope, outputs: Sequence[Value], *, distinct: bool) -> bool:
    """Whether a SELECT aggregates protected rows of several persons.

    It then needs the floor's conditions, and its rows are not protected any longer. Otherwise protected rows stay protected.

    Args:
        scope: Rows and groups of the SELECT.
        outputs: Its output columns.
        distinct: It has DISTINCT.
    """
    if scope.aggregates_persons and scope.group_keys is not None:
        return True
    if scope.protected and distinct and not _outputs_identities(scope, outputs):
        raise Refusal("RowLevelOutput", "DISTINCT over rows under a privacy floor: write GROUP BY <dimension>, or keep the identities")
    return False


def _outputs_identities(scope: Scope, outputs: Sequence[Value]) -> bool:
    """Whether the identity of every protected input is an output column, so that DISTINCT keeps persons apart."""
    equal = scope.equal
    plain = {equal.representative(value.sql) for value in outputs if value.plain}
    return all(equal.representative(item.reference) in plain for item in scope.protected)


def parts_of(divisions: Mapping[str, bool]) -> list[PartOfDivision]:
    """The parts into which conditions divide each group; none without conditions.

    Raises:
        Refusal: There are too many.
    """
    if 2 ** len(divisions) > MAX_PARTS:
        raise Refusal(
            "ConditionalAggregate",
            f"the conditions inside the aggregates divide each group into {2 ** len(divisions)} parts; the limit is {MAX_PARTS}",
        )
    return list(itertools.product(*(((text, True), (text, False)) for text in divisions))) if divisions else []


def counted_parts(
    protected: Sequence[ProtectedInput], divisions: Mapping[str, bool], floor: int
) -> list[tuple[ProtectedInput, PartOfDivision]]:
    """Inputs whose persons a floor counts, and the parts of groups in which it does; the whole group is the part without conditions.

    The conditions in ``divisions`` are those by which the aggregates divide each group; a part that must not be empty is marked.
    """
    parts = [(), *(parts_of(divisions) if any(divisions.values()) or floor > 1 else ())]
    return [(item, part) for part in parts for item in protected if (item.outer_join_marker, False) not in part]


def counted_persons(scope: Scope) -> tuple[list[str], bool]:
    """Tests of rows by which aggregates count persons, and whether they also count the rows of the same persons.

    Where the query text makes the rows of a person, or a person has one row for each value of other columns, every condition and every
    count of rows may count persons as well. So may every condition next to a count of persons, who may have one such row each.
    """
    counted, made = [item for item in scope.released.values() if item.persons], scope.overlapping or scope.multiplied
    tests = [test for item in counted if (test := presence(item))]
    several = made or any(len(relation.unique_on or ()) > 1 for relation in scope.relations.values())
    if several or 0 < len(counted) < len(scope.released):
        tests += [test_of(((text, true),)) for text in scope.divisions for true in (True, False)]
    if len(tests) > MAX_COUNTED:
        raise Refusal("ConditionalAggregate", f"the SELECT counts persons under {len(tests)} conditions; the limit is {MAX_COUNTED}")
    return list(dict.fromkeys(tests)), made and bool(counted) and any(map(_counts_rows, scope.released.values()))


def _counts_rows(item: ReleasedAggregate) -> bool:
    """Whether an aggregate shows how many rows there are: a count, a mean, or a sum of 1 or of a flag."""
    counts = FUNCTIONS[item.name].disclosure in ("count", "condition") or item.name in ("AVG", "MEAN")
    return not item.persons and (counts or item.value is None)


def presence(item: ReleasedAggregate) -> str:
    """The condition under which a row counts for COUNT(DISTINCT …) of an identity; empty for every row."""
    found = [test_of(item.part)] if item.part else []
    if item.value is not None and (found or item.value.outer_join_markers):
        found.append(f"{item.value.sql} IS NOT NULL")
    return " AND ".join(found)


def test_of(part: PartOfDivision) -> str:
    """The condition on the rows of a part."""
    return " AND ".join(f"{text} IS {'' if true else 'NOT '}TRUE" for text, true in part)


def output_field(name: str, value: Value, *, protected: bool) -> Value:
    """What an enclosing query may know about an output column of a SELECT, which reads ``protected`` rows or not."""
    out = value.copy()
    out.sql, out.name, out.precedence, out.operator, out.constant, out.parts = "", name, ATOM, "", None, ()
    if value.outer_join_markers or (value.windowed and value.degree != 0):
        out.degree = None
    out.plain = value.plain and not value.outer_join_markers
    out.identity = value.identity and protected
    out.outer_join_markers, out.caps, out.aggregated, out.windowed = NO_NAMES, NO_NAMES, False, False
    return out


def check_correlation(releases: frozenset[Release], outer_reads: Sequence[Value]) -> None:
    """Refuse a subquery that releases an aggregate for each row around it."""
    if releases and outer_reads:
        raise Refusal("DifferencingRisk", "an aggregate under a privacy floor may not depend on the rows around it")


def check_result(query: CheckedQuery) -> None:
    """Refuse a result that contains protected rows or two releases of one view."""
    if query.protected:
        views = sorted({item.view for item in query.protected})
        raise Refusal(
            "RowLevelOutput",
            f"rows of {', '.join(views)} are under a privacy floor and may leave only through an aggregation: write SELECT <dimension>, "
            f"COUNT(DISTINCT {query.protected[0].identity_column}) … GROUP BY <dimension>",
        )
    seen: dict[str, int] = {}
    for number, view in sorted(query.releases):
        if seen.setdefault(view, number) != number:
            raise Refusal(
                "DifferencingRisk",
                f"the result combines two aggregations of {view}: their difference could reveal a group that the floor suppresses; "
                "write two queries instead",
            )
