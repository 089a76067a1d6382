"""Queries, WITH, set operations, subqueries in expressions, and statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from cleanroom.sql.checking.clauses import limit, order_by
from cleanroom.sql.checking.columns import check_distinct_columns, check_new_relation_name, column_aliases
from cleanroom.sql.checking.nodes import checks_expression, checks_query, combine, located_at, query_of, value_of
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, PREDICATE, ROWS, SUM, CheckedQuery, ProtectedInput, Value
from cleanroom.sql.privacy import rows
from cleanroom.sql.privacy.polynomials import highest_degree
from cleanroom.sql.privacy.release import check_correlation
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import HIDDEN_COLUMN, parenthesised, quote, subquery
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.language import describe
from cleanroom.sql.vocabulary import widest


def with_clause(node: exp.Expr, ctx: Context) -> tuple[Context, str]:
    """The context with the common table expressions of a query, and the rendered WITH clause or nothing."""
    clause = node.args.get("with_")
    if clause is None:
        return ctx, ""
    parts = []
    for table in clause.expressions:
        with located_at(table):
            name = table.alias
            check_new_relation_name(name, ctx)
            query = query_of(table.this, ctx, None, hidden=True)
            if columns := column_aliases(table):
                query = renamed(query, columns)
            check_distinct_columns(query, f"the table expression {name}")
        ctx = ctx._replace(relations={**ctx.relations, name.lower(): query})
        parts.append(f"{quote(name)} AS {subquery(query.sql)}")
    return ctx, f"WITH {', '.join(parts)}\n"


def renamed(query: CheckedQuery, names: list[str]) -> CheckedQuery:
    """``query`` with other column names."""
    if len(names) != len(query.fields):
        raise Refusal("ClauseNotAllowed", f"{len(names)} column names for {len(query.fields)} columns")
    check_distinct_columns(query, "the query")
    columns = [(field.name, name) for field, name in zip(query.fields, names, strict=True)]
    columns += [(item.reference, item.reference) for item in query.protected]
    items = ",\n  ".join(f"`renamed`.{quote(old)} AS {quote(new)}" for old, new in columns)
    fields = [field.copy() for field in query.fields]
    for field, name in zip(fields, names, strict=True):
        field.name = name
    new_names = {field.name.lower(): name.lower() for field, name in zip(query.fields, names, strict=True)}
    unique_on = None if query.unique_on is None else frozenset([new_names[name] for name in query.unique_on])
    sql = f"SELECT\n  {items}\nFROM {subquery(query.sql)} AS `renamed`"
    return CheckedQuery(sql, fields, query.protected, query.releases, query.views, query.may_copy_rows, unique_on, query.overlapping)


_OPERATORS: dict[type[exp.Expr], str] = {exp.Union: "UNION", exp.Intersect: "INTERSECT", exp.Except: "EXCEPT"}


@checks_query(*_OPERATORS)
def set_operation(node: exp.SetOperation, ctx: Context, parent: Scope | None, hidden: bool) -> CheckedQuery:
    """A chain of one set operator."""
    ctx, prefix = with_clause(node, ctx)
    operator = _OPERATORS[type(node)] + ("" if node.args.get("distinct") else " ALL")
    branches = [query_of(operand, ctx, parent, hidden=True) for operand in _operands(node)]
    width = len(branches[0].fields)
    if any(len(branch.fields) != width for branch in branches):
        raise Refusal("WrongArguments", f"the parts of a {operator} have different numbers of columns")
    protected_of = [branch.protected for branch in branches]
    rows.check_union(operator, protected_of)
    protected = [item for items in protected_of for item in items]
    texts = []
    before = 0
    for branch in branches:
        text = _with_identities(branch, before, len(protected)) if protected and hidden else branch.sql
        texts.append(subquery(text))
        before += len(branch.protected)
    mixed = rows.union_mixes_rows(protected_of)
    fields = [_merged_field([branch.fields[index] for branch in branches], mixed) for index in range(width)]
    outputs = [(field.name, Value(quote(field.name), field.type)) for field in fields]
    order = order_by(node, ctx.for_select(Scope(parent)).in_clause("sort"), outputs)
    sql = f"\n{operator}\n".join(texts) + order + limit(node)
    if order and node.args.get("limit") is not None and any(branch.releases for branch in branches):
        ctx.findings.warn("OrderWithLimit", "ORDER BY with LIMIT shows only the first or last groups")
    rows.check_limit(protected, node.args.get("limit") is not None)
    named = [ProtectedInput(item.view, item.identity_column, f"{HIDDEN_COLUMN}{index}") for index, item in enumerate(protected)]
    return CheckedQuery(
        prefix + sql,
        fields,
        named,
        frozenset([release for branch in branches for release in branch.releases]),
        frozenset([view for branch in branches for view in branch.views]),
        may_copy_rows=not protected,
        overlapping=len([branch for branch in protected_of if branch]) > 1 or any(branch.overlapping for branch in branches),
    )


def _operands(node: exp.Expr) -> list[exp.Expr]:
    """Operands of a chain of one set operator, without recursion."""
    kind, distinct = type(node), bool(node.args.get("distinct"))
    operands: list[exp.Expr] = []
    while True:
        operands.append(node.args["expression"])
        inner = node.this
        same = type(inner) is kind and bool(inner.args.get("distinct")) == distinct
        if not same or any(inner.args.get(part) for part in ("with_", "order", "limit")):
            return [inner, *reversed(operands)]
        node = inner


def _with_identities(branch: CheckedQuery, before: int, total: int) -> str:
    """A branch with the identity columns of all branches, in the same order; those of other branches are NULL."""
    check_distinct_columns(branch, "a part of a UNION")
    columns = [f"`part`.{quote(field.name)} AS {quote(field.name)}" for field in branch.fields]
    for index in range(total):
        own = before <= index < before + len(branch.protected)
        text = f"`part`.{quote(f'{HIDDEN_COLUMN}{index - before}')}" if own else "NULL"
        columns.append(f"{text} AS {quote(f'{HIDDEN_COLUMN}{index}')}")
    return "SELECT\n  " + ",\n  ".join(columns) + f"\nFROM {subquery(branch.sql)} AS `part`"


def _merged_field(fields: Sequence[Value], mixed: bool) -> Value:
    """The output column that ``fields`` of the branches form. Values of persons are ``mixed`` with values that the author may know."""
    out = fields[0].copy()
    out.type = widest([field.type for field in fields])
    out.origins = frozenset([origin for field in fields for origin in field.origins])
    out.exposed = frozenset([pair for field in fields for pair in field.exposed])
    out.degree, out.scale = highest_degree(fields), max(field.scale for field in fields)
    out.plain = not mixed and all(field.plain for field in fields) and len({field.type for field in fields}) == 1
    out.flag = all(field.flag for field in fields)
    for fact in ("identity", "transformed", "made_by_text", "mixed", "filled", "whole"):
        setattr(out, fact, any(getattr(field, fact) for field in fields))
    return out


@checks_expression(exp.Subquery)
def scalar_subquery(node: exp.Expr, ctx: Context) -> Value:
    """``(SELECT one_column ...)`` as a value."""
    query, reads = _inner_query(node, ctx)
    rows.check_no_rows(query.protected)
    if len(query.fields) != 1:
        raise Refusal("WrongArguments", "a subquery in an expression has exactly one column")
    field = query.fields[0]
    inner = Value("", field.type, origins=field.origins, exposed=field.exposed, degree=None)
    return combine(subquery(query.sql), field.type, ATOM, [inner, *reads], identity=True)


@checks_expression(exp.Exists)
def exists(node: exp.Expr, ctx: Context) -> Value:
    """``EXISTS (SELECT ...)``."""
    query, reads = _inner_query(node.this, ctx)
    rows.check_no_rows(query.protected)
    return _exists(query, reads)


def in_subquery(node: exp.Expr, ctx: Context, negated: bool) -> Value:
    """``x IN (SELECT ...)``."""
    what, query, reads = _membership(node, ctx)
    rows.check_no_rows(query.protected)
    return _in_query(what, query, reads, negated)


def semi_join(node: exp.Expr, ctx: Context) -> Value | None:
    """``x IN (SELECT identity ...)`` and ``EXISTS (... WHERE identity = x)`` as conditions that every row meets.

    The rows of the SELECT are then protected by the floor of the subquery's rows. None if ``node`` is neither.
    """
    scope = ctx.scope
    if isinstance(node, exp.In) and node.args.get("query") is not None:
        what, query, reads = _membership(node, ctx)
        scope.protected += rows.membership_inputs(query.protected, what, query.fields[0].type)
        scope.overlapping = scope.overlapping or bool(query.protected)
        if ctx.rules.withheld and what.plain:
            scope.equal.compared.append((what, Value("", what.type, exposed=query.fields[0].exposed)))
        return _in_query(what, query, reads, False)
    if isinstance(node, exp.Exists):
        query, reads = _inner_query(node.this, ctx)
        scope.protected += rows.existence_inputs(query.protected, scope.aliases_in_from)
        scope.overlapping = scope.overlapping or bool(query.protected)
        return _exists(query, reads)
    return None


def _inner_query(node: exp.Expr, ctx: Context) -> tuple[CheckedQuery, list[Value]]:
    """A subquery, and the columns of the queries around it that it reads."""
    if ctx.aggregate:
        raise Refusal("ClauseNotAllowed", "a subquery inside an aggregate is not allowed")
    enclosing = Scope(ctx.scope)
    query = query_of(node, ctx, enclosing, hidden=False)
    reads = enclosing.outer_reads
    check_correlation(query.releases, reads)
    ctx.scope.releases |= query.releases
    ctx.scope.views |= query.views
    return query, reads


def _exists(query: CheckedQuery, reads: list[Value]) -> Value:
    found = Value("", "boolean", origins=frozenset([(view, ROWS, "exists") for view in query.views]), degree=None)
    out = combine(f"EXISTS{subquery(query.sql)}", "boolean", PREDICATE, [found, *reads], identity=True)
    out.identity, out.degree = False, None
    return out


def _membership(node: exp.Expr, ctx: Context) -> tuple[Value, CheckedQuery, list[Value]]:
    """Left side and subquery of IN, and the columns of the queries around it that the subquery reads."""
    what, inner = value_of(node.this, ctx), node.args["query"]
    if isinstance(inner, exp.Subquery) and isinstance(inner.this, exp.Subquery):  # in Spark a list with one value
        raise Refusal("ParenthesesNeeded", "IN ((SELECT …)): write one pair of parentheses")
    query, reads = _inner_query(inner, ctx)
    if len(query.fields) != 1:
        raise Refusal("WrongArguments", f"IN (SELECT …) has {len(query.fields)} columns and 1 to compare")
    return what, query, reads


def _in_query(what: Value, query: CheckedQuery, reads: list[Value], negated: bool) -> Value:
    text = f"{parenthesised(what, SUM)} {'NOT ' if negated else ''}IN {subquery(query.sql)}"
    join = bool(query.fields[0].origins) and bool(what.origins)
    shown = Value(
        "",
        "unknown",
        degree=None,
        origins=frozenset([origin for field in query.fields for origin in field.origins]),
        exposed=frozenset([pair for field in query.fields for pair in field.exposed]),
    )
    out = combine(text, "boolean", PREDICATE, [what, shown, *reads], identity=join or not what.identity)
    out.identity, out.degree = False, None
    return out


@dataclass(frozen=True, slots=True)
class Statement:
    """A checked statement."""

    sql: str  # rendered text
    view: str | None  # name of the temporary view that it creates; None for the SELECT
    query: CheckedQuery  # the SELECT, or the query behind the view


def check_statement(node: exp.Expr, ctx: Context, *, last: bool) -> Statement:
    """Check one statement. The last one of a query is its SELECT; those before it create temporary views."""
    if isinstance(node, exp.Create):
        return _create_view(node, ctx, last)
    if not isinstance(node, exp.Query):
        raise Refusal("StatementNotAllowed", f"{describe(node)} is not allowed; only SELECT and CREATE OR REPLACE TEMP VIEW … AS SELECT")
    if not last:
        raise Refusal("SelectNotLast", "only the last segment is a SELECT; the segments before it create temporary views")
    query = query_of(node, ctx, None, hidden=False)
    return Statement(query.sql, None, query)


def _create_view(node: exp.Create, ctx: Context, last: bool) -> Statement:
    target, properties = node.this, node.args["properties"].expressions if node.args.get("properties") else []
    plain = isinstance(target, exp.Table) and isinstance(target.this, exp.Identifier) and isinstance(node.args.get("expression"), exp.Query)
    if str(node.args.get("kind")).upper() != "VIEW" or [type(part) for part in properties] != [exp.TemporaryProperty] or not plain:
        raise Refusal("StatementNotAllowed", "only CREATE OR REPLACE TEMP VIEW <name> AS SELECT … is allowed")
    if last:
        raise Refusal("LastSegmentNotSelect", "the last segment must be a SELECT: its rows are the result")
    name = target.name
    check_new_relation_name(name, ctx)
    query = query_of(node.args["expression"], ctx, None, hidden=True)
    check_distinct_columns(query, f"the view {name}")
    return Statement(f"CREATE OR REPLACE TEMPORARY VIEW {quote(name)} AS\n{query.sql}", name, query)
