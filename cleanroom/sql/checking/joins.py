"""FROM: joins, LATERAL VIEW, and the conditions that make columns equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlglot import exp

from cleanroom.sql.checking.columns import alias_of, column_aliases, columns_named_in, unique_alias
from cleanroom.sql.checking.nodes import allow_only, chain_operands, combine, located_at, marked_name, position_of, relation_of, value_of
from cleanroom.sql.checking.operators import compared
from cleanroom.sql.checking.queries import semi_join
from cleanroom.sql.context import Context
from cleanroom.sql.model import KeyPair, Relation, Value
from cleanroom.sql.precedence import ATOM, PREDICATE
from cleanroom.sql.privacy import rows
from cleanroom.sql.privacy.exposure import check_condition
from cleanroom.sql.privacy.joins import comparable
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import conjunction, qualified, quote, subquery
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.characters import strip_invisible
from cleanroom.sql.vocabulary import FUNCTIONS

_JOINS = {
    ("", ""): "JOIN",
    ("", "INNER"): "JOIN",
    ("", "CROSS"): "CROSS JOIN",
    ("LEFT", ""): "LEFT JOIN",
    ("LEFT", "OUTER"): "LEFT JOIN",
    ("RIGHT", ""): "RIGHT JOIN",
    ("RIGHT", "OUTER"): "RIGHT JOIN",
    ("FULL", ""): "FULL JOIN",
    ("FULL", "OUTER"): "FULL JOIN",
    ("LEFT", "SEMI"): "LEFT SEMI JOIN",
    ("", "SEMI"): "LEFT SEMI JOIN",
    ("LEFT", "ANTI"): "LEFT ANTI JOIN",
    ("", "ANTI"): "LEFT ANTI JOIN",
}
"""Keywords of the rendered join, by side and kind as parsed."""


def from_clause(node: exp.Expr, ctx: Context) -> str:
    """The rendered FROM clause of a SELECT with its joins and lateral views, or nothing. Fills in the scope."""
    start = node.args.get("from_")
    if start is None:
        if node.args.get("joins") or node.args.get("laterals"):
            raise Refusal("ClauseNotAllowed", "a join needs a FROM", position_of(node))
        ctx.scope.may_copy_rows = True
        return ""
    allow_only(start, "this")
    first, joins = _without_nesting(start.this, node.args.get("joins") or [])
    relation, text_of_first = relation_of(first, ctx)
    text = ["\nFROM " + _placeholder(relation, text_of_first, ctx)]
    text.extend(_join(join, ctx) for join in joins)
    text.extend(_lateral_view(lateral, ctx) for lateral in node.args.get("laterals") or [])
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
    allow_only(node, "this", "side", "kind", "on", "using", "method")
    method, side, kind = (str(node.args.get(name) or "").upper() for name in ("method", "side", "kind"))
    word = _JOINS.get((side, kind))
    if word is None or method not in ("", "NATURAL"):
        raise Refusal("JoinNotAllowed", f"a {' '.join(filter(None, (method, side, kind)))} join is not allowed", position_of(node))
    scope = ctx.scope
    left, left_protected = list(scope.relations.values()), len(scope.protected)
    right, text = relation_of(node.this, ctx)
    text, first_key = _placeholder(right, text, ctx), len(scope.equal.keys)
    if node.args.get("using") == []:
        raise Refusal("Unparsable", "USING names the columns that both sides have", position_of(node))
    using = [item.name for item in node.args.get("using") or []]
    if method == "NATURAL":
        using = [value.name for key, value in right.columns.items() if any(key in other.columns for other in left)]
    merged = [_using(name, left, right, word, ctx) for name in using]
    conditions = [condition for condition, _, _ in merged]
    if node.args.get("on") is not None:
        conditions.extend(conjuncts(node.args["on"], ctx, in_every_row=word == "JOIN"))
    if word == "JOIN" and not conditions:
        word = "CROSS JOIN"
    if word in ("LEFT JOIN", "RIGHT JOIN", "FULL JOIN") and not conditions:
        raise Refusal("JoinNotAllowed", f"a {word} needs ON or USING", position_of(node))
    if word in ("LEFT JOIN", "RIGHT JOIN"):
        optional = frozenset([right.alias] if word == "LEFT JOIN" else [relation.alias for relation in left])
        for index, pair in enumerate(scope.equal.keys[first_key:], start=first_key):
            scope.equal.keys[index] = pair._replace(restricts=optional)
    _protect_rows(word, left, left_protected, right, conditions, node, ctx)
    for _, key, value in merged:
        scope.merged[key] = value
    if word in ("LEFT SEMI JOIN", "LEFT ANTI JOIN"):
        del scope.relations[right.written_alias.lower()]
    on = conjunction(conditions)
    return f"\n{word} {text}" + (f" ON {on}" if on else "")


def _protect_rows(
    word: str, left: Sequence[Relation], left_protected: int, right: Relation, conditions: Sequence[Value], node: exp.Expr, ctx: Context
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
    with located_at(node):
        joined = rows.join_rows(
            word,
            scope.protected[:left_protected],
            scope.protected[left_protected:],
            pairs,
            [relation.alias for relation in optional],
            right.alias,
        )
    scope.protected = joined.protected
    if joined.marker:
        for relation in optional:
            for value in relation.columns.values():
                value.outer_join_markers = value.outer_join_markers | {joined.marker}


def _using(name: str, left: Sequence[Relation], right: Relation, word: str, ctx: Context) -> tuple[Value, str, Value]:
    """Condition of a column of USING, its lower-case name, and the merged column."""
    scope, key = ctx.scope, name.lower()
    if key in scope.merged:
        first = scope.merged[key]
    else:
        owners = [relation for relation in left if key in relation.columns]
        if len(owners) != 1:
            code = "AmbiguousColumn" if owners else "UnknownColumn"
            raise Refusal(code, f"USING ({strip_invisible(name)[:80]}): the left side has {len(owners)} such columns")
        first = owners[0].columns[key]
    if key not in right.columns:
        raise Refusal("UnknownColumn", f"USING ({strip_invisible(name)[:80]}): {right.alias} has no such column")
    second = right.columns[key]
    equality = exp.EQ()
    out = combine(f"{first.sql} = {second.sql}", "boolean", PREDICATE, [first, second], equality, identity=True)
    out.identity = False
    record_equality(first, second, ctx, in_every_row=word == "JOIN")
    ctx.record(first)
    ctx.record(second)
    if word == "RIGHT JOIN":
        return out, key, second
    if word != "FULL JOIN":
        return out, key, first
    value = combine(f"COALESCE({first.sql}, {second.sql})", first.type, ATOM, [first, second], equality, identity=True)
    value.name = first.name
    return out, key, value


# -- conditions -------------------------------------------------------------------------------------------------------


def conjuncts(node: exp.Expr, ctx: Context, *, in_every_row: bool) -> list[Value]:
    """Check the conditions of ON or WHERE one by one, and record which columns they make equal.

    Args:
        node: The conditions, joined by AND.
        ctx: Context of the clause.
        in_every_row: The conditions are true in every row of the result, unlike those of an outer join.
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
    allow_only(node, "this", "view", "outer", "alias", "ordinality")
    call, scope = node.this, ctx.scope
    name = marked_name(call)
    if not node.args.get("view") or name not in FUNCTIONS or FUNCTIONS[name].kind != "generator":
        raise Refusal("RelationNotAllowed", "only LATERAL VIEW explode(…) and posexplode(…) are allowed", position_of(node))
    with located_at(node):
        rows.check_lateral_view(scope.protected)
    allow_only(call, "this", "expressions")
    if len(call.expressions) != 1:
        raise Refusal("WrongArguments", f"{name} takes one array", position_of(node))
    value = value_of(call.expressions[0], ctx.in_clause("explode"))
    if value.type != "array":
        raise Refusal("TypeNotAllowed", f"{name} needs an array (split, collect_list, array …), not {value.type}", position_of(node))
    with located_at(node):
        check_condition([value], ctx.rules.catalog, name)
    columns = column_aliases(node)
    expected = 2 if name.startswith("POS") else 1
    if len(columns) != expected:
        raise Refusal("ClauseNotAllowed", f"LATERAL VIEW {name.lower()}(…) needs AS with {expected} column name(s)", position_of(node))
    written = alias_of(node, scope, "exploded")
    relation = Relation(unique_alias(written, scope), written, {})
    for column in columns:
        kind = "integer" if expected == 2 and not relation.columns else "string"
        exploded = combine(qualified(relation.alias, column), kind, ATOM, [value], node)
        exploded.name, exploded.plain, exploded.ungrouped = column, True, True
        exploded.sources, exploded.degree = frozenset([relation.alias]), 1
        relation.columns[column.lower()] = exploded
    scope.relations[written.lower()] = relation
    scope.equal.links.extend((relation.alias, other) for other in value.sources)
    scope.may_copy_rows = True
    outer = "OUTER " if node.args.get("outer") else ""
    return f"\nLATERAL VIEW {outer}{name}({value.sql}) {quote(relation.alias)} AS {', '.join(map(quote, columns))}"


