"""Aggregates: their arguments, WITHIN GROUP, FILTER and IGNORE NULLS."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.checking.combining import combine
from cleanroom.sql.checking.dispatch import checks_expression, value_of, values_of
from cleanroom.sql.checking.nodes import allow_only, called_function, located_at, position_of
from cleanroom.sql.checking.ordering import sort_keys
from cleanroom.sql.context import Context
from cleanroom.sql.model import ROWS, ReleasedAggregate, Value
from cleanroom.sql.precedence import ATOM
from cleanroom.sql.privacy.aggregates import aggregate_disclosure, condition_divisions, protected_columns
from cleanroom.sql.privacy.exposure import check_condition
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.spark_types import result_type
from cleanroom.sql.text.marking import MARK
from cleanroom.sql.vocabulary import FUNCTIONS

_LEAVES = frozenset({exp.Column, exp.Literal, exp.Identifier, exp.Null, exp.Boolean, exp.Star, exp.DataType})
_FUNCTIONS_WITHIN_GROUP = ", ".join(sorted(name for name, function in FUNCTIONS.items() if function.within_group != "no"))
_FUNCTIONS_IGNORING_NULLS = ", ".join(sorted(name for name, function in FUNCTIONS.items() if function.accepts_ignore_nulls))


def aggregate(node: exp.Anonymous, name: str, ctx: Context) -> Value:
    """A call of the aggregate ``name``."""
    if not ctx.aggregates_allowed or ctx.aggregate:
        where = "inside another aggregate" if ctx.aggregate else "in this clause"
        raise Refusal("AggregateNotAllowedHere", f"{name} is not allowed {where}", position_of(node))
    if ctx.in_qualify:
        raise Refusal("AggregateNotAllowedHere", f"QUALIFY: give {name}(…) an alias in the SELECT and use that here", position_of(node))
    within_group = FUNCTIONS[name].within_group
    if within_group == "required" or (within_group == "instead_of_argument" and not node.expressions):
        raise Refusal("WrongArguments", f"{name}(…) needs WITHIN GROUP (ORDER BY …)", position_of(node))
    text, args, distinct = _arguments(node, name, ctx)
    return _result(node, name, f"{name}({text})", args, distinct, ctx)


@checks_expression(exp.WithinGroup)
def within_group(node: exp.Expr, ctx: Context) -> Value:
    """``PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY x)`` and other aggregates of the values that they sort by."""
    allow_only(node, "this", "expression")
    call, order = node.this, node.args["expression"]
    name = called_function(call)
    form = FUNCTIONS[name].within_group if name else "no"
    if form == "no" or not isinstance(order, exp.Order) or (form == "required" and len(call.expressions) != 1):
        raise Refusal("FunctionNotAllowed", f"WITHIN GROUP (ORDER BY …) is allowed with {_FUNCTIONS_WITHIN_GROUP}", position_of(node))
    if not ctx.aggregates_allowed or ctx.aggregate:
        raise Refusal("AggregateNotAllowedHere", f"{name} is not allowed in this clause", position_of(node))
    allow_only(call, "this", "expressions")
    allow_only(order, "expressions")
    text, args, distinct = _arguments(call, name, ctx)
    texts, keys = sort_keys(order, ctx.in_aggregate(name, name.lower()))
    if any(key.windowed or key.identity for key in keys):
        raise Refusal("AggregateNotAllowedHere", f"{name} cannot sort by a window or an identity", position_of(node))
    joins_texts = FUNCTIONS[name].joins_texts
    if not joins_texts and (len(keys) != 1 or (form == "instead_of_argument" and args)):
        raise Refusal("WrongArguments", f"{name} sorts by one expression", position_of(node))
    sql = f"{name}({text}) WITHIN GROUP (ORDER BY {', '.join(texts)})"
    out = _result(node, name, sql, [*args, *keys] if joins_texts else keys, distinct, ctx)
    out.degree = None
    return out


@checks_expression(exp.IgnoreNulls, exp.RespectNulls)
def nulls_treatment(node: exp.Expr, ctx: Context) -> Value:
    """``FIRST(x) IGNORE NULLS``. RESPECT NULLS is the default and is not rendered."""
    allow_only(node, "this")
    name = called_function(node.this)
    if not name or not FUNCTIONS[name].accepts_ignore_nulls:
        raise Refusal("FunctionNotAllowed", f"IGNORE NULLS is allowed with {_FUNCTIONS_IGNORING_NULLS}", position_of(node))
    out = value_of(node.this, ctx)
    if isinstance(node, exp.IgnoreNulls):
        out.sql += " IGNORE NULLS"
    return out


@checks_expression(exp.Filter)
def filtered_aggregate(node: exp.Expr, ctx: Context) -> Value:
    """``SUM(x) FILTER (WHERE condition)``."""
    allow_only(node, "this", "expression")
    call, scope = node.this, ctx.scope
    name = called_function(call)
    if not isinstance(node.args["expression"], exp.Where) or not name or FUNCTIONS[name].kind != "aggregate":
        raise Refusal("FunctionNotAllowed", "FILTER is allowed with an aggregate", position_of(node))
    value = value_of(call, ctx)
    allow_only(node.args["expression"], "this")
    condition = value_of(node.args["expression"].this, ctx.in_aggregate("FILTER", "condition"))
    with located_at(node):
        check_condition([condition], ctx.rules.catalog)
    text = f"{value.sql} FILTER(WHERE {condition.sql})"
    if scope.aggregates_persons:
        if scope.released:
            scope.released[-1] = scope.released[-1]._replace(where=condition.sql, sql=text)
        with located_at(node):
            scope.divide(condition_divisions([condition], ctx.rules.catalog))
    condition.ungrouped = False
    out = combine(text, value.type, ATOM, [value, condition], node)
    out.aggregated, out.ungrouped, out.degree = True, False, None
    return out


def contains_aggregate(node: exp.Expr) -> bool:
    """Whether ``node`` contains an aggregate outside of subqueries that is not the function of a window."""
    while type(node) is exp.Alias:
        node = node.this
    if type(node) in _LEAVES:
        return False
    stack = [node]
    while stack:
        part = stack.pop()
        kind = type(part)
        if kind in _LEAVES or isinstance(part, exp.Query | exp.Exists):
            continue
        if isinstance(part, exp.Window):
            stack += _window_operands(part)
            continue
        if kind is exp.Anonymous and isinstance(part.this, str):
            function = FUNCTIONS.get(part.this.removeprefix(MARK))
            if function is not None and function.kind == "aggregate":
                return True
        stack += part.iter_expressions()
    return False


def _window_operands(window: exp.Window) -> list[exp.Expr]:
    operands = []
    call = window.this
    while isinstance(call, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        if isinstance(call, exp.Filter):
            operands.append(call.args["expression"])
        call = call.this
    order = window.args.get("order")
    return [*operands, *call.expressions, *(window.args.get("partition_by") or []), *([order] if order else [])]


def _arguments(node: exp.Anonymous, name: str, ctx: Context) -> tuple[str, list[Value], bool]:
    """Text and values of the arguments, and whether they are DISTINCT."""
    function, nodes, distinct = FUNCTIONS[name], node.expressions, False
    if len(nodes) == 1 and isinstance(nodes[0], exp.Distinct):
        allow_only(nodes[0], "expressions")
        nodes, distinct = nodes[0].expressions, True
        if len(nodes) > function.most:
            raise Refusal("WrongArguments", f"{name} does not take {len(nodes)} arguments", position_of(node))
    if len(nodes) == 1 and isinstance(nodes[0], exp.Star):
        allow_only(nodes[0])
        if name != "COUNT" or distinct:
            raise Refusal("WrongArguments", f"{name}(*) is not allowed", position_of(node))
        return "*", [], False
    if len(nodes) > 1 and name == "COUNT" and not distinct:
        raise Refusal("WrongArguments", "COUNT takes one column, or DISTINCT several", position_of(node))
    if function.describes_grouping:
        args = values_of(nodes, ctx)
        return ", ".join(arg.sql for arg in args), args, False
    args = values_of(nodes, ctx.in_aggregate(name, name.lower()))
    for arg in args:
        if arg.windowed:
            raise Refusal("AggregateNotAllowedHere", f"{name} of a window function is not allowed", position_of(node))
        if arg.identity and function.disclosure != "count":
            raise Refusal("IdentityUse", f"{name} of {arg.name}: an identity may only be counted", position_of(node))
    return ("DISTINCT " if distinct else "") + ", ".join([arg.sql for arg in args]), args, distinct


def _result(node: exp.Expr, name: str, sql: str, args: list[Value], distinct: bool, ctx: Context) -> Value:
    scope, use = ctx.scope, name.lower()
    with located_at(node):
        if FUNCTIONS[name].disclosure == "condition":
            check_condition(args, ctx.rules.catalog)
        disclosure = aggregate_disclosure(
            name, args, distinct=distinct, released=scope.protected if scope.aggregates_persons else (), catalog=ctx.rules.catalog
        )
    scope.divide(disclosure.divisions)
    if scope.aggregates_persons:
        scope.released.append(ReleasedAggregate(name, tuple(args), distinct, sql=sql))
        for arg in args:
            _warn_of_argument(name, arg, ctx)
    return Value(
        sql,
        result_type(FUNCTIONS[name], [arg.type for arg in args]) if args else "long",
        ATOM,
        max((arg.scale for arg in args), default=1.0),
        disclosure.degree,
        frozenset([(view, column, use) for arg in args for view, column, _ in arg.origins])
        or frozenset([(view, ROWS, use) for view in scope.views]),
        disclosure.exposed,
        aggregated=True,
        flag=name in ("MIN", "MAX", "ANY_VALUE", "FIRST") and args[0].flag,
        transformed=any(arg.transformed for arg in args),
        made_by_text=FUNCTIONS[name].disclosure in ("count", "condition") or any(arg.made_by_text for arg in args),
    )


def _warn_of_argument(name: str, arg: Value, ctx: Context) -> None:
    """Record that an aggregate over several persons contains a product, or values of a view without a floor."""
    catalog, mixture = ctx.rules.catalog, FUNCTIONS[name].disclosure == "mixture"
    columns = [f"{view}.{column}" for view, column in protected_columns(arg, catalog)]
    if mixture and columns and (arg.degree or 0) > 1:
        ctx.findings.warn("ProductOfColumns", f"{name} of a product of {', '.join(columns)}")
    own = sorted({f"{view}.{column}" for view, column, _ in arg.origins if not catalog.has_floor(view)})
    if mixture and own:
        ctx.findings.warn("OwnDataAsWeights", f"{name} of {', '.join(own)}, which has no floor: values per person can mark persons in it")
