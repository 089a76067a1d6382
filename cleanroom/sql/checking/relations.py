"""Relations of a FROM clause, joins, LATERAL VIEW, and the conditions that make columns equal.

A relation is a view of the catalogue, an earlier temporary view or common table expression of the same query, or a subquery. A name with
several parts is never a relation: in Spark it could read a file (``csv.`/path```) or another catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlglot import exp

from cleanroom.sql.catalog import View
from cleanroom.sql.checking.columns import alias_of, column_aliases, columns_named_in, unique_alias
from cleanroom.sql.checking.expressions import compared
from cleanroom.sql.checking.nodes import chain_operands, checks_relation, combine, located_at, marked_name, query_of, relation_of, value_of
from cleanroom.sql.checking.queries import renamed, semi_join
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, NO_COLUMNS, NO_ORIGINS, PREDICATE, CheckedQuery, KeyPair, ProtectedInput, Relation, Value
from cleanroom.sql.privacy import rows
from cleanroom.sql.privacy.exposure import check_condition
from cleanroom.sql.privacy.joins import comparable
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import conjunction, qualified, quote, subquery
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.language import suggestion
from cleanroom.sql.text.tokens import strip_invisible
from cleanroom.sql.vocabulary import FUNCTIONS

_EXPANSION_PER_COLUMN = 8
"""Characters that each column of a relation counts for; see :data:`cleanroom.sql.context.MAX_EXPANSION`."""
_JOINS = {
    ("", ""): "JOIN", ("", "INNER"): "JOIN", ("", "CROSS"): "CROSS JOIN", ("LEFT", ""): "LEFT JOIN", ("LEFT", "OUTER"): "LEFT JOIN",
    ("RIGHT", ""): "RIGHT JOIN", ("RIGHT", "OUTER"): "RIGHT JOIN", ("FULL", ""): "FULL JOIN", ("FULL", "OUTER"): "FULL JOIN",
    ("LEFT", "SEMI"): "LEFT SEMI JOIN", ("", "SEMI"): "LEFT SEMI JOIN", ("LEFT", "ANTI"): "LEFT ANTI JOIN", ("", "ANTI"): "LEFT ANTI JOIN",
}  # fmt: skip
"""Keywords of the rendered join, by side and kind as parsed."""


@checks_relation(exp.Table)
def table(node: exp.Table, ctx: Context) -> tuple[Relation, str]:
    """A view of the catalogue, a temporary view or a common table expression, by name."""
    if not isinstance(node.this, exp.Identifier):
        text = "a table function (range, read_files, explode …) is not allowed as a relation"
        raise Refusal("TableFunctionNotAllowed", text)
    if column_aliases(node):
        raise Refusal("ClauseNotAllowed", "column aliases after the name of a relation are not allowed")
    name, scope = node.name, ctx.scope
    query, view = ctx.relations.get(name.lower()), ctx.rules.catalog.view(name)
    if query is not None:
        relation = _add_query(alias_of(node, scope, name), query, ctx)
    elif view is not None:
        relation, name = _add_view(view, alias_of(node, scope, view.name), ctx), view.name
    else:
        raise _unknown_relation(name, node, ctx)
    return relation, f"{quote(name)} AS {quote(relation.alias)}"


def _unknown_relation(name: str, node: exp.Expr, ctx: Context) -> Refusal:
    known = sorted([view.name for view in ctx.rules.catalog.views] + list(ctx.relations))
    hint = suggestion(name, known, otherwise=f"the query may read {', '.join(known)}")
    return Refusal("UnknownRelation", f"unknown view {strip_invisible(name)[:120]!r}: {hint}")


@checks_relation(exp.Subquery)
def derived_table(node: exp.Subquery, ctx: Context) -> tuple[Relation, str]:
    """``(SELECT ...) AS t``. It may read columns of enclosing queries, but not of its neighbours in FROM."""
    if not isinstance(node.this, exp.Query) or isinstance(node.this, exp.Table):
        text = "a join or a name in parentheses is not allowed in FROM; write it without them, or as a subquery with an alias"
        raise Refusal("RelationNotAllowed", text)
    query = query_of(node.this, ctx, ctx.scope.parent, hidden=True)
    if columns := column_aliases(node):
        query = renamed(query, columns)
    relation = _add_query(alias_of(node, ctx.scope, "subquery"), query, ctx)
    return relation, f"{subquery(query.sql)} AS {quote(relation.alias)}"


def _add_view(view: View, written: str, ctx: Context) -> Relation:
    """Add an input view to the scope. Each of its rows is about the persons that its identity columns name."""
    scope, rereading = ctx.scope, ctx.rules.rereading
    alias = unique_alias(written, scope)
    visible = view.columns if rereading else view.visible()
    identities = view.identity_columns if view.min_group_size > 0 and not rereading else ()
    key = view.name.lower()
    ctx.findings.expand(_EXPANSION_PER_COLUMN * len(visible))
    source = frozenset([alias])
    columns = {}
    for column in visible:
        name = column.name.lower()
        origins = NO_ORIGINS if rereading else frozenset([(key, name, "value")])
        exposed = NO_COLUMNS if rereading else frozenset([(key, name)])
        columns[name] = Value.of_column(qualified(alias, column.name), column.type, column.name, source, origins, exposed)
        columns[name].identity = name in identities
    forbidden = frozenset([column.name.lower() for column in view.columns]) - columns.keys()
    relation = Relation(alias, written, columns, forbidden, view.name, view.unique_on)
    scope.add(relation)
    exact = {column.name.lower(): column.name for column in view.columns}
    scope.protected += [ProtectedInput(key, name, qualified(alias, exact[name])) for name in identities]
    scope.views |= {key}
    ctx.findings.read_rows(key)
    return relation


def _add_query(written: str, query: CheckedQuery, ctx: Context) -> Relation:
    """Add a checked query to the scope."""
    scope = ctx.scope
    alias = unique_alias(written, scope)
    ctx.findings.expand(_EXPANSION_PER_COLUMN * len(query.fields))
    source = frozenset([alias])
    columns = {field.name.lower(): field.as_column(qualified(alias, field.name), field.name, source) for field in query.fields}
    relation = Relation(alias, written, columns, unique_on=query.unique_on)
    scope.add(relation)
    for item in query.protected:
        # The column that shows the identity, if the query has one, so that it can be joined on and grouped by.
        column = item.reference if item.output_position is None else query.fields[item.output_position].name
        scope.protected.append(ProtectedInput(item.view, item.identity_column, qualified(alias, column)))
    scope.overlapping = scope.overlapping or query.overlapping
    scope.releases |= query.releases
    scope.views |= query.views
    scope.may_copy_rows = scope.may_copy_rows or query.may_copy_rows
    return relation


def from_clause(node: exp.Expr, ctx: Context) -> str:
    """The rendered FROM clause of a SELECT with its joins and lateral views, or nothing. Fills in the scope."""
    start = node.args.get("from_")
    if start is None:
        if node.args.get("joins") or node.args.get("laterals"):
            raise Refusal("ClauseNotAllowed", "a join needs a FROM")
        ctx.scope.may_copy_rows = True
        return ""
    relation, text_of_first = relation_of(start.this, ctx)
    text = ["\nFROM " + _placeholder(relation, text_of_first, ctx)]
    for check, parts in ((_join, node.args.get("joins")), (_lateral_view, node.args.get("laterals"))):
        for part in parts or ():
            with located_at(part):
                text.append(check(part, ctx))
    return "".join(text)


def _placeholder(relation: Relation, text: str, ctx: Context) -> str:
    """Stands for the text of a relation until the checks know whether its rows must be made unique. No query contains that character."""
    ctx.scope.texts[relation.alias] = text
    return f"\0{relation.alias}\0"


def written_out(text: str, scope: Scope, enforce: Mapping[str, Sequence[str]]) -> str:
    """A FROM clause with the texts of its relations. The rows of those in ``enforce`` are unique on the given columns."""
    for alias, relation in scope.texts.items():
        if alias in enforce:
            columns = next(item.columns for item in scope.relations.values() if item.alias == alias)
            shown = ",\n  ".join(f"{qualified(alias, value.name)} AS {quote(value.name)}" for value in columns.values())
            key = ", ".join(enforce[alias])
            inner = f"SELECT\n  {shown}\nFROM {relation}\nQUALIFY COUNT(*) OVER (PARTITION BY {key}) = 1"
            relation = f"{subquery(inner)} AS {quote(alias)}"
        text = text.replace(f"\0{alias}\0", relation)
    return text


def _join(node: exp.Expr, ctx: Context) -> str:
    side, kind = (str(node.args.get(name) or "").upper() for name in ("side", "kind"))
    word = _JOINS.get((side, kind))
    if word is None:
        raise Refusal("JoinNotAllowed", f"a {side} {kind} JOIN is not in the language of queries")
    scope = ctx.scope
    left, left_protected, visible = list(scope.relations.values()), len(scope.protected), scope.visible
    right, text = relation_of(node.this, ctx)
    text, first_key = _placeholder(right, text, ctx), len(scope.equal.keys)
    if node.args.get("using") == []:
        raise Refusal("Unparsable", "USING names the columns that both sides have")
    using = [item.name for item in node.args.get("using") or []]
    merged = [_using(name, visible, right, word, ctx) for name in using]
    conditions = [condition for condition, _ in merged]
    if node.args.get("on") is not None:
        conditions.extend(conjuncts(node.args["on"], ctx, in_every_row=word == "JOIN"))
    if word == "JOIN" and not conditions:
        word = "CROSS JOIN"
    if word in ("LEFT JOIN", "RIGHT JOIN", "FULL JOIN") and not conditions:
        raise Refusal("JoinNotAllowed", f"a {word} needs ON or USING")
    if word in ("LEFT JOIN", "RIGHT JOIN"):
        optional = frozenset([right.alias] if word == "LEFT JOIN" else [relation.alias for relation in left])
        for index, pair in enumerate(scope.equal.keys[first_key:], start=first_key):
            scope.equal.keys[index] = pair._replace(restricts=optional)
    _protect_rows(word, left, left_protected, right, conditions, ctx)
    if word in ("LEFT SEMI JOIN", "LEFT ANTI JOIN"):
        del scope.relations[right.written_alias.lower()]
    else:
        visible = [*visible, *right.columns.values()]
    names = {name.lower() for name in using}
    scope.show([*(value for _, value in merged), *(value for value in visible if value.name.lower() not in names)])
    on = conjunction(conditions)
    text = f"\n{word} {text}" + (f" ON {on}" if on else "")
    if word == "JOIN":
        scope.joins[right.alias] = text, conditions
    return text


def _protect_rows(
    word: str, left: Sequence[Relation], left_protected: int, right: Relation, conditions: Sequence[Value], ctx: Context
) -> None:
    """Apply the privacy rules to a join; ``left_protected`` of the scope's protected inputs are on its left side."""
    scope = ctx.scope
    optional = [right] if word == "LEFT JOIN" else left if word == "RIGHT JOIN" else []
    for relation in optional:
        for value in relation.columns.values():
            value.made_by_text = True
    if not scope.protected:
        return
    pairs = scope.equal.in_joins
    if word != "LEFT SEMI JOIN":
        texts = {condition.sql for condition in conditions}
        pairs = [pair for pair in pairs if f"{pair[0].sql} = {pair[1].sql}" in texts]
    joined = rows.join_rows(
        word,
        scope.protected[:left_protected],
        scope.protected[left_protected:],
        pairs,
        [relation.alias for relation in optional],
        right.alias,
    )
    scope.overlapping = scope.overlapping or (word == "LEFT SEMI JOIN" and len(scope.protected) > left_protected)
    scope.protected = joined.protected
    if joined.marker:
        for relation in optional:
            for value in relation.columns.values():
                value.outer_join_markers = value.outer_join_markers | {joined.marker}


