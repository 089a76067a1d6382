"""Which rows are protected, and what a query may do with them before it aggregates them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from cleanroom.sql.catalog import Catalog
from cleanroom.sql.model import ProtectedInput, SemiJoin, Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import EqualColumns, Scope

MAX_PROTECTED_INPUTS = 64
"""Protected inputs of one FROM clause. Each of them costs a join and a distinct count."""

_ABSENT = "for persons who are not in them, write LEFT JOIN and group by CASE WHEN <identity> IS NULL THEN … END"

EqualPair = tuple[Value, Value]


def strictest_floor(protected: Iterable[ProtectedInput], catalog: Catalog) -> int:
    """The largest minimum group size among the views of ``protected``."""
    views = (catalog.view(item.view) for item in protected)
    return max((view.min_group_size for view in views if view is not None), default=0)


def joins_relations(left: Value, right: Value) -> bool:
    """Whether an equality of two values compares columns of different relations, as the condition of a join does."""
    return bool(left.origins) and bool(right.origins) and not (left.sources & right.sources)


def check_identities(left: Value, right: Value) -> None:
    """Refuse an equality of columns of two relations that compares a cast of an identity."""
    if joins_relations(left, right) and (left.identity or right.identity) and not (left.plain and right.plain):
        raise Refusal(
            "JoinNotOnIdentity",
            f"{left.sql} = {right.sql}".replace("`", "") + " compares an identity in another form: one person could count as several; "
            "compare the columns as they are, without a cast, which needs the same type on both sides",
        )


# -- joins ------------------------------------------------------------------------------------------------------------


def join_rows(
    join: str,
    left: Sequence[ProtectedInput],
    right: Sequence[ProtectedInput],
    conditions: Iterable[EqualPair],
    optional: Collection[str],
) -> tuple[list[ProtectedInput], str]:
    """The protected inputs of joined rows, and the condition that is true where an outer join found a row of its optional side.

    Args:
        join: The join's keywords (``JOIN``, ``LEFT JOIN``, ...).
        left: Protected inputs of the left side.
        right: Protected inputs of the right side.
        conditions: Pairs of columns whose equality is a condition of this join.
        optional: Aliases of the relations for which an outer join may find no row.
    """
    both = [*left, *right]
    if not both or join in ("JOIN", "CROSS JOIN"):
        return both, ""
    if join == "FULL JOIN":
        raise Refusal(
            "JoinOverFloor", "a FULL JOIN of rows under a privacy floor is not allowed; write a LEFT JOIN, or one query for each side"
        )
    if join in ("LEFT ANTI JOIN", "LEFT SEMI JOIN"):
        if right:
            how = _ABSENT if join == "LEFT ANTI JOIN" else "write <column> IN (SELECT <identity column> …)"
            raise Refusal("JoinOverFloor", f"{join} with rows under a privacy floor is not allowed; {how}")
        return both, ""
    compared = [side.sql for pair in conditions for side in pair if side.plain and side.sources <= frozenset(optional)]
    if not compared:
        raise Refusal("JoinOverFloor", f"a {join} of rows under a privacy floor needs an equality of two columns")
    marker = f"({compared[-1]} IS NOT NULL)"
    sides = [left, [item._replace(outer_join_marker=marker) for item in right]]
    if join == "RIGHT JOIN":
        sides = [[item._replace(outer_join_marker=marker) for item in left], right]
    return [item for side in sides for item in side], marker


# -- rows that the text copies or chooses -----------------------------------------------------------------------------


def check_inputs(scope: Scope) -> None:
    """Refuse a FROM clause with too many protected inputs, or with a LATERAL VIEW whose rows persons choose afterwards."""
    if scope.protected and any(not relation.text and relation.alias not in scope.exploded for relation in scope.relations.values()):
        raise Refusal(
            "FanOutOverFloor",
            "LATERAL VIEW next to <column> IN (SELECT <identity column> …) could copy rows; write it in a step after the one with IN",
        )
    if len(scope.protected) > MAX_PROTECTED_INPUTS:
        raise Refusal(
            "QueryTooComplex",
            f"one FROM clause contains more than {MAX_PROTECTED_INPUTS} relations under a privacy floor, including those inside of others",
        )


def check_array(columns: Sequence[str]) -> None:
    """Refuse an array that the text makes for protected rows; ``columns`` are the stored columns whose parts it contains.

    The text could put each row into any groups, and combine the counts of several groups to that of a few persons.
    """
    if not columns:
        raise Refusal(
            "FanOutOverFloor",
            "EXPLODE over rows under a privacy floor takes the parts of one column: "
            "write LATERAL VIEW EXPLODE(SPLIT(<dimension>, ',')) t AS x",
        )


def check_exploded(scope: Scope) -> None:
    """Refuse a SELECT with LATERAL VIEW over protected rows that does more than to count persons."""
    counts = (item.persons and not item.part for item in scope.released.values())
    if scope.exploded and not (scope.group_keys is not None and scope.aggregates_persons and all(counts)):
        raise Refusal(
            "FanOutOverFloor",
            "LATERAL VIEW repeats the rows of a person: with rows under a privacy floor, the same SELECT groups by dimensions and computes "
            "COUNT(DISTINCT …) of the identity only",
        )


def check_limit(protected: Sequence[ProtectedInput], limited: bool) -> None:
    """Refuse a query that chooses some of its protected rows by LIMIT or OFFSET."""
    if protected and limited:
        raise Refusal("LimitOverFloor", "LIMIT over rows under a privacy floor is not allowed; aggregate them first")


def check_union(operator: str, branches: Sequence[Sequence[ProtectedInput]]) -> None:
    """Refuse a set operation that compares protected rows or counts them twice. The operands have the protected inputs ``branches``."""
    if not any(branches):
        return
    if operator != "UNION ALL":
        raise Refusal(
            "UnionOverFloor",
            f"{operator} of rows under a privacy floor is not allowed; write UNION ALL, and COUNT(DISTINCT …) of the identity",
        )
    seen: set[str] = set()
    for branch in branches:
        views = {item.view for item in branch}
        if views & seen:
            names = ", ".join(sorted(views & seen))
            raise Refusal("FanOutOverFloor", f"{names} is in two parts of a UNION ALL: its rows would be counted twice")
        seen |= views


def union_mixes_rows(branches: Sequence[Sequence[ProtectedInput]]) -> bool:
    """Whether a union mixes protected rows with others, whose values the author may know.

    A distinct count of the mixed values would reveal whether a known value occurs among the protected ones.
    """
    return any(branches) and not all(branches)


# -- rows that stay protected -----------------------------------------------------------------------------------------


def is_per_person(protected: Sequence[ProtectedInput], keys: Iterable[Value], equal: EqualColumns) -> bool:
    """Whether ``keys`` include the identity of every protected input, so that each group or partition is one person."""
    plain = {equal.representative(key.sql) for key in keys if key.plain}
    always_found = {equal.person(key.sql) for key in keys if key.plain and not key.outer_join_markers}
    return bool(protected) and all(
        equal.representative(item.reference) in plain or equal.person(item.reference) in always_found for item in protected
    )


def window_parts(scope: Scope, partition: Sequence[Value]) -> list[Value]:
    """Parts of PARTITION BY that count as operands of a window function.

    A window over protected rows must see one person at a time. Its PARTITION BY may then name the identity.
    """
    if not scope.protected or (scope.group_keys is not None and not scope.per_person):
        return list(partition)
    if scope.per_person or not is_per_person(scope.protected, partition, scope.equal):
        raise Refusal(
            "WindowOverFloor", "a window over rows under a privacy floor must be PARTITION BY their identity; or aggregate them first"
        )
    return [key for key in partition if not (key.plain and key.identity)]


def check_no_rows(protected: Sequence[ProtectedInput]) -> None:
    """Refuse a subquery in an expression if its rows are protected."""
    if protected:
        raise _rows_in_expression(protected)


def _types_differ(one: str, other: str) -> Refusal:
    return Refusal(
        "JoinNotOnIdentity",
        f"an identity is compared with a column of another type ({one} and {other}): one person could count as several; "
        "both columns need the same type",
    )


def _rows_in_expression(protected: Sequence[ProtectedInput]) -> Refusal:
    return Refusal(
        "SubqueryOverFloor",
        f"rows of {', '.join(sorted({item.view for item in protected}))} are under a privacy floor: here only "
        f"<column> IN (SELECT <identity column> …) is allowed, also in place of EXISTS, joined by AND; {_ABSENT}",
    )


def unfiltered_identities(scope: Scope) -> list[str]:
    """Identities of the input views of a SELECT that may be NULL, because no equality is true in every row."""
    compared = {value.sql for pair in scope.equal.found if pair.in_every_row for value in (pair.first, pair.second)}
    views = {relation.alias for relation in scope.relations.values() if relation.view}
    return _not_compared([item for item in scope.protected if not item.outer_join_marker], views, compared)


def optional_identities(scope: Scope, optional: Collection[str], compared: Iterable[Value]) -> list[str]:
    """The same of input views among the ``optional`` relations of an outer join, whose condition compares the columns ``compared``."""
    views = {relation.alias for relation in scope.relations.values() if relation.view and relation.alias in optional}
    return _not_compared(scope.protected, views, {value.sql for value in compared})


def _not_compared(inputs: Iterable[ProtectedInput], views: Collection[str], compared: Collection[str]) -> list[str]:
    return [item.reference for item in inputs if item.reference not in compared and item.reference.split("`")[1] in views]


def semi_join(found: SemiJoin, scope: Scope, in_every_row: bool) -> None:
    """Protect the rows of a SELECT that a condition on protected rows selects. The condition must be true in every row."""
    if not in_every_row:
        check_no_rows(found.protected)
    scope.overlapping = scope.overlapping or bool(found.protected)
    if found.protected and not found.column.sources <= {relation.alias for relation in scope.relations.values()} - scope.exploded:
        raise _rows_in_expression(found.protected)
    scope.protected += membership_inputs(found.protected, found.column, found.type)


def membership_inputs(protected: Sequence[ProtectedInput], column: Value, type: str) -> list[ProtectedInput]:
    """Protected inputs of a SELECT that keeps the rows for which ``column IN (SELECT identity ...)``, of which ``type`` is the type."""
    if not all(item.output_position == 0 and column.plain and column.origins for item in protected):
        raise _rows_in_expression(protected)
    if protected and column.type != type:
        raise _types_differ(column.type, type)
    return [ProtectedInput(item.view, item.identity_column, column.sql, chooses=True) for item in protected]


def remaining_inputs(scope: Scope, outputs: Sequence[Value]) -> list[ProtectedInput]:
    """Inputs whose rows a SELECT leaves protected.

    The reference of each is a column that the SELECT list may still name. It also says where the identity is in the output.
    """
    if not scope.protected:
        return []
    equal = scope.equal
    inputs = []
    for item in scope.protected:
        same = equal.representative(item.reference)
        reference = item.reference
        if scope.per_person:
            reference = next((key for key in scope.plain_group_keys if equal.representative(key) == same), "") or next(
                key for key in scope.plain_group_keys if equal.person(key) == equal.person(item.reference)
            )
            same = equal.representative(reference)
        position = next((i for i, value in enumerate(outputs) if value.plain and equal.representative(value.sql) == same), None)
        inputs.append(item._replace(reference=reference, outer_join_marker="", output_position=position))
    return inputs
