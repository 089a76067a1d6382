"""UNION, INTERSECT and EXCEPT."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from cleanroom.sql.checking.dispatch import checks_query, query_of
from cleanroom.sql.checking.names import check_distinct_columns
from cleanroom.sql.checking.nodes import allow_only, located_at, position_of
from cleanroom.sql.checking.ordering import is_limited, limit, order_by
from cleanroom.sql.checking.queries import with_clause
from cleanroom.sql.context import Context
from cleanroom.sql.model import CheckedQuery, ProtectedInput, Value
from cleanroom.sql.privacy import rows
from cleanroom.sql.privacy.polynomials import highest_degree
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import HIDDEN_COLUMN, quote, subquery
from cleanroom.sql.scope import Scope
from cleanroom.sql.spark_types import widest

_OPERATORS: dict[type[exp.Expr], str] = {exp.Union: "UNION", exp.Intersect: "INTERSECT", exp.Except: "EXCEPT"}


@checks_query(*_OPERATORS)
def set_operation(node: exp.SetOperation, ctx: Context, parent: Scope | None, hidden: bool) -> CheckedQuery:
    """A chain of one set operator."""
    ctx, prefix = with_clause(node, ctx)
    operator = _OPERATORS[type(node)] + ("" if node.args.get("distinct") else " ALL")
    branches = [query_of(operand, ctx, parent, hidden=True) for operand in _operands(node)]
    width = len(branches[0].fields)
    if any(len(branch.fields) != width for branch in branches):
        raise Refusal("WrongArguments", f"the parts of a {operator} have different numbers of columns", position_of(node))
    protected_of = [branch.protected for branch in branches]
    with located_at(node):
        rows.check_union(operator, protected_of)
    protected = [item for items in protected_of for item in items]
    texts = []
    before = 0
    for branch in branches:
        text = _with_identities(branch, before, len(protected), node) if protected and hidden else branch.sql
        texts.append(subquery(text))
        before += len(branch.protected)
    mixed = rows.union_mixes_rows(protected_of)
    fields = [_merged_field([branch.fields[index] for branch in branches], mixed) for index in range(width)]
    outputs = [(field.name, Value(quote(field.name), field.type)) for field in fields]
    order = order_by(node, ctx.for_select(Scope(parent)).in_clause("sort"), outputs)
    sql = f"\n{operator}\n".join(texts) + order + limit(node)
    with located_at(node):
        rows.check_limit(protected, is_limited(node))
    named = [ProtectedInput(item.view, item.identity_column, f"{HIDDEN_COLUMN}{index}") for index, item in enumerate(protected)]
    return CheckedQuery(
        prefix + sql,
        fields,
        named,
        frozenset([release for branch in branches for release in branch.releases]),
        frozenset([view for branch in branches for view in branch.views]),
        may_copy_rows=not protected,
    )


def _operands(node: exp.Expr) -> list[exp.Expr]:
    """Operands of a chain of one set operator, without recursion."""
    kind, distinct = type(node), bool(node.args.get("distinct"))
    operands: list[exp.Expr] = []
    current = node
    while True:
        allow_only(current, "with_", "this", "expression", "distinct", "order", "limit", "offset")
        operands.append(current.args["expression"])
        inner = current.this
        same = type(inner) is kind and bool(inner.args.get("distinct")) == distinct
        if not same or any(inner.args.get(part) for part in ("with_", "order", "limit", "offset")):
            return [inner, *reversed(operands)]
        current = inner


def _with_identities(branch: CheckedQuery, before: int, total: int, node: exp.Expr) -> str:
    """A branch with the identity columns of all branches, in the same order; those of other branches are NULL."""
    check_distinct_columns(branch, "a part of a UNION", node)
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
    for fact in ("identity", "transformed", "made_by_text", "mixed", "filled"):
        setattr(out, fact, any(getattr(field, fact) for field in fields))
    return out