def _using(name: str, left: Sequence[Value], right: Relation, word: str, ctx: Context) -> tuple[Value, Value]:
    """Condition of a column of USING, and the merged column."""
    key = name.lower()
    found = [value for value in left if value.name.lower() == key]
    if len(found) != 1:
        code = "AmbiguousColumn" if found else "UnknownColumn"
        raise Refusal(code, f"USING ({strip_invisible(name)[:80]}): the left side has {len(found)} such columns")
    first = found[0]
    if key not in right.columns:
        raise Refusal("UnknownColumn", f"USING ({strip_invisible(name)[:80]}): {right.alias} has no such column")
    second = right.columns[key]
    out = combine(f"{first.sql} = {second.sql}", "boolean", PREDICATE, [first, second], identity=True)
    out.identity = False
    check_condition([out], ctx.rules.catalog, f"USING ({strip_invisible(name)[:80]})")
    record_equality(first, second, ctx, in_every_row=word == "JOIN")
    ctx.record(first)
    ctx.record(second)
    if word == "RIGHT JOIN":
        return out, second
    if word != "FULL JOIN":
        return out, first
    value = combine(f"COALESCE({first.sql}, {second.sql})", first.type, ATOM, [first, second], identity=True)
    value.name = first.name
    return out, value


# -- conditions -------------------------------------------------------------------------------------------------------


