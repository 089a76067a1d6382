"""SELECT: its clauses in the order in which they apply, and the text that runs."""

from __future__ import annotations

from typing import NamedTuple

from sqlglot import exp

from cleanroom.sql.checking.clauses import Output, group_rows, limit, order_by
from cleanroom.sql.checking.columns import check_grouped, output_values, select_items
from cleanroom.sql.checking.floors import ReleasedGroups, released_groups
from cleanroom.sql.checking.nodes import chain_operands, checks_query, located_at, value_of
from cleanroom.sql.checking.queries import with_clause
from cleanroom.sql.checking.relations import conjuncts, from_clause, written_out
from cleanroom.sql.context import Context
from cleanroom.sql.model import CheckedQuery, ProtectedInput
from cleanroom.sql.privacy import exposure, rows
from cleanroom.sql.privacy.joins import Attached, attach
from cleanroom.sql.privacy.release import SelectRelease, output_field, select_release
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import HIDDEN_COLUMN, conjunction, quote
from cleanroom.sql.scope import Scope


class _Clauses(NamedTuple):
    """The checked clauses of a SELECT, rendered except for its output columns and its GROUP BY."""

    source: tuple[str, str]
    outputs: list[Output]
    distinct: bool
    having: list[str]
    qualify: str
    order: str


@checks_query(exp.Select)
def select(node: exp.Select, ctx: Context, parent: Scope | None, hidden: bool) -> CheckedQuery:
    """One SELECT."""
    ctx, prefix = with_clause(node, ctx)
    scope = Scope(parent)
    ctx = ctx.for_select(scope)
    clauses = _check_clauses(node, ctx)
    values = [value for _, value in clauses.outputs]
    groups: ReleasedGroups | None = None
    release = select_release(scope, values, distinct=clauses.distinct, qualified=bool(clauses.qualify), catalog=ctx.rules.catalog)
    if release.aggregates_rows:
        keys = scope.keys if release.distinct_keys is None else [value for value in values if value.origins or value.sources]
        groups = released_groups(ctx, keys, clauses.source)
    protected = [] if release.aggregates_rows else rows.remaining_inputs(scope, values)
    rows.check_limit(protected, node.args.get("limit") is not None)
    if scope.releases and node.args.get("order") is not None and node.args.get("limit") is not None:
        ctx.findings.warn("OrderWithLimit", "ORDER BY with LIMIT shows only the first or last groups")
    rows.check_exploded(scope, groups is not None and groups.merged)
    if groups is not None:
        sql = _render_groups(clauses, release, groups, scope)
        prefix = groups.with_clause(prefix)
    else:
        sql = _render(clauses, protected if hidden else [], scope)
    sql = prefix + sql + limit(node)
    fields = [output_field(name, value, protected=bool(scope.protected)) for name, value in clauses.outputs]
    carried = [item._replace(reference=f"{HIDDEN_COLUMN}{index}") for index, item in enumerate(protected)]
    return CheckedQuery(
        sql,
        fields,
        carried,
        scope.releases,
        scope.views,
        scope.may_copy_rows and not release.aggregates_rows,
        _unique_on(clauses, scope),
        (scope.overlapping or scope.multiplied)
        and bool(protected)
        and not (scope.per_person and len(scope.plain_group_keys) == len(scope.keys) == 1),
    )


def _unique_on(clauses: _Clauses, scope: Scope) -> frozenset[str] | None:
    """Output columns whose values occur together once: the group keys, or all columns of DISTINCT."""
    if clauses.distinct:
        return frozenset([name.lower() for name, _ in clauses.outputs])
    if scope.group_keys is None or scope.may_copy_rows:
        return None
    names = {value.sql: name.lower() for name, value in clauses.outputs}
    return frozenset([names[key] for key in scope.group_keys]) if scope.group_keys <= names.keys() else None


def _check_clauses(node: exp.Select, ctx: Context) -> _Clauses:
    """Check the clauses in the order in which they apply to the rows."""
    source = _rows(node, ctx)
    items = select_items(node, ctx)
    group_rows(node, ctx.in_clause("group"), [item for item, _ in items])
    outputs = output_values(items, ctx.in_clause("output", aggregates=True))
    having = _having(node, ctx)
    qualify = _qualify(node, ctx)
    order = order_by(node, ctx.in_clause("sort", aggregates=True), outputs)
    check_grouped(items, outputs, ctx)
    return _Clauses(source, outputs, bool(node.args.get("distinct")), having, qualify, order)


def _render(clauses: _Clauses, carried: list[ProtectedInput], scope: Scope) -> str:
    """The text of a SELECT without LIMIT. Hidden columns carry the identities of the inputs ``carried``."""
    columns = [f"{value.sql} AS {quote(name)}" for name, value in clauses.outputs]
    columns += [f"{item.reference} AS {quote(f'{HIDDEN_COLUMN}{index}')}" for index, item in enumerate(carried)]
    return _text(clauses.distinct, columns, "".join(clauses.source) + scope.group_text, "HAVING", clauses.having, clauses)


