"""Names of columns and aliases, and the SELECT list."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from cleanroom.documents.dataset_rules import COLUMN_NAME
from cleanroom.sql.catalog import RELATION_NAME
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, CheckedQuery, Value
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import quote
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.remedies import not_listed, outside_language, suggestion
from cleanroom.sql.text.tokens import Tokens
from cleanroom.sql.vocabulary import EXTRACT_FIELDS

Output = tuple[str, Value]
"""Name and expression of an output column."""


def column(ctx: Context) -> Value:
    """Read a column of the innermost SELECT that has it; otherwise an alias of the same SELECT."""
    text, scope = ctx.text, ctx.scope
    name, table = text.name(), ""
    if text.accept("."):
        if text.kinds[text.at] == "*":
            raise Refusal("ExpressionNotAllowed", "* is allowed only as an item of a SELECT and in COUNT(*)")
        name, table = text.name(), name
        if text.kinds[text.at] == ".":
            raise outside_language("ClauseNotAllowed: a name of three parts; write relation.column", text.position())
        if text.kinds[text.at] == "(":
            raise not_listed(name)
    for level in scope.enclosing():
        found = _find(name, table, level)
        if found is not None:
            return read_column(found, ctx, level)
        if level is scope and not table and (place := scope.aliases.get(name.lower())) is not None and name.lower() not in ctx.expanding:
            return _aliased_value(name, place, ctx)
    raise text.construct(text.at - 1, text.at) or _unknown_column(name, table, scope)


def read_column(found: Value, ctx: Context, level: Scope) -> Value:
    """The column ``found`` of ``level``, which is the scope of this SELECT or of an enclosing one, as an operand."""
    ctx.record(found)
    if level is not ctx.scope:
        for inner in ctx.scope.enclosing():
            if inner is level:
                break
            inner.outer_reads.append(found)
    grouped = found.sql if level.group_keys is None else level.group_keys.get(found.sql)
    if level.group_keys is None or grouped is None or (ctx.aggregate and level is ctx.scope):
        return found
    out = found.copy()
    out.sql, out.ungrouped = grouped, False
    return out


def _aliased_value(name: str, place: int, ctx: Context) -> Value:
    """The expression at ``place``, for which the alias ``name`` stands."""
    text = ctx.text
    here, text.at = text.at, place
    value = ctx._replace(in_qualify=False, expanding=ctx.expanding | {name.lower()}).expression()
    text.at = here
    ctx.findings.expand(len(value.sql))
    if ctx.in_qualify:  # Spark evaluates the SELECT list first
        value = value.copy()
        value.sql, value.precedence = quote(name), ATOM
    return value


def _find(name: str, table: str, scope: Scope) -> Value | None:
    key = name.lower()
    if table:
        relation = scope.relations.get(table.lower())
        return relation.columns.get(key) if relation is not None else None
    found = scope.named.get(key, [])
    if len(found) > 1:
        raise Refusal("AmbiguousColumn", f"{name[:80]} is in several relations; write alias.{name[:80]}")
    return found[0] if found else None


def _unknown_column(name: str, table: str, scope: Scope) -> Refusal:
    shown = name[:120]
    relations = [relation for level in scope.enclosing() for relation in level.relations.values()]
    of_table = [relation for relation in relations if not table or relation.written_alias.lower() == table.lower()]
    for relation in of_table:
        if name.lower() in relation.forbidden:
            hint = suggestion(name.lower(), relation.columns)
            allowed = ", ".join(value.name for value in relation.columns.values())
            text = f"the owner of {relation.view} does not allow the column {shown!r}; {hint}{hint and ' '}allowed: {allowed}"
            return Refusal("ColumnNotAllowed", text)
    if not of_table and table:
        return Refusal("UnknownRelation", f"unknown relation {table[:120]!r}")
    names = sorted({value.name for relation in relations for value in relation.columns.values()})
    hint = suggestion(name, names, otherwise=f"known here: {', '.join(names[:20])}")
    if name.upper() in EXTRACT_FIELDS:
        hint = f"a unit is a text before the date, as in DATE_TRUNC('{name.upper()}', x)"
    return Refusal("UnknownColumn", f"unknown column {shown!r}: {hint}")


class Item(NamedTuple):
    """An item of a SELECT list, or a column that ``*`` stands for."""

    place: int  # index of its first token
    end: int  # index of the token after it
    column: Value | None = None  # the column that ``*`` stands for


def select_items(places: Sequence[int], ctx: Context) -> list[Item]:
    """The SELECT list with ``*`` replaced by the columns that the query may read.

    Each item begins at one of ``places``, and ends before the comma before the next one.
    """
    kinds, items = ctx.text.kinds, list[Item]()
    for place, end in itertools.pairwise(places):
        end -= 1
        if kinds[place] == "*" or kinds[place + 1 : place + 3] == [".", "*"]:
            with ctx.text.located(place):
                items += [Item(place, end, value) for value in _star_columns(place, end, ctx)]
        else:
            items.append(Item(place, end))
    return items


def _star_columns(place: int, end: int, ctx: Context) -> list[Value]:
    """Columns of ``*`` or ``t.*``."""
    text, scope = ctx.text, ctx.scope
    columns, size = scope.visible, 1
    if text.kinds[place] != "*":
        relation, size = scope.relations.get(text.values[place].lower()), 3
        columns = list(relation.columns.values()) if relation is not None else []
    if text.kinds[place + size] == "EXCEPT":
        raise outside_language("ClauseNotAllowed: * EXCEPT; name the columns", text.position(place + size))
    if end - place != size:
        raise text.unexpected(place + size)
    if not columns:
        raise Refusal("UnknownRelation", f"{''.join(text.values[place:end])}: unknown relation, or no FROM")
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
    scope, outputs, taken = ctx.scope, list[Output](), dict[str, int]()
    scope.aliases = {}
    for item in items:
        if item.column is not None:
            outputs.append((_unused(item.column.name, taken), read_column(item.column, ctx, scope)))
            continue
        try:
            with ctx.text.located(item.place):
                name, value = _output(item, ctx)
        except Refusal as refusal:
            ctx.findings.note(refusal)
            # Its last word may be its alias: later references to it add no reason.
            name, value = ctx.text.values[item.end - 1], Value("NULL", "unknown")
            scope.aliases[name.lower()] = item.place
        outputs.append((name or f"_c{len(outputs)}", value))
        taken.setdefault(outputs[-1][0].lower(), 1)
    return outputs


def _output(item: Item, ctx: Context) -> Output:
    """Read an item of the SELECT list. Its name is its alias, or that of a column; otherwise it is empty."""
    text, place = ctx.text, item.place
    text.at = place
    value = ctx.expression()
    length = text.at - place
    name = text.alias()
    if text.at != item.end:
        raise text.unexpected()
    if name:
        check_column_name(name)
        ctx.scope.aliases[name.lower()] = place
    else:
        end = item.end
        while text.kinds[place] == "(" and text.closing[place] == end - 1:  # Spark names (a) as a
            place, end, length = place + 1, end - 1, length - 2
        if (length == 1 or text.kinds[place + 1 : end - 1] == ["."]) and text.is_name(end - 1) and value.sources:
            name = text.values[end - 1]
    return name, value


def check_grouped(items: Sequence[Item], outputs: Sequence[Output], ctx: Context) -> None:
    """Refuse output columns that a SELECT with groups cannot show."""
    for item, (name, value) in zip(items, outputs, strict=True):
        if ctx.scope.group_keys is not None and value.ungrouped:
            text = f"{name}: neither in GROUP BY nor inside an aggregate"
            ctx.findings.note(Refusal("NotGrouped", text, ctx.text.position(item.place)))


def check_relation_name(name: str) -> None:
    """Refuse a name of a relation that is not a plain identifier."""
    if not RELATION_NAME.fullmatch(name):
        raise Refusal("NameNotAllowed", f"{name[:120]!r} is not a plain name (letters, digits, _)")


def check_column_name(name: str) -> None:
    """Refuse a name of a column that is not printable ASCII without backticks."""
    if not ((name.isidentifier() and name.isascii() and len(name) <= 128) or COLUMN_NAME.fullmatch(name)):
        raise Refusal("NameNotAllowed", f"{name[:120]!r} is not an allowed column name (printable ASCII)")


def check_new_relation_name(name: str, ctx: Context) -> None:
    """Refuse a name that an input view or an earlier relation of the query already has, so that it cannot be misread."""
    check_relation_name(name)
    if ctx.catalog.view(name) is not None or name.lower() in ctx.relations:
        raise Refusal("NameShadowsView", f"{name} is already the name of another relation; choose another")


def check_distinct_columns(query: CheckedQuery, what: str) -> None:
    """Refuse a query with two output columns of the same name."""
    seen: set[str] = set()
    for field in query.fields:
        if field.name.lower() in seen:
            raise Refusal("DuplicateColumn", f"{what} has two columns called {field.name}; alias one of them")
        seen.add(field.name.lower())


def alias_of(scope: Scope, written: str, fallback: str) -> str:
    """The alias of a relation as written, or ``fallback`` if it has none. Two relations of one FROM clause have different aliases."""
    name = written or fallback
    check_relation_name(name)
    if name.lower() in scope.relations:
        if written or fallback != "subquery":
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


def column_names(text: Tokens) -> list[str]:
    """Read names of columns in parentheses, as in ``AS t(a, b)``. Without parentheses the list is empty."""
    if not text.accept("("):
        return []
    names = text.listed(text.name)
    text.expect(")")
    for name in names:
        check_column_name(name)
    if len({name.lower() for name in names}) != len(names):
        raise Refusal("DuplicateColumn", "two columns have the same alias")
    return names