def conjuncts(node: exp.Expr, ctx: Context, *, in_every_row: bool) -> list[Value]:
    """Check the conditions of ON or WHERE one by one, and record which columns they make equal.

    They are true ``in_every_row`` of the result unless they are those of an outer join.
    """
    out = []
    for part in chain_operands(node, exp.And):
        semi = semi_join(part, ctx) if in_every_row else None
        if semi is not None:
            out.append(semi)
        elif type(part) is exp.EQ:
            value, first, second = compared(part, ctx)
            out.append(value)
            _record_comparison(part, value, ctx)
            with located_at(part):
                rows.check_identities(first, second)
            record_equality(first, second, ctx, in_every_row=in_every_row)
        else:
            out.append(value_of(part, ctx))
            _record_comparison(part, out[-1], ctx)
        with located_at(part):
            check_condition(out[-1:], ctx.rules.catalog)
    return out


def _record_comparison(node: exp.Expr, condition: Value, ctx: Context) -> None:
    """Record that ``condition`` compares columns of several relations, if one of them is withheld."""
    withheld = ctx.rules.withheld
    if withheld and len(condition.sources) > 1 and not withheld.isdisjoint(condition.exposed):
        ctx.scope.equal.compared.append(columns_named_in(node, ctx.scope))


def record_equality(first: Value, second: Value, ctx: Context, *, in_every_row: bool) -> None:
    """Record that two columns of different relations are equal in every row, or where both are present."""
    if not rows.joins_relations(first, second):
        return
    scope, equal = ctx.scope, ctx.scope.equal
    if ctx.rules.withheld:
        equal.compared.append((first, second))
    if first.joinable and second.joinable:
        equal.links.extend((one, two) for one in first.sources for two in second.sources)
    if first.plain and second.plain:
        equal.in_joins.append((first, second))
    if first.joinable and second.joinable and comparable(first, second):
        equal.keys.append(KeyPair(first, second))
        if first.plain and second.plain and first.type == second.type:
            equal.equate_if_found(first, second)
    if rows.self_join_copies_rows(equal.views_behind(first), equal.views_behind(second), ctx.rules.catalog):
        scope.may_copy_rows = True
    if in_every_row and first.plain and second.plain and first.type == second.type:
        equal.equate(first, second)


