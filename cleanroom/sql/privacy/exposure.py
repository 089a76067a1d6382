"""Which columns a value exposes, and whether their owners allow that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cleanroom.sql.catalog import Catalog, View
from cleanroom.sql.model import ColumnKey, Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import Scope


def _dimensions(view: View) -> str:
    return ", ".join(view.dimension_names) or "none"


def check_exposed(exposed: Iterable[ColumnKey], what: str, catalog: Catalog) -> None:
    """Refuse a value that exposes a column which may not be part of a result.

    Args:
        exposed: Columns whose values can be read from the value.
        what: Beginning of the message; the column's name follows.
        catalog: Views with their owners' rules.
    """
    for view_name, column in sorted(exposed):
        view = catalog.view(view_name)
        if view is None or view.may_output(column):
            continue
        if column in view.identity_columns:
            raise Refusal(
                "IdentityInOutput",
                f"{what} {column}: it identifies persons of {view.name} and cannot be part of a result; write COUNT(DISTINCT {column}). "
                "A step per person groups by the identities of all its datasets, and does not follow a UNION",
            )
        text = f"the owner of {view.name} does not allow its values in a result; dimensions: {_dimensions(view)}"
        raise Refusal("OutputColumnNotAllowed", f"{what} {column}: {text}")


def check_condition(conditions: Iterable[Value], catalog: Catalog, what: str = "a condition", *, joins_persons: bool = False) -> None:
    """Refuse a condition on a column that its owner does not list as a dimension: which rows meet it shows the column's values.

    An identity of a dataset without a floor is such a column, unless the condition joins it with persons (``joins_persons``).
    """
    for condition in conditions:
        for view, column in unlisted(condition, catalog, joins_persons=joins_persons):
            raise Refusal(
                "OutputColumnNotAllowed",
                f"{what} reads {column}: the owner of {view.name} does not list it as a dimension, for conditions, groups and order; "
                f"dimensions: {_dimensions(view)}",
            )


def choose_rows(conditions: Iterable[Value], scope: Scope, catalog: Catalog) -> None:
    """Record conditions or group keys that combine several columns. Only dates of persons may be compared with each other."""
    for value in conditions:
        dates = value.mixed == 1 and all(catalog.has_floor(view) for view, _, _ in value.origins)
        scope.chooses = scope.chooses or (value.mixed > 0 and not dates)


def unlisted(value: Value, catalog: Catalog, *, joins_persons: bool = False) -> list[tuple[View, str]]:
    """Columns that a value exposes and that are neither dimensions nor identities of persons, or of any dataset if it ``joins_persons``."""
    exposed = [(view, column) for name, column in sorted(value.exposed) if (view := catalog.view(name)) is not None]
    return [
        (view, column)
        for view, column in exposed
        if not (view.may_output(column) or (column in view.identity_columns and (view.min_group_size or joins_persons)))
    ]


def comparable(values: Iterable[Value], catalog: Catalog) -> list[Value]:
    """Those of ``values`` of which the number of different ones tells more than those of a person's columns: not unchanged, or no person's.

    Without a floor, there may be two rows only.
    """
    return [value for value in values if not (value.plain and all(catalog.has_floor(view) for view, _ in value.exposed))]


def check_one_relation(scope: Scope, conditions: Sequence[Value], results: Sequence[Value]) -> None:
    """Refuse a condition on one relation for values of another whose rows a join repeats: it would choose how often each row counts."""
    of_results = frozenset([source for result in results for source in result.sources])
    of_conditions = frozenset([source for condition in conditions for source in condition.sources])
    if scope.multiplied and of_results and not of_conditions <= of_results:
        raise Refusal(
            "ConditionalAggregate",
            f"a condition on {', '.join(sorted(of_conditions - of_results))} chooses values of {', '.join(sorted(of_results))}, whose rows "
            "the join may repeat; use WHERE or GROUP BY, or aggregate each of the two per person first",
        )


def identity_misuse(name: str) -> Refusal:
    """The refusal of an expression that computes something from an identity."""
    return Refusal(
        "IdentityUse",
        f"{name or 'an identity column'} identifies persons: it may only be joined on as it is, without a cast or a function, counted "
        "(COUNT, COUNT DISTINCT) or tested for NULL",
    )
