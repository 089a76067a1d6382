"""Conditions: AND, OR, NOT, comparisons, IS, BETWEEN, IN and LIKE."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.checking.columns import alias_target
from cleanroom.sql.checking.combining import combine
from cleanroom.sql.checking.dispatch import checks_expression, value_of, values_of
from cleanroom.sql.checking.mixing import LEFT, check_operands
from cleanroom.sql.checking.nodes import allow_only, chain_operands, position_of, without_parentheses
from cleanroom.sql.checking.subqueries import in_subquery
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.precedence import AND, ATOM, OR, PREDICATE, SUM
from cleanroom.sql.privacy.rows import joins_relations
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised, text_literal

_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.NullSafeEQ: "<=>",
    exp.NullSafeNEQ: "<=>",
}
_LIKES: dict[type[exp.Expr], str] = {exp.Like: "LIKE", exp.ILike: "ILIKE", exp.RegexpLike: "RLIKE"}


@checks_expression(exp.And, exp.Or)
def logical(node: exp.Expr, ctx: Context) -> Value:
    """A chain of AND, or of OR."""
    kind = type(node)
    word, precedence = ("AND", AND) if kind is exp.And else ("OR", OR)
    parts = values_of(chain_operands(node, kind), ctx)
    texts = [part.sql if part.precedence >= PREDICATE or part.operator_chain == word else f"({part.sql})" for part in parts]
    out = combine(f" {word} ".join(texts), "boolean", precedence, parts, node)
    out.operator_chain = word
    if kind is exp.Or and out.exposed:
        columns = [f"{view}.{column}" for view, column in sorted(out.exposed) if ctx.rules.catalog.has_floor(view)]
        if columns:
            ctx.findings.warn("OrOverProtectedColumns", f"OR combines conditions on {', '.join(columns)}")
    return out


@checks_expression(exp.Not)
def negation(node: exp.Expr, ctx: Context) -> Value:
    """``NOT x``, rendered as ``NOT IN``, ``IS NOT`` and so on where SQL has such a form."""
    allow_only(node, "this")
    return _negated(node.this, node, ctx)


def _negated(inner: exp.Expr, node: exp.Expr, ctx: Context) -> Value:
    inner = without_parentheses(inner)
    target = alias_target(inner, ctx)
    if target is not None:  # rendered as NOT of the aliased expression, because that is how the rendering is read back
        return _negated(target, node, ctx.expanding_alias(inner.name))
    if type(inner) in LEFT:
        check_operands(inner, type(inner))
    if isinstance(inner, exp.In):
        return membership(inner, ctx, negated=True)
    if isinstance(inner, exp.Is):
        return is_test(inner, ctx, negated=True)
    if isinstance(inner, exp.Between):
        return between(inner, ctx, negated=True)
    # NOT before a condition with ANY or ALL negates the whole condition; NOT LIKE ANY negates each pattern.
    if isinstance(inner, exp.Like | exp.ILike | exp.RegexpLike) and not isinstance(inner.args["expression"], exp.Any | exp.All):
        return like(inner, ctx, negated=True)
    part = value_of(inner, ctx)
    return combine(f"NOT {parenthesised(part, ATOM)}", "boolean", PREDICATE, [part], node)


@checks_expression(*_COMPARISONS)
def comparison(node: exp.Expr, ctx: Context) -> Value:
    """``a = b``, ``a <= b``, ``a <=> b`` and so on."""
    return compared(node, ctx)[0]


def compared(node: exp.Expr, ctx: Context) -> tuple[Value, Value, Value]:
    """A comparison and its two sides."""
    allow_only(node, "this", "expression")
    kind = type(node)
    left, right = value_of(node.this, ctx), value_of(node.args["expression"], ctx)
    # An identity may be compared for equality with a column of another relation, as a join does, and with nothing else.
    join = kind is exp.EQ and joins_relations(left, right)
    text = f"{parenthesised(left, SUM)} {_COMPARISONS[kind]} {parenthesised(right, SUM)}"
    out = combine(text, "boolean", PREDICATE, (left, right), node, identity=join)
    out.identity = False
    if kind is exp.NullSafeNEQ:
        out.sql = f"NOT ({out.sql})"
    return out, left, right


@checks_expression(exp.Is)
def is_test(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x IS NULL``, ``x IS TRUE`` and ``x IS FALSE``."""
    allow_only(node, "this", "expression")
    test = node.args["expression"]
    if isinstance(test, exp.Null):
        word = "NULL"
    elif isinstance(test, exp.Boolean):
        word = "TRUE" if test.this else "FALSE"
    else:
        raise Refusal("ExpressionNotAllowed", "IS is allowed with NULL, TRUE and FALSE", position_of(node))
    part = value_of(node.this, ctx)
    text = f"{parenthesised(part, SUM)} IS {'NOT ' if negated else ''}{word}"
    out = combine(text, "boolean", PREDICATE, [part], node, identity=word == "NULL" and part.plain)
    if part.identity and part.outer_join_markers:  # whether an outer join found the person, and nothing of the identity
        out.exposed = frozenset()
    out.identity = False
    return out