# -- LATERAL VIEW -----------------------------------------------------------------------------------------------------


def _lateral_view(node: exp.Expr, ctx: Context) -> str:
    call, scope = node.this, ctx.scope
    name = marked_name(call)
    if not node.args.get("view") or name not in FUNCTIONS or FUNCTIONS[name].kind != "generator":
        raise Refusal("RelationNotAllowed", "only LATERAL VIEW explode(…) and posexplode(…) are allowed")
    if len(call.expressions) != 1:
        raise Refusal("WrongArguments", f"{name} takes one array")
    value = value_of(call.expressions[0], ctx.in_clause("explode"))
    if value.type != "array":
        raise Refusal("TypeNotAllowed", f"{name} needs an array (split, collect_list, array …), not {value.type}")
    check_condition([value], ctx.rules.catalog, name)
    columns = column_aliases(node)
    expected = 2 if name.startswith("POS") else 1
    if len(columns) != expected:
        raise Refusal("ClauseNotAllowed", f"LATERAL VIEW {name.lower()}(…) needs AS with {expected} column name(s)")
    written = alias_of(node, scope, "exploded")
    relation = Relation(unique_alias(written, scope), written, {})
    for column in columns:
        kind = "integer" if expected == 2 and not relation.columns else "string"
        exploded = combine(qualified(relation.alias, column), kind, ATOM, [value])
        exploded.name, exploded.plain, exploded.ungrouped = column, True, True
        exploded.sources, exploded.degree = frozenset([relation.alias]), 1
        relation.columns[column.lower()] = exploded
    scope.add(relation)
    scope.equal.links.extend((relation.alias, other) for other in value.sources)
    if scope.protected:
        scope.exploded.add(relation.alias)
        scope.overlapping = True
    else:
        scope.may_copy_rows = True
    outer = "OUTER " if node.args.get("outer") else ""
    return f"\nLATERAL VIEW {outer}{name}({value.sql}) {quote(relation.alias)} AS {', '.join(map(quote, columns))}"
