"""What an aggregate reveals about the rows of a group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cleanroom.sql.catalog import Catalog
from cleanroom.sql.model import NO_COLUMNS, ROWS, ColumnKey, Division, ProtectedInput, Value
from cleanroom.sql.precedence import SUM
from cleanroom.sql.privacy.polynomials import MAX_DEGREE
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised
from cleanroom.sql.vocabulary import FUNCTIONS


class Disclosure(NamedTuple):
    """What an aggregate reveals.

    Attributes:
        exposed: Input columns whose values can be read from the result.
        degree: 1 if a later aggregate may combine the results like values of a column, None otherwise.
        divisions: Divisions of the group that the result depends on.
    """

    exposed: frozenset[ColumnKey]
    degree: int | None
    divisions: tuple[Division, ...] = ()


def aggregate_disclosure(
    name: str, args: Sequence[Value], *, distinct: bool, released: Sequence[ProtectedInput], catalog: Catalog
) -> Disclosure:
    """Decide what an aggregate reveals, and refuse it if that is a value of one person.

    Args:
        name: Name of the aggregate.
        args: Its arguments.
        distinct: The aggregate ignores duplicates.
        released: Protected inputs, if the aggregate combines rows of several persons; empty for rows without a floor and for
            groups of one person, which stay protected.
        catalog: Views with their owners' rules.
    """
    disclosure = FUNCTIONS[name].disclosure
    divisions = _allowed_divisions(name, args, distinct, catalog) if released else ()
    combinable = disclosure != "value" and all(arg.degree is not None and not arg.outer_join_markers for arg in args)
    return Disclosure(_exposed(disclosure, args, released), 1 if combinable else None, divisions)


def _exposed(disclosure: str, args: Sequence[Value], released: Sequence[ProtectedInput]) -> frozenset[ColumnKey]:
    if disclosure in ("count", "condition"):
        return NO_COLUMNS
    exposed = frozenset([pair for arg in args for pair in arg.exposed])
    if disclosure == "mixture" and released:
        views = {item.view for item in released}
        return frozenset([pair for pair in exposed if pair[0] not in views])
    return exposed


def _allowed_divisions(name: str, args: Sequence[Value], distinct: bool, catalog: Catalog) -> tuple[Division, ...]:
    """The divisions of an aggregate over protected rows.

    Raises:
        Refusal: The aggregate may not be computed.
    """
    found = found_row_divisions(args)
    disclosure = FUNCTIONS[name].disclosure
    if disclosure == "count":
        if not all(arg.degree == 0 or arg.plain or (arg.degree is not None and not distinct) for arg in args):
            raise Refusal("ConditionalAggregate", f"{name} over rows under a privacy floor counts rows or plain columns only")
        return found
    if disclosure == "condition":
        return (*found, *condition_divisions(args[:1], catalog))
    if disclosure == "mixture" and not distinct:
        if any(arg.degree is None for arg in args):
            raise Refusal(
                "ConditionalAggregate",
                f"{name} over rows under a privacy floor takes columns and their sums and products (up to {MAX_DEGREE} factors); "
                "this expression could single out rows (round and cast the result, not the rows)",
            )
        if any(arg.type in ("boolean", "string") for arg in args):
            raise Refusal("ConditionalAggregate", f"{name} over rows under a privacy floor takes numbers")
        return found
    if disclosure == "extreme" and _is_publishable(args[0], catalog):
        return found
    raise Refusal(
        "ValueOfOnePerson",
        f"{name}{' DISTINCT' if distinct else ''} over rows under a privacy floor can reveal the value of one person",
    )


def _is_publishable(value: Value, catalog: Catalog) -> bool:
    """Whether the owners list the column ``value``, which is not text, as publishable."""
    if not value.plain or value.type == "string" or value.outer_join_markers:
        return False
    views = [(catalog.view(view), column) for view, column, _ in value.origins]
    return bool(views) and all(view is not None and view.lists_output(column) for view, column in views)


def found_row_divisions(values: Iterable[Value]) -> tuple[Division, ...]:
    """Divisions of a group into the rows for which an outer join found a row and the others."""
    # Sorted, because the rendered text must not depend on the order of a set.
    markers = dict.fromkeys(marker for value in values for marker in sorted(value.outer_join_markers))
    return tuple(Division((marker,), True) for marker in markers)


def condition_divisions(conditions: Sequence[Value], catalog: Catalog) -> tuple[Division, ...]:
    """Divisions of a group by the conditions of a CASE, IF, FILTER or COUNT_IF.

    Raises:
        Refusal: A condition reads a column that its owner does not allow in a result.
    """
    publishable = True
    for condition in conditions:
        for view_name, column, _ in sorted(condition.origins):
            view = catalog.view(view_name)
            if view is None or view.min_group_size == 0:
                publishable = False
            elif not view.may_output(column) or column == ROWS:
                raise Refusal(
                    "ConditionalAggregate",
                    f"a condition inside an aggregate reads {column}, which the owner of {view.name} does not allow in a result",
                )
            elif not view.lists_output(column):
                publishable = False
        if condition.degree is None and not condition.origins:
            publishable = False
    texts = tuple(parenthesised(condition, SUM) for condition in conditions)
    return (*found_row_divisions(conditions), Division(texts, not publishable))
