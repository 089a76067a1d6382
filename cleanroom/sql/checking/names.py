"""Names that an author may give to relations and columns."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.catalog import COLUMN_NAME, RELATION_NAME
from cleanroom.sql.checking.nodes import allow_only, position_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import CheckedQuery
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.characters import strip_invisible


def check_relation_name(name: str, node: exp.Expr) -> None:
    """Refuse a name of a relation that is not a plain identifier."""
    if not RELATION_NAME.fullmatch(name):
        raise Refusal("NameNotAllowed", f"{strip_invisible(name)[:120]!r} is not a plain name (letters, digits, _)", position_of(node))


def check_column_name(name: str, node: exp.Expr) -> None:
    """Refuse a name of a column that is not printable ASCII without backticks."""
    if not ((name.isidentifier() and name.isascii() and len(name) <= 128) or COLUMN_NAME.fullmatch(name)):
        raise Refusal(
            "NameNotAllowed",
            f"{strip_invisible(name)[:120]!r} is not an allowed column name (printable ASCII)",
            position_of(node),
        )


def check_new_relation_name(name: str, node: exp.Expr, ctx: Context) -> None:
    """Refuse a name that an input view or an earlier relation of the query already has, so that it cannot be misread."""
    check_relation_name(name, node)
    if ctx.rules.catalog.view(name) is not None or name.lower() in ctx.relations:
        raise Refusal("NameShadowsView", f"{name} is already the name of another relation; choose another", position_of(node))


def check_distinct_columns(query: CheckedQuery, what: str, node: exp.Expr) -> None:
    """Refuse a query with two output columns of the same name."""
    seen: set[str] = {field.name.lower() for field in query.fields}
    if len(seen) == len(query.fields):
        return
    seen.clear()
    for field in query.fields:
        if field.name.lower() in seen:
            raise Refusal("DuplicateColumn", f"{what} has two columns called {field.name}; alias one of them", position_of(node))
        seen.add(field.name.lower())


def alias_of(node: exp.Expr, scope: Scope, fallback: str) -> str:
    """The alias of a relation as written, or ``fallback`` if it has none. Two relations of one FROM clause have different aliases."""
    alias = node.args.get("alias")
    if alias is not None:
        allow_only(alias, "this", "columns")
    name: str = alias.name if alias is not None and alias.this is not None else fallback
    check_relation_name(name, node)
    if name.lower() in scope.relations:
        if alias is not None or fallback not in ("subquery", "values"):
            raise Refusal("DuplicateAlias", f"two relations in one FROM are called {name}; give each its own alias", position_of(node))
        while name.lower() in scope.relations:
            name += "_"
    return name


def unique_alias(name: str, scope: Scope) -> str:
    """``name``, or a variation that no enclosing SELECT uses, so that a reference means the same relation everywhere."""
    taken = {relation.alias.lower() for level in scope.enclosing() for relation in level.relations.values()}
    unique, number = name, 2
    while unique.lower() in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique


def column_aliases(node: exp.Expr) -> list[str]:
    """Column names in the alias of a relation: ``AS t(a, b)``."""
    alias = node.args.get("alias")
    names = [column.name for column in (alias.args.get("columns") or [])] if alias is not None else []
    for name in names:
        check_column_name(name, node)
    if len({name.lower() for name in names}) != len(names):
        raise Refusal("DuplicateColumn", "two columns have the same alias", position_of(node))
    return names