@checks_expression(exp.Between)
def between(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x BETWEEN low AND high``."""
    allow_only(node, "this", "low", "high")
    parts = values_of((node.this, node.args["low"], node.args["high"]), ctx)
    what, low, high = (parenthesised(part, SUM) for part in parts)
    return combine(f"{what} {'NOT ' if negated else ''}BETWEEN {low} AND {high}", "boolean", PREDICATE, parts, node)


@checks_expression(exp.In)
def membership(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x IN (1, 2)``, ``(a, b) IN ((1, 2), (3, 4))`` and ``x IN (SELECT ...)``."""
    if node.args.get("query") is not None:
        return in_subquery(node, ctx, negated)
    allow_only(node, "this", "expressions")
    if not node.expressions:
        raise Refusal("Unparsable", "IN needs at least one value", position_of(node))
    if isinstance(node.this, exp.Tuple):
        return _tuple_membership(node, ctx, negated)
    what = value_of(node.this, ctx)
    items = values_of(node.expressions, ctx)
    text = f"{parenthesised(what, SUM)} {'NOT ' if negated else ''}IN ({', '.join([item.sql for item in items])})"
    return combine(text, "boolean", PREDICATE, [what, *items], node)


def _tuple_membership(node: exp.Expr, ctx: Context, negated: bool) -> Value:
    columns = values_of(node.this.expressions, ctx)
    rows = []
    for row in node.expressions:
        if not isinstance(row, exp.Tuple) or len(row.expressions) != len(columns):
            raise Refusal("WrongArguments", f"(…) IN takes lists of {len(columns)} values", position_of(node))
        rows.append(values_of(row.expressions, ctx))
    items = ", ".join(f"({', '.join(part.sql for part in row)})" for row in rows)
    text = f"({', '.join(part.sql for part in columns)}) {'NOT ' if negated else ''}IN ({items})"
    return combine(text, "boolean", PREDICATE, [*columns, *(part for row in rows for part in row)], node)


@checks_expression(*_LIKES)
def like(node: exp.Expr, ctx: Context, negated: bool = False) -> Value:
    """``x LIKE pattern``, ``ILIKE`` and ``RLIKE``, and ``x LIKE ANY ('a%', 'b%')``."""
    allow_only(node, "this", "expression", "negate")
    if node.args.get("negate"):
        negated = not negated
    word = f"{'NOT ' if negated else ''}{_LIKES[type(node)]}"
    pattern = node.args["expression"]
    if isinstance(pattern, exp.Any | exp.All):
        return _quantified_like(node, pattern, word, ctx)
    parts = values_of((node.this, pattern), ctx)
    return combine(f"{parenthesised(parts[0], SUM)} {word} {parenthesised(parts[1], SUM)}", "boolean", PREDICATE, parts, node)


def _quantified_like(node: exp.Expr, group: exp.Expr, word: str, ctx: Context) -> Value:
    allow_only(group, "this")
    inner = group.this
    patterns = inner.expressions if isinstance(inner, exp.Tuple) else [inner.this] if isinstance(inner, exp.Paren) else []
    if isinstance(node, exp.RegexpLike) or not patterns or not all(isinstance(part, exp.Literal) and part.is_string for part in patterns):
        raise Refusal("ExpressionNotAllowed", "LIKE ANY and LIKE ALL take a list of texts in quotes", position_of(node))
    parts = values_of((node.this, *patterns), ctx)
    quantifier = "ALL" if isinstance(group, exp.All) else "ANY"
    texts = ", ".join(part.sql for part in parts[1:])
    return combine(f"{parenthesised(parts[0], SUM)} {word} {quantifier} ({texts})", "boolean", PREDICATE, parts, node)


@checks_expression(exp.Escape)
def escape(node: exp.Expr, ctx: Context) -> Value:
    """``x LIKE pattern ESCAPE '!'``."""
    allow_only(node, "this", "expression")
    sign = node.args["expression"]
    pattern = node.this.args.get("expression") if isinstance(node.this, exp.Like | exp.ILike) else None
    if pattern is None or isinstance(pattern, exp.Any | exp.All) or not isinstance(sign, exp.Literal) or len(str(sign.this)) != 1:
        raise Refusal("LiteralNotAllowed", "LIKE … ESCAPE takes one pattern and one character", position_of(node))
    out = value_of(node.this, ctx)
    out.sql += f" ESCAPE {text_literal(str(sign.this))}"
    return out