def _render_groups(clauses: _Clauses, release: SelectRelease, groups: ReleasedGroups, scope: Scope) -> str:
    """The text of a SELECT that releases aggregates, without LIMIT."""
    distinct = clauses.distinct and release.distinct_keys is None
    texts = [*(value.sql for _, value in clauses.outputs), clauses.qualify, clauses.order, *clauses.having]
    replaced = groups.replaced(texts)
    names = [quote(name) for name, _ in clauses.outputs]
    if replaced is None:
        rows.check_exploded(scope, False)
    else:
        columns = [f"{text} AS {name}" for text, name in zip(replaced, names, strict=False)]
        qualify, order, *having = replaced[len(names) :]
        return _text(distinct, columns, groups.source(), "WHERE", having, clauses._replace(qualify=qualify, order=order))
    columns = [f"{text} AS {name}" for text, name in zip(texts, names, strict=False)]
    group = scope.group_text
    if release.distinct_keys:
        group = "\nGROUP BY " + ", ".join(release.distinct_keys)
    having = [*clauses.having, *(f"{count} >= {groups.floor}" for count in groups.distinct)]
    if not group:
        having.append("MAX(1) = 1")  # otherwise there is a row even if the rows are left out
    source, where = clauses.source
    return _text(distinct, columns, source + groups.guards() + where + group, "HAVING", having, clauses)


def _text(distinct: bool, columns: list[str], source: str, word: str, conditions: list[str], clauses: _Clauses) -> str:
    select = "SELECT DISTINCT" if distinct else "SELECT"
    condition = f"\n{word} {' AND '.join(conditions)}" if conditions else ""
    return f"{select}\n  " + ",\n  ".join(columns) + source + condition + clauses.qualify + clauses.order


def _rows(node: exp.Select, ctx: Context) -> tuple[str, str]:
    """FROM and WHERE, rendered. Afterwards the scope knows which rows are protected and that the query has not copied any."""
    scope = ctx.scope
    text = from_clause(node, ctx.in_clause("join"))
    where, condition = node.args.get("where"), ""
    if where is not None:
        condition = "\nWHERE " + conjunction(conjuncts(where.this, ctx.in_clause("filter"), in_every_row=True))
    aliases = scope.aliases_in_from
    rows.check_protected_inputs(scope.protected)
    if scope.equal.compared:
        for value, exposed in exposure.exposed_by_comparison(scope.equal.compared, aliases, ctx.rules.withheld):
            value.exposed = exposed
    scope.may_copy_rows = scope.may_copy_rows or not rows.connected(aliases, scope.equal.links)
    rows.check_fan_out(scope.protected, scope.may_copy_rows)
    joined = [item for item in scope.relations.values() if item.alias not in scope.exploded]
    attached = attach(joined, scope.protected, scope.equal.keys)
    scope.multiplied = attached.overlapping
    _warn_of_joins(attached, ctx)
    return written_out(text, scope, attached.enforce), condition


def _having(node: exp.Select, ctx: Context) -> list[str]:
    clause = node.args.get("having")
    if clause is None:
        return []
    inside = ctx.in_clause("filter", aggregates=True)
    conditions = []
    for part in chain_operands(clause.this, exp.And):
        with located_at(part):
            value = value_of(part, inside)
            if value.ungrouped:
                raise Refusal("NotGrouped", "HAVING may read group keys and aggregates only")
            exposure.check_condition([value], ctx.rules.catalog)
        conditions.append(conjunction([value]))
    return conditions


def _qualify(node: exp.Select, ctx: Context) -> str:
    clause = node.args.get("qualify")
    if clause is None:
        return ""
    with located_at(clause):
        value = value_of(clause.this, ctx.inside_qualify())
        exposure.check_condition([value], ctx.rules.catalog)
        if not value.windowed:
            raise Refusal("ClauseNotAllowed", "QUALIFY needs a window function; use WHERE or HAVING")
        if ctx.scope.group_keys is not None and value.ungrouped:
            raise Refusal("NotGrouped", "QUALIFY may read group keys, aggregates and windows over them only")
    return "\nQUALIFY " + conjunction([value])


def _warn_of_joins(attached: Attached, ctx: Context) -> None:
    """Record joins of protected rows that are not on an identity, or leave out rows."""
    scope = ctx.scope
    names = {relation.alias: relation.written_alias for relation in scope.relations.values()}
    for alias in dict.fromkeys([*attached.by_other_columns, *attached.enforce]):
        other, key = alias in attached.by_other_columns, ", ".join(attached.enforce.get(alias, ())).replace("`", "")
        how = "other columns than the identity" if other else "the identity"
        left_out = f"; its rows whose {key} is not unique are left out" if key else ""
        ctx.findings.warn("JoinNotOnIdentity" if other else "JoinLeavesOutRows", f"{names[alias]} is joined by {how}{left_out}")
