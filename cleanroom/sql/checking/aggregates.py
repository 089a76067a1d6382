"""Aggregates and window functions."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from cleanroom.sql.checking.nodes import (
    allow_only,
    called_function,
    checks_expression,
    combine,
    direction,
    located_at,
    position_of,
    value_of,
    values_of,
)
from cleanroom.sql.context import Context
from cleanroom.sql.model import ROWS, ReleasedAggregate, Value
from cleanroom.sql.precedence import ATOM
from cleanroom.sql.privacy.aggregates import aggregate_disclosure, condition_divisions, protected_columns
from cleanroom.sql.privacy.exposure import check_condition, check_one_relation
from cleanroom.sql.privacy.rows import window_parts
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.spark_types import result_type
from cleanroom.sql.text.characters import strip_invisible
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
            check_one_relation(scope, [condition], [arg for arg in scope.released[-1].args if not arg.identity] if scope.released else [])
    condition.ungrouped = False
    out = combine(text, value.type, ATOM, [value, condition], node)
    out.aggregated, out.ungrouped, out.degree = True, False, None
    return out


def sort_keys(order: exp.Expr, ctx: Context) -> tuple[list[str], list[Value]]:
    """Texts with directions, and values, of ORDER BY inside a window or an aggregate."""
    texts, values = [], []
    for item in order.expressions:
        allow_only(item, "this", "desc", "nulls_first")
        values.append(value_of(item.this, ctx))
        texts.append(values[-1].sql + direction(item))
    return texts, values


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
        if function.accepts_ignore_nulls:  # Spark reads FIRST(DISTINCT -x) as a difference with a column called DISTINCT
            raise Refusal("WrongArguments", f"{name}(DISTINCT …) is not allowed; omit DISTINCT", position_of(node))
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
        origins=frozenset([(view, column, use) for arg in args for view, column, _ in arg.origins])
        or frozenset([(view, ROWS, use) for view in scope.views]),
        exposed=disclosure.exposed,
        aggregated=True,
        flag=name in ("MIN", "MAX", "ANY_VALUE", "FIRST") and args[0].flag,
        # Rows that a join repeats count several times: an aggregate per person is then another form of the column.
        transformed=any(arg.transformed for arg in args) or (scope.multiplied and FUNCTIONS[name].disclosure == "mixture"),
        mixed=any(arg.mixed for arg in args),
        filled=any(arg.filled for arg in args),
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


@dataclass(frozen=True, slots=True)
class _WindowCall:
    """The function of a window, with its modifiers."""

    name: str  # name of the function
    node: exp.Anonymous  # the call
    where: exp.Expr | None  # condition of FILTER
    ignores_nulls: bool  # IGNORE NULLS follows the call


@checks_expression(exp.Window)
def window(node: exp.Window, ctx: Context) -> Value:
    """A call of an aggregate or a window function over a window."""
    allow_only(node, "this", "partition_by", "order", "spec", "alias", "over")
    if str(node.args.get("over") or "OVER").upper() != "OVER":
        raise Refusal("ClauseNotAllowed", "only OVER (…) is allowed", position_of(node))
    if not ctx.aggregates_allowed or ctx.aggregate:
        raise Refusal("AggregateNotAllowedHere", "a window function is not allowed here", position_of(node))
    call = _window_call(node)
    inside = ctx.inside_window()
    text, args = _window_arguments(call, inside)
    over, partition, operands = _over(node, inside)
    suffix = " IGNORE NULLS" if call.ignores_nulls else ""
    if call.where is not None:
        operands.append(value_of(call.where, inside))
        with located_at(node):
            check_condition(operands[-1:], ctx.rules.catalog)
        suffix += f" FILTER(WHERE {operands[-1].sql})"
    with located_at(node):
        operands += window_parts(ctx.scope, partition)
    function = FUNCTIONS[call.name]
    kind = result_type(function, [arg.type for arg in args]) if args else ("long" if call.name == "COUNT" else function.result)
    out = combine(f"{call.name}({text}){suffix} OVER ({over})", kind, ATOM, [*args, *operands], node)
    out.windowed, out.degree = True, None
    return out


def _window_call(node: exp.Window) -> _WindowCall:
    call, where, nulls = node.this, None, None
    if isinstance(call, exp.Filter):
        allow_only(call, "this", "expression")
        allow_only(call.args["expression"], "this")
        call, where = call.this, call.args["expression"].this
    if isinstance(call, exp.IgnoreNulls | exp.RespectNulls):
        allow_only(call, "this")
        call, nulls = call.this, call
    name = called_function(call)
    if not name:
        raise Refusal("FunctionNotAllowed", "this function is not allowed over a window", position_of(node))
    allow_only(call, "this", "expressions")
    function = FUNCTIONS[name]
    allowed = function.kind in ("aggregate", "window") and function.within_group != "required" and not function.describes_grouping
    least = max(function.least, 1 if function.within_group == "instead_of_argument" else 0)
    if not allowed or not least <= len(call.expressions) <= function.most:
        raise Refusal("FunctionNotAllowed", f"{name} is not allowed over a window", position_of(node))
    ignores_nulls = isinstance(nulls, exp.IgnoreNulls)
    if ignores_nulls and not function.accepts_ignore_nulls:
        raise Refusal("FunctionNotAllowed", f"IGNORE NULLS is not allowed with {name}", position_of(node))
    if where is not None and function.kind != "aggregate":
        raise Refusal("FunctionNotAllowed", "FILTER is allowed with an aggregate", position_of(node))
    if len(call.expressions) == 1 and isinstance(call.expressions[0], exp.Distinct):
        raise Refusal("ClauseNotAllowed", f"{name}(DISTINCT …) OVER (…): Spark has no such window; aggregate first", position_of(node))
    return _WindowCall(name, call, where, ignores_nulls)


def _window_arguments(call: _WindowCall, ctx: Context) -> tuple[str, list[Value]]:
    nodes = call.node.expressions
    if len(nodes) == 1 and isinstance(nodes[0], exp.Star) and call.name == "COUNT":
        allow_only(nodes[0])
        return "*", []
    args = values_of(nodes, ctx)
    return ", ".join(arg.sql for arg in args), args


def check_named_windows(ctx: Context) -> None:
    """Check the definitions of the WINDOW clause, including those that no function uses."""
    for definition in ctx.scope.windows.values():
        _over(definition, ctx)


def _over(node: exp.Expr, ctx: Context) -> tuple[str, list[Value], list[Value]]:
    """Text of a window, the values that it partitions by and those that it sorts by."""
    alias = node.args.get("alias")
    if alias is not None:
        node = _definition(alias, node, ctx)
    partition = values_of(node.args.get("partition_by") or [], ctx)
    values: list[Value] = []
    text = []
    if partition:
        text.append("PARTITION BY " + ", ".join(part.sql for part in partition))
    order = node.args.get("order")
    if order is not None:
        allow_only(order, "expressions")
        keys, values = sort_keys(order, ctx)
        text.append("ORDER BY " + ", ".join(keys))
    spec = node.args.get("spec")
    if spec is not None:
        text.append(_frame(spec, node, ctx))
    if alias is not None:
        with located_at(node):
            ctx.findings.expand(sum(map(len, text)))
    return " ".join(text), partition, values


def _definition(alias: exp.Expr, node: exp.Expr, ctx: Context) -> exp.Expr:
    """The definition that ``OVER name`` refers to."""
    definition = ctx.scope.windows.get(alias.name.lower())
    if definition is None or node.args.get("partition_by") or node.args.get("order") or node.args.get("spec"):
        raise Refusal(
            "ClauseNotAllowed",
            f"OVER {strip_invisible(alias.name)[:80]}: a named window of this SELECT cannot be extended; write it out as OVER (…)",
            position_of(node),
        )
    allow_only(definition, "this", "partition_by", "order", "spec")
    return definition


def _frame(spec: exp.Expr, node: exp.Expr, ctx: Context) -> str:
    """``ROWS BETWEEN start AND end``."""
    allow_only(spec, "kind", "start", "start_side", "end", "end_side")
    kind = str(spec.args.get("kind") or "").upper()
    if kind not in ("ROWS", "RANGE"):
        raise Refusal("ClauseNotAllowed", "a window frame is ROWS or RANGE", position_of(node))
    start = _bound(spec.args.get("start"), spec.args.get("start_side"), node, ctx)
    end = "CURRENT ROW"
    if spec.args.get("end") is not None:
        end = _bound(spec.args.get("end"), spec.args.get("end_side"), node, ctx)
    return f"{kind} BETWEEN {start} AND {end}"


def _bound(bound: object, side: object, node: exp.Expr, ctx: Context) -> str:
    if isinstance(bound, str) and bound.upper() == "CURRENT ROW":
        return "CURRENT ROW"
    word = str(side or "").upper()
    if word in ("PRECEDING", "FOLLOWING"):
        if isinstance(bound, str) and bound.upper() == "UNBOUNDED":
            return f"UNBOUNDED {word}"
        if isinstance(bound, exp.Literal) and not bound.is_string and str(bound.this).isdecimal():
            return f"{bound.this} {word}"
        if isinstance(bound, exp.Interval):
            return f"{value_of(bound, ctx).sql} {word}"
    raise Refusal("ClauseNotAllowed", "a frame bound is UNBOUNDED, CURRENT ROW, a whole number or an interval", position_of(node))