# -- parentheses in FROM ----------------------------------------------------------------------------------------------


def _without_nesting(first: exp.Expr, joins: list[exp.Expr]) -> tuple[exp.Expr, list[exp.Expr]]:
    """FROM without parentheses that have no effect.

    These are ``(a JOIN b) JOIN c``, and ``a JOIN (b JOIN c ON p) ON q`` if all joins are inner joins.
    """
    while isinstance(first, exp.Subquery) and not first.args.get("alias") and isinstance(first.this, exp.Table | exp.Subquery):
        allow_only(first, "this", "joins")
        joins = [*(first.args.get("joins") or []), *joins]
        first = first.this
    if isinstance(first, exp.Table) and first.args.get("joins"):
        joins = [*first.args["joins"], *joins]
        first = _without_joins(first)
    out: list[exp.Expr] = []
    for join in joins:
        group = join.this
        inner = group.this if isinstance(group, exp.Subquery) and not group.args.get("alias") else None
        if not isinstance(inner, exp.Table):
            out.append(join)
            continue
        allow_only(group, "this")
        nested = inner.args.get("joins") or []
        if not nested:
            out.append(exp.Join(**{**join.args, "this": inner}))
            continue
        if not all(_is_inner(part) for part in (join, *nested)):
            out.append(join)  # derived_table refuses it
            continue
        out.append(exp.Join(this=_without_joins(inner), kind="CROSS"))
        last = nested[-1]
        both = [part.args["on"] for part in (last, join) if part.args.get("on") is not None]
        on = exp.And(this=both[0], expression=both[1]) if len(both) == 2 else both[0] if both else None
        out += [*nested[:-1], exp.Join(this=last.this, on=on)]
    return first, out


def _without_joins(node: exp.Table) -> exp.Table:
    return exp.Table(**{name: part for name, part in node.args.items() if name != "joins"})


def _is_inner(join: exp.Expr) -> bool:
    other = any(join.args.get(part) for part in ("using", "method", "side"))
    kind = str(join.args.get("kind") or "").upper()
    return not other and kind in ("", "INNER") and isinstance(join.this, exp.Table | exp.Subquery)
