"""Names of columns and aliases, and the SELECT list."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.catalog import COLUMN_NAME, RELATION_NAME
from cleanroom.sql.checking.clauses import Output
from cleanroom.sql.checking.nodes import checks_expression, located_at, value_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, CheckedQuery, Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import quote
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.language import position_of, suggestion
from cleanroom.sql.text.tokens import strip_invisible


@checks_expression(exp.Column)
def column(node: exp.Column, ctx: Context) -> Value:
    """A column of the innermost SELECT that has it; otherwise an alias of the same SELECT."""
    identifier, table = node.this, node.args.get("table")
    if not isinstance(identifier, exp.Identifier):
        raise Refusal("ExpressionNotAllowed", "* is allowed only as an item of a SELECT and in COUNT(*)")
    scope = ctx.scope
    name = str(identifier.args["this"])
    if (
        table is not None
        and (relation := scope.relations.get(table.args["this"].lower()))
        and (known := relation.columns.get(name.lower()))
    ):
        return read_column(known, ctx, scope)
    table_name = table.name if table is not None else None
    for level in scope.enclosing():
        found = _find(name, table_name, level)
        if found is not None:
            return read_column(found, ctx, level)
        if level is scope and table is None and _names_alias(name, ctx):
            return _aliased_value(name, ctx)
    raise _unknown_column(name, table_name, scope)


def read_column(found: Value, ctx: Context, level: Scope) -> Value:
    """The column ``found`` of ``level``, which is the scope of this SELECT or of an enclosing one, as an operand."""
    ctx.record(found)
    if level is not ctx.scope:
        for inner in ctx.scope.enclosing():
            if inner is level:
                break
            inner.outer_reads.append(found)
    if level.group_keys is None or found.sql not in level.group_keys:
        return found
    out = found.copy()
    out.joinable, out.ungrouped = found.plain, False
    return out


def columns_named_in(node: exp.Expr, scope: Scope) -> tuple[Value, ...]:
    """Columns of the relations of ``scope`` that the expression ``node`` names."""
    names = [(part.name, part.table or None) for part in node.find_all(exp.Column) if isinstance(part.this, exp.Identifier)]
    return tuple(value for name, table in names if (value := _find(name, table, scope)) is not None)


def _names_alias(name: str, ctx: Context) -> bool:
    key = name.lower()
    return key in ctx.scope.aliases and key not in ctx.expanding


def _aliased_value(name: str, ctx: Context) -> Value:
    value = value_of(ctx.scope.aliases[name.lower()], ctx.expanding_alias(name))
    ctx.findings.expand(len(value.sql))
    if ctx.in_qualify:  # Spark evaluates the SELECT list first
        value.sql, value.precedence = quote(name), ATOM
    return value


def _find(name: str, table: str | None, scope: Scope) -> Value | None:
    key = name.lower()
    if table is not None:
        relation = scope.relations.get(table.lower()) or next(
            (item for item in scope.relations.values() if item.written_alias.lower() == table.lower()), None
        )
        return relation.columns.get(key) if relation is not None else None
    found = scope.named.get(key, [])
    if len(found) > 1:
        raise Refusal("AmbiguousColumn", f"{strip_invisible(name)[:80]} is in several relations; write alias.{name[:80]}")
    return found[0] if found else None


def _unknown_column(name: str, table: str | None, scope: Scope) -> Refusal:
    shown = strip_invisible(name)[:120]
    relations = [relation for level in scope.enclosing() for relation in level.relations.values()]
    for relation in relations:
        if (table is None or relation.written_alias.lower() == table.lower()) and name.lower() in relation.forbidden:
            hint = suggestion(name.lower(), relation.columns)
            allowed = ", ".join(value.name for value in relation.columns.values())
            text = f"the owner of {relation.view} does not allow the column {shown!r}; {hint}{hint and ' '}allowed: {allowed}"
            return Refusal("ColumnNotAllowed", text)
    if table is not None and not any(table.lower() in level.relations for level in scope.enclosing()):
        return Refusal("UnknownRelation", f"unknown relation {strip_invisible(table)[:120]!r}")
    names = sorted({value.name for relation in relations for value in relation.columns.values()})
    hint = suggestion(name, names, otherwise=f"known here: {', '.join(names[:20])}")
    return Refusal("UnknownColumn", f"unknown column {shown!r}: {hint}")


Item = tuple[exp.Expr | Value, str]
"""An expression, or a column that ``*`` stands for, and the name of the output column."""


def select_items(node: exp.Select, ctx: Context) -> list[Item]:
    """The SELECT list with ``*`` replaced by the columns that the query may read."""
    items: list[Item] = []
    taken: dict[str, int] = {}
    for item in node.expressions:
        if isinstance(item, exp.Star) or (isinstance(item, exp.Column) and isinstance(item.this, exp.Star)):
            items += [(value, _unused(value.name, taken)) for value in _star_columns(item, ctx)]
            continue
        named = isinstance(item, exp.Alias | exp.Column)
        name = item.alias_or_name if named else f"_c{len(items)}"
        with located_at(item):
            check_column_name(name)
        items.append((item.this if isinstance(item, exp.Alias) else item, name))
        taken.setdefault(name.lower(), 1)
    if not items:
        raise Refusal("Unparsable", "a SELECT needs at least one column")
    return items


def _star_columns(item: exp.Expr, ctx: Context) -> list[Value]:
    """Columns of ``*`` or ``t.*``."""
    scope = ctx.scope
    columns = scope.visible
    if isinstance(item, exp.Column):
        named = [part for part in scope.relations.values() if part.written_alias.lower() == item.table.lower()]
        columns = [value for part in named for value in part.columns.values()]
    with located_at(item):
        if not columns:
            raise Refusal("UnknownRelation", f"{item.sql()}: unknown relation, or no FROM")
        ctx.findings.expand(sum(len(value.sql) + len(value.name) for value in columns))
    for value in columns:
        ctx.record(value)
    return columns


def _unused(name: str, taken: dict[str, int]) -> str:
    """``name``, or a variation: ``*`` over a join may bring two columns of the same name."""
    unique, number = name, taken.get(name.lower(), 1)
    while unique.lower() in taken:
        number += 1
        unique = f"{name}_{number}"
    taken[name.lower()] = number
    taken.setdefault(unique.lower(), 1)
    return unique


def output_values(items: Sequence[Item], ctx: Context) -> list[Output]:
    """Check the expressions of the SELECT list. Each may refer to the aliases before it. Refusals are collected."""
    scope, findings = ctx.scope, ctx.findings
    aliases, scope.aliases = scope.aliases, {}
    outputs = []
    for item, name in items:
        try:
            value = read_column(item, ctx, scope) if isinstance(item, Value) else value_of(item, ctx)
        except Refusal as refusal:
            findings.note(refusal)
            value = Value("NULL", "unknown")
        outputs.append((name, value))
        if name.lower() in aliases:
            scope.aliases[name.lower()] = aliases[name.lower()]
    return outputs


def check_grouped(items: Sequence[Item], outputs: Sequence[Output], ctx: Context) -> None:
    """Refuse output columns that a SELECT with groups cannot show."""
    for (item, name), (_, value) in zip(items, outputs, strict=True):
        if ctx.scope.group_keys is not None and value.ungrouped:
            position = None if isinstance(item, Value) else position_of(item)
            ctx.findings.note(Refusal("NotGrouped", f"{name}: neither in GROUP BY nor inside an aggregate", position))


def check_relation_name(name: str) -> None:
    """Refuse a name of a relation that is not a plain identifier."""
    if not RELATION_NAME.fullmatch(name):
        raise Refusal("NameNotAllowed", f"{strip_invisible(name)[:120]!r} is not a plain name (letters, digits, _)")


def check_column_name(name: str) -> None:
    """Refuse a name of a column that is not printable ASCII without backticks."""
    if not ((name.isidentifier() and name.isascii() and len(name) <= 128) or COLUMN_NAME.fullmatch(name)):
        raise Refusal("NameNotAllowed", f"{strip_invisible(name)[:120]!r} is not an allowed column name (printable ASCII)")


def check_new_relation_name(name: str, ctx: Context) -> None:
    """Refuse a name that an input view or an earlier relation of the query already has, so that it cannot be misread."""
    check_relation_name(name)
    if ctx.rules.catalog.view(name) is not None or name.lower() in ctx.relations:
        raise Refusal("NameShadowsView", f"{name} is already the name of another relation; choose another")


def check_distinct_columns(query: CheckedQuery, what: str) -> None:
    """Refuse a query with two output columns of the same name."""
    seen: set[str] = set()
    for field in query.fields:
        if field.name.lower() in seen:
            raise Refusal("DuplicateColumn", f"{what} has two columns called {field.name}; alias one of them")
        seen.add(field.name.lower())


def alias_of(node: exp.Expr, scope: Scope, fallback: str) -> str:
    """The alias of a relation as written, or ``fallback`` if it has none. Two relations of one FROM clause have different aliases."""
    alias = node.args.get("alias")
    name: str = alias.name if alias is not None and alias.this is not None else fallback
    check_relation_name(name)
    if name.lower() in scope.relations:
        if alias is not None or fallback != "subquery":
            raise Refusal("DuplicateAlias", f"two relations in one FROM are called {name}; give each its own alias")
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
        check_column_name(name)
    if len({name.lower() for name in names}) != len(names):
        raise Refusal("DuplicateColumn", "two columns have the same alias")
    return names
