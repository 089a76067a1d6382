"""What an aggregate reveals about the rows of a group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cleanroom.sql.catalog import Catalog
from cleanroom.sql.model import NO_COLUMNS, SUM, ColumnKey, Division, ProtectedInput, ReleasedAggregate, Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import GROUPS, parenthesised, qualified
from cleanroom.sql.scope import Scope
from cleanroom.sql.vocabulary import FUNCTIONS


class Disclosure(NamedTuple):
    """What an aggregate reveals."""

    exposed: frozenset[ColumnKey]  # input columns whose values can be read from the result
    degree: int | None  # the power of columns in the result, if a later aggregate may combine it like values of a column; None otherwise
    divisions: tuple[Division, ...] = ()  # divisions of the group that the result depends on


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
    _check_overflow(name, args, catalog)
    divisions = _allowed_divisions(name, args, distinct, catalog) if released else ()
    different = distinct or name == "APPROX_COUNT_DISTINCT"
    exposed = _exposed(disclosure, args, released, catalog if different else None)
    if disclosure == "value" or not all(arg.degree is not None and not (released and arg.outer_join_markers) for arg in args):
        return Disclosure(exposed, None, divisions)
    counts = disclosure in ("count", "condition")
    return Disclosure(exposed, 1 if counts else POWERS.get(name, 1) * max((arg.degree or 1 for arg in args), default=1), divisions)


def _check_overflow(name: str, args: Sequence[Value], catalog: Catalog) -> None:
    """Refuse arithmetic with whole numbers of persons, which fails if one of them is large."""
    for view, column, _ in sorted(origin for arg in args if arg.whole for origin in arg.origins):
        owner = catalog.view(view)
        if owner is not None and owner.min_group_size > 0 and not owner.may_output(column):
            raise Refusal(
                "ConditionalAggregate",
                f"{name} of arithmetic with whole numbers of {column} fails if one value is large, and the failure would show that; "
                f"write CAST({column} AS DOUBLE)",
            )


def _exposed(disclosure: str, args: Sequence[Value], released: Sequence[ProtectedInput], catalog: Catalog | None) -> frozenset[ColumnKey]:
    """Input columns that an aggregate exposes; ``catalog`` if it counts different values."""
    if disclosure == "condition" or (disclosure == "count" and released):
        return NO_COLUMNS
    exposed = frozenset([pair for arg in args for pair in arg.exposed])
    if disclosure == "count" and all(arg.plain for arg in args):
        # Without a floor, a group may be two rows: the count tells whether their values are equal.
        return frozenset([pair for pair in exposed if catalog is not None and not catalog.has_floor(pair[0])])
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
        if all(arg.degree == 0 or arg.plain or _reads_dimensions(arg, catalog) for arg in args):
            return found
        raise Refusal(
            "ConditionalAggregate",
            f"{name} over rows under a privacy floor counts rows, columns and values of dimensions; write COUNT(<column>), "
            "or COUNT_IF of a condition on dimensions",
        )
    if disclosure == "condition":
        return (*found, *condition_divisions(args[0], catalog))
    if name == "SUM" and args[0].type == "decimal":
        raise Refusal("TypeNotAllowed", "SUM of DECIMAL over rows under a privacy floor may fail for large values; write CAST(… AS DOUBLE)")
    if disclosure == "mixture" and not distinct and not name.startswith("TRY_"):
        value = args[0].selected or args[0]
        if is_flag(value, catalog):
            return (*found, Division(f"({parenthesised(value, SUM)} <> 0)", False))
        _check_value(name, args[0], catalog)
        return found
    remedy = "use COUNT, SUM, AVG or STDDEV"
    if disclosure == "extreme":
        remedy = "use AVG and STDDEV, or group by a dimension; a step per person may compute it"
    if name in ("MEDIAN", "PERCENTILE", "PERCENTILE_APPROX", "APPROX_PERCENTILE"):
        remedy = "a percentile is a value of the data; use AVG and STDDEV, or count persons by ranges that the owner lists as a dimension"
    elif len(args) > 1 and FUNCTIONS[name].result in ("number", "long"):
        remedy = "a comparison of two columns reads the rows that have both; use AVG(x * y) - AVG(x) * AVG(y) for the covariance"
    raise Refusal(
        "ValueOfOnePerson",
        f"{name}{' DISTINCT' if distinct else ''} over rows under a privacy floor can reveal the value of one person; {remedy}",
    )


def release_aggregate(scope: Scope, name: str, args: Sequence[Value], distinct: bool, where: str, sql: str, catalog: Catalog) -> str:
    """Record an aggregate over rows of several persons, and return the column of the groups that it becomes."""
    tests, arg = [where] if where else [], args[0] if args else None
    value = arg
    if value is not None and value.selected is not None:
        tests, value = [*tests, value.selector], value.selected
    how = FUNCTIONS[name].disclosure
    if value is not None and (how == "condition" or (how == "mixture" and is_flag(value, catalog))):
        tests.append(parenthesised(value, SUM) if value.type == "boolean" else f"({parenthesised(value, SUM)} <> 0)")
        value = None
    value = value if value is not None and value.sources else None
    part = tuple((test, True) for test in tests)
    scope.released.setdefault(sql, ReleasedAggregate(name, arg, where, sql, distinct, value, part))
    return qualified(GROUPS, f"__cr_a{list(scope.released).index(sql)}")


def is_flag(value: Value, catalog: Catalog) -> bool:
    """Whether ``value`` is 0 or 1 and depends on dimensions only."""
    return value.flag and not value.sql.startswith(("CASE ", "IF(")) and _reads_dimensions(value, catalog)


def _reads_dimensions(value: Value, catalog: Catalog) -> bool:
    """Whether ``value`` is computed from dimensions of views with a floor, and from nothing else."""
    return bool(value.exposed) and all(
        (view := catalog.view(name)) is not None and view.min_group_size > 0 and view.may_output(column) for name, column in value.exposed
    )


def _check_value(name: str, arg: Value, catalog: Catalog) -> None:
    """Refuse a sum or a moment of anything but a measure, a function of one, a product of two, or data of the author."""
    arg = arg.selected or arg
    protected = protected_columns(arg, catalog)
    own = bool(arg.origins) and not any(catalog.has_floor(view) for view, _, _ in arg.origins)
    if arg.conditional or (arg.degree is None and not own):
        raise Refusal(
            "ConditionalAggregate",
            f"{name} over rows under a privacy floor takes a column, a product of two, or LEAST, ROUND, LN, LOG10 or LOG1P of one column; "
            f"write sums, constant factors and other functions outside of it, as in 1.2 * {name}(a) - {name}(b); "
            "a flag per person is MAX(CASE WHEN … THEN 1 ELSE 0 END)",
        )
    if arg.capped and not arg.caps:
        raise Refusal(
            "ConditionalAggregate",
            f"{name} of {arg.name or arg.sql}, which an earlier SELECT limits by LEAST: write LEAST inside {name}(…)",
        )
    if arg.type in ("boolean", "string"):
        raise Refusal("ConditionalAggregate", f"{name} over rows under a privacy floor takes numbers")
    for view, column in protected:
        owner = catalog.view(view)
        if owner is not None and not owner.may_aggregate(column):
            text = f"{name} of {column}: the owner of {owner.name} does not list it as a measure; it may be counted (COUNT)"
            text += "; a condition on it stands in FILTER (WHERE …)" if owner.may_output(column) else ""
            raise Refusal("MeasureNotAllowed", text)
    if not own and (arg.degree or 1) * POWERS.get(name, 1) > MAX_POWER:
        raise Refusal(
            "TooManyMoments",
            f"{name} of this expression contains powers above {MAX_POWER} of columns under a privacy floor, which could reveal "
            "single values; use COUNT, SUM and AVG of columns and of products of two, and STDDEV of columns",
        )
    views = sorted({view for view, _, _ in arg.origins})  # whose owners, or the author, could choose a factor for each person
    if (arg.degree or 0) > 1 and (arg.made_by_text or len(views) > 1):
        raise Refusal(
            "WeightsNotAllowed",
            f"{name} multiplies columns of {' and '.join(views)}, a count, or a column that an outer join may leave NULL: such weights "
            "could single out persons; multiply the result, or group instead",
        )
    if own and arg.made_by_text:
        raise Refusal(
            "WeightsNotAllowed",
            f"{name} over rows under a privacy floor takes stored columns; this value is a count, or an outer join may leave it NULL: "
            "such weights could single out persons; group by it instead",
        )


def protected_columns(value: Value, catalog: Catalog) -> list[ColumnKey]:
    """Columns of views with a floor that ``value`` exposes, except identities."""
    found = []
    for name, column in sorted(value.exposed):
        view = catalog.view(name)
        if view is not None and view.min_group_size > 0 and column not in view.identity_columns:
            found.append((name, column))
    return found


MOST_MOMENTS = 3
"""Different sums that contain one column. With fewer persons than sums, the sums would determine every value."""
MAX_POWER = 2
POWERS = dict.fromkeys(("STDDEV", "STDDEV_SAMP", "STDDEV_POP", "STD", "VARIANCE", "VAR_SAMP", "VAR_POP"), MAX_POWER)
"""Aggregates that contain the squares of their arguments."""


def found_row_divisions(values: Iterable[Value]) -> tuple[Division, ...]:
    """Divisions of a group into the rows for which an outer join found a row and the others."""
    # Sorted, because the rendered text must not depend on the order of a set.
    markers = dict.fromkeys(marker for value in values for marker in sorted(value.outer_join_markers))
    return tuple(Division(marker, True) for marker in markers)


def condition_divisions(condition: Value, catalog: Catalog) -> tuple[Division, ...]:
    """Divisions of a group by the condition of a CASE, IF, FILTER or COUNT_IF, which reads dimensions.

    A part may be empty if owners publish all of the columns, or if the condition is whether an outer join found the person.
    """
    publishable = condition.degree is not None or bool(condition.origins)
    for name, column in condition.exposed:
        view = catalog.view(name)
        found = view is not None and column in view.identity_columns and bool(condition.outer_join_markers)
        publishable = publishable and (found or (view is not None and view.min_group_size > 0 and view.lists_output(column)))
    return (*found_row_divisions([condition]), Division(parenthesised(condition, SUM), not publishable))
