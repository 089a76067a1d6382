"""Queries, WITH, set operations and statements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cleanroom.sql.checking.columns import check_distinct_columns, check_new_relation_name, column_names
from cleanroom.sql.checking.relations import renamed
from cleanroom.sql.checking.selects import check_limit, limit, order_by, select
from cleanroom.sql.checking.values import combine
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, CheckedQuery, ProtectedInput, Value
from cleanroom.sql.privacy import rows
from cleanroom.sql.privacy.exposure import check_condition, unlisted
from cleanroom.sql.privacy.polynomials import highest_degree
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import HIDDEN_COLUMN, quote, subquery
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.tokens import END, RESERVED, SET_OPERATORS
from cleanroom.sql.vocabulary import widest


def query(ctx: Context, parent: Scope | None, hidden: bool) -> CheckedQuery:
    """Read a query; see :meth:`Context.query <cleanroom.sql.context.Context.query>`."""
    text = ctx.text
    with text.located(text.at):
        ctx, prefix = _with_clause(ctx)
        end = next(text.places(len(text.kinds), ")", END))
        if any(text.places(end, *SET_OPERATORS)):
            out = _set_operation(ctx, parent, hidden)
            out.sql = prefix + out.sql
            return out
        return _part(ctx, parent, hidden, prefix, alone=True)


def _part(ctx: Context, parent: Scope | None, hidden: bool, prefix: str = "", *, alone: bool = False) -> CheckedQuery:
    """Read a SELECT, or a query in parentheses."""
    text = ctx.text
    if text.kinds[text.at] in ("SELECT", "FROM"):
        return select(ctx, parent, hidden, prefix, alone=alone)
    text.expect("(")
    out = query(ctx, parent, hidden)
    text.expect(")")
    out.sql = prefix + out.sql
    return out


def _with_clause(ctx: Context) -> tuple[Context, str]:
    """The context with the common table expressions of a query, and the rendered WITH clause or nothing."""
    text, parts = ctx.text, list[str]()
    if not text.accept("WITH"):
        return ctx, ""
    while not parts or text.accept(","):
        with text.located(text.at):
            name = text.name()
            check_new_relation_name(name, ctx)
            columns = [] if text.begins_query(text.at + 1) else column_names(text)
            text.accept("AS")
            text.expect("(")
            part = query(ctx, None, True)
            text.expect(")")
            part = renamed(part, columns) if columns else part
            check_distinct_columns(part, f"the table expression {name}")
        ctx = ctx._replace(relations={**ctx.relations, name.lower(): part})
        parts.append(f"{quote(name)} AS {subquery(part.sql)}")
    return ctx, f"WITH {', '.join(parts)}\n"


def _set_operation(ctx: Context, parent: Scope | None, hidden: bool) -> CheckedQuery:
    """Read set operations, and ORDER BY and LIMIT after them. INTERSECT binds tighter than the others."""
    text = ctx.text
    out = _chain(ctx, hidden, SET_OPERATORS, lambda: _chain(ctx, True, ("INTERSECT",), lambda: _part(ctx, parent, True)))
    outputs = [(field.name, Value(quote(field.name), field.type, exposed=field.exposed)) for field in out.fields]
    order = order_by(ctx.for_select(Scope(parent)).in_clause("sort"), outputs)
    limited = limit(text)
    check_limit(order, limited, out.protected, out.releases, ctx)
    out.sql += order + limited
    return out


def _chain(ctx: Context, hidden: bool, operators: Sequence[str], read: Callable[[], CheckedQuery]) -> CheckedQuery:
    """Read queries with ``operators`` between them, from left to right."""
    text, branches, operator = ctx.text, [read()], ""
    while (following := text.kinds[text.at]) in operators:
        text.at += 1
        text.accept("DISTINCT")
        following += " ALL" if text.accept("ALL") else ""
        if operator and following != operator:
            branches = [_merged(operator, branches, True, ctx)]
        operator = following
        branches.append(read())
    return _merged(operator, branches, hidden, ctx) if operator else branches[0]


def _merged(operator: str, branches: Sequence[CheckedQuery], hidden: bool, ctx: Context) -> CheckedQuery:
    """Several queries with one set operator between them."""
    width = len(branches[0].fields)
    if any(len(branch.fields) != width for branch in branches):
        raise Refusal("WrongArguments", f"the parts of a {operator} have different numbers of columns")
    protected_of = [branch.protected for branch in branches]
    rows.check_union(operator, protected_of)
    if operator != "UNION ALL":  # equal rows count once: how many there are tells the values
        check_condition([field for branch in branches for field in branch.fields], ctx.catalog, operator)
    protected = [item for items in protected_of for item in items]
    texts = []
    before = 0
    for branch in branches:
        texts.append(subquery(_with_identities(branch, before, len(protected)) if protected and hidden else branch.sql))
        before += len(branch.protected)
    mixed, several = rows.union_mixes_rows(protected_of), sum(map(bool, protected_of)) > 1
    named = [
        ProtectedInput(item.view, item.identity_column, f"{HIDDEN_COLUMN}{index}", partial=True) for index, item in enumerate(protected)
    ]
    return CheckedQuery(
        f"\n{operator}\n".join(texts),
        [_merged_field([branch.fields[index] for branch in branches], mixed, several, ctx) for index in range(width)],
        named,
        frozenset([release for branch in branches for release in branch.releases]),
        frozenset([view for branch in branches for view in branch.views]),
        overlapping=several or any(branch.overlapping for branch in branches),
        repeats=any(branch.repeats for branch in branches),
        chooses=any(branch.chooses for branch in branches),
    )


def _with_identities(branch: CheckedQuery, before: int, total: int) -> str:
    """A branch with the identity columns of all branches, in the same order; those of other branches are NULL."""
    check_distinct_columns(branch, "a part of a UNION")
    columns = [f"`part`.{quote(field.name)} AS {quote(field.name)}" for field in branch.fields]
    for index in range(total):
        own = before <= index < before + len(branch.protected)
        text = f"`part`.{quote(f'{HIDDEN_COLUMN}{index - before}')}" if own else "NULL"
        columns.append(f"{text} AS {quote(f'{HIDDEN_COLUMN}{index}')}")
    return "SELECT\n  " + ",\n  ".join(columns) + f"\nFROM {subquery(branch.sql)} AS `part`"


def _merged_field(fields: Sequence[Value], mixed: bool, several: bool, ctx: Context) -> Value:
    """The output column that ``fields`` of the branches form.

    Values of persons are ``mixed`` with values that the author may know, or are those of ``several`` views.
    """
    mixed = mixed or (len({field.exposed for field in fields}) > 1 and any(unlisted(field, ctx.catalog) for field in fields))
    kind = widest([field.type for field in fields])
    out = combine("", kind, ATOM, fields, degree=highest_degree(fields), identity=True)
    out.name, out.origins = fields[0].name, frozenset([origin for field in fields for origin in field.origins])
    out.plain = not mixed and all(field.plain for field in fields) and len({field.type for field in fields}) == 1
    out.mixed = 2 if several else out.mixed
    out.day = all(field.day for field in fields)
    out.flag, out.step = all(field.flag for field in fields), " ".join(sorted({field.step for field in fields} - {""}))
    out.whole = out.whole or (mixed and kind in ("integer", "long"))
    return out


class Statement(NamedTuple):
    """A checked statement."""

    sql: str  # rendered text
    view: str | None  # name of the temporary view that it creates; None for the SELECT
    query: CheckedQuery  # the SELECT, or the query behind the view


def statement(ctx: Context, *, last: bool) -> Statement:
    """Read one statement. The last one of a query is its SELECT; those before it create temporary views."""
    text = ctx.text
    if text.kinds[0] in (";", END):
        raise Refusal("EmptySegment", "the segment contains no statement")
    end = text.kinds.index(";") if ";" in text.kinds else len(text.kinds) - 1
    if any(kind not in (";", END) for kind in text.kinds[end:]):
        where = text.position(end)
        raise Refusal("MultipleStatements", "a segment contains exactly one statement; put each into its own segment", where)
    with text.located(0):
        return _create_view(ctx, last) if text.kinds[0] == "CREATE" else _select(ctx, last)


def _select(ctx: Context, last: bool) -> Statement:
    text = ctx.text
    if not text.begins_query(0) and text.kinds[0] != "(":
        if text.kinds[0] in RESERVED:
            raise text.unexpected()
        message = f"{text.values[0][:40]} is not allowed; only SELECT and CREATE OR REPLACE TEMP VIEW … AS SELECT"
        raise Refusal("StatementNotAllowed", message, text.position(0))
    if not last:
        raise Refusal("SelectNotLast", "only the last segment is a SELECT; the segments before it create temporary views")
    out = query(ctx, None, False)
    text.expect(";" if text.kinds[text.at] == ";" else END)
    return Statement(out.sql, None, out)


def _create_view(ctx: Context, last: bool) -> Statement:
    text = ctx.text
    text.at = 1
    text.accept("OR", "REPLACE")
    if not text.accept("TEMPORARY", "VIEW"):
        raise Refusal("StatementNotAllowed", "only CREATE OR REPLACE TEMP VIEW <name> AS SELECT … is allowed", text.position(0))
    with text.located(text.at):
        name = text.name()
        if text.kinds[text.at] == "(":
            raise Refusal("ClauseNotAllowed", "a list of columns here is not in the language of queries; alias them in the SELECT")
        if text.kinds[text.at] != "AS" or not (text.begins_query(text.at + 1) or text.kinds[text.at + 1] == "("):
            raise Refusal("StatementNotAllowed", "only CREATE OR REPLACE TEMP VIEW <name> AS SELECT … is allowed")
        if last:
            raise Refusal("LastSegmentNotSelect", "the last segment must be a SELECT: its rows are the result")
        check_new_relation_name(name, ctx)
        text.at += 1
        out = query(ctx, None, True)
        text.expect(";" if text.kinds[text.at] == ";" else END)
        check_distinct_columns(out, f"the view {name}")
    return Statement(f"CREATE OR REPLACE TEMPORARY VIEW {quote(name)} AS\n{out.sql}", name, out)
