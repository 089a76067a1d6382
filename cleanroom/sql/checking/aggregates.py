"""Aggregates and window functions."""

from __future__ import annotations

from sqlglot import exp

from cleanroom.sql.checking.nodes import checks_expression, combine, direction, marked_name, value_of, values_of, whole_number
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, ROWS, ReleasedAggregate, Value
from cleanroom.sql.privacy.aggregates import aggregate_disclosure, condition_divisions, protected_columns
from cleanroom.sql.privacy.exposure import check_condition, check_one_relation
from cleanroom.sql.privacy.rows import window_parts
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.vocabulary import FUNCTIONS, result_type


def aggregate(node: exp.Anonymous, name: str, ctx: Context) -> Value:
    """A call of the aggregate ``name``. A SELECT with an aggregate and without GROUP BY has one group."""
    if not ctx.aggregates_allowed or ctx.aggregate:
        where = "inside another aggregate" if ctx.aggregate else "in this clause"
        raise Refusal("AggregateNotAllowedHere", f"{name} is not allowed {where}")
    if ctx.in_qualify:
        raise Refusal("AggregateNotAllowedHere", f"QUALIFY: give {name}(…) an alias in the SELECT and use that here")
    if ctx.scope.group_keys is None:
        ctx.scope.group_keys = set()
    text, args, distinct = _arguments(node, name, ctx)
    return _result(node, name, f"{name}({text})", args, distinct, ctx)


@checks_expression(exp.Filter)
def filtered_aggregate(node: exp.Expr, ctx: Context) -> Value:
    """``SUM(x) FILTER (WHERE condition)``."""
    call, scope = node.this, ctx.scope
    name = marked_name(call)
    if not isinstance(node.args["expression"], exp.Where) or name not in FUNCTIONS or FUNCTIONS[name].kind != "aggregate":
        raise Refusal("FunctionNotAllowed", "FILTER is allowed with an aggregate")
    value = value_of(call, ctx)
    condition = value_of(node.args["expression"].this, ctx.in_aggregate("FILTER", "condition"))
    text = f"{value.sql} FILTER(WHERE {condition.sql})"
    check_condition([condition], ctx.rules.catalog)
    if scope.aggregates_persons:
        released = scope.released[-1:]
        scope.released[-1:] = [item._replace(where=condition.sql, sql=text) for item in released]
        scope.divide(condition_divisions([condition], ctx.rules.catalog))
        check_one_relation(scope, [condition], [arg for item in released for arg in item.args if not arg.identity])
    condition.ungrouped = False
    out = combine(text, value.type, ATOM, [value, condition])
    out.aggregated, out.ungrouped, out.degree = True, False, None
    return out


def _arguments(node: exp.Anonymous, name: str, ctx: Context) -> tuple[str, list[Value], bool]:
    """Text and values of the arguments, and whether they are DISTINCT."""
    function, nodes, distinct = FUNCTIONS[name], node.expressions, False
    if len(nodes) == 1 and isinstance(nodes[0], exp.Distinct):
        nodes, distinct = nodes[0].expressions, True
        if len(nodes) > function.most:
            raise Refusal("WrongArguments", f"{name} does not take {len(nodes)} arguments")
        if name in ("FIRST", "LAST", "ANY_VALUE"):  # Spark reads FIRST(DISTINCT -x) as a difference with a column called DISTINCT
            raise Refusal("WrongArguments", f"{name}(DISTINCT …) is not allowed; omit DISTINCT")
    if len(nodes) == 1 and isinstance(nodes[0], exp.Star):
        if name != "COUNT" or distinct:
            raise Refusal("WrongArguments", f"{name}(*) is not allowed")
        return "*", [], False
    if len(nodes) > 1 and name == "COUNT" and not distinct:
        raise Refusal("WrongArguments", "COUNT takes one column, or DISTINCT several")
    args = values_of(nodes, ctx.in_aggregate(name, name.lower()))
    for arg in args:
        if arg.windowed:
            raise Refusal("AggregateNotAllowedHere", f"{name} of a window function is not allowed")
        if arg.identity and function.disclosure != "count":
            raise Refusal("IdentityUse", f"{name} of {arg.name}: an identity may only be counted")
    return ("DISTINCT " if distinct else "") + ", ".join([arg.sql for arg in args]), args, distinct


def _result(node: exp.Expr, name: str, sql: str, args: list[Value], distinct: bool, ctx: Context) -> Value:
    scope, use, catalog, function = ctx.scope, name.lower(), ctx.rules.catalog, FUNCTIONS[name]
    if function.disclosure == "condition":
        check_condition(args, catalog)
    released = scope.protected if scope.aggregates_persons else ()
    disclosure = aggregate_disclosure(name, args, distinct=distinct, released=released, catalog=catalog)
    scope.divide(disclosure.divisions)
    if scope.aggregates_persons:
        scope.released.append(ReleasedAggregate(name, tuple(args), distinct, sql=sql))
        for arg in args:
            _warn_of_argument(name, arg, ctx)
    return Value(
        sql,
        result_type(function, [arg.type for arg in args]) if args else "long",
        ATOM,
        max((arg.scale for arg in args), default=1.0),
        disclosure.degree,
        origins=frozenset([(view, column, use) for arg in args for view, column, _ in arg.origins])
        or frozenset([(view, ROWS, use) for view in scope.views]),
        exposed=disclosure.exposed,
        aggregated=True,
        flag=name in ("MIN", "MAX", "ANY_VALUE", "FIRST") and args[0].flag,
        # Rows that a join repeats count several times: an aggregate per person is then another form of the column.
        transformed=any(arg.transformed for arg in args) or (scope.multiplied and function.disclosure == "mixture"),
        mixed=any(arg.mixed for arg in args),
        filled=any(arg.filled for arg in args),
        made_by_text=function.disclosure in ("count", "condition") or any(arg.made_by_text for arg in args),
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


# -- windows ----------------------------------------------------------------------------------------------------------


@checks_expression(exp.Window)
def window(node: exp.Window, ctx: Context) -> Value:
    """A call of an aggregate or a window function over a window."""
    if str(node.args.get("over") or "OVER").upper() != "OVER":
        raise Refusal("ClauseNotAllowed", "only OVER (…) is allowed")
    if not ctx.aggregates_allowed or ctx.aggregate:
        raise Refusal("AggregateNotAllowedHere", "a window function is not allowed here")
    name, nodes = marked_name(node.this), node.this.expressions
    function = FUNCTIONS.get(name)
    if function is None or function.kind not in ("aggregate", "window") or not function.least <= len(nodes) <= function.most:
        raise Refusal("FunctionNotAllowed", f"{name or 'this function'} is not allowed over a window")
    inside = ctx.inside_window()
    args = [] if name == "COUNT" and isinstance(nodes[0], exp.Star) else values_of(nodes, inside)
    over, partition, operands = _over(node, inside)
    operands += window_parts(ctx.scope, partition)
    if ctx.scope.group_keys is None:  # the text may choose rows of each person
        ctx.scope.overlapping = ctx.scope.overlapping or bool(ctx.scope.protected)
    kind = result_type(function, [arg.type for arg in args]) if args or name != "COUNT" else "long"
    text = ", ".join(arg.sql for arg in args) if args or name != "COUNT" else "*"
    out = combine(f"{name}({text}) OVER ({over})", kind, ATOM, [*args, *operands])
    out.windowed, out.degree = True, None
    return out


def _over(node: exp.Expr, ctx: Context) -> tuple[str, list[Value], list[Value]]:
    """Text of a window, the values that it partitions by and those that it sorts by."""
    partition = values_of(node.args.get("partition_by") or [], ctx)
    values: list[Value] = []
    text = ["PARTITION BY " + ", ".join(part.sql for part in partition)] if partition else []
    order, frame = node.args.get("order"), node.args.get("spec")
    if order is not None:
        values = values_of([item.this for item in order.expressions], ctx)
        keys = zip(values, order.expressions, strict=True)
        text.append("ORDER BY " + ", ".join(value.sql + direction(item) for value, item in keys))
    if frame is not None:
        kind = str(frame.args.get("kind") or "").upper()
        bounds = [_bound(frame.args.get(end), frame.args.get(f"{end}_side"), ctx) for end in ("start", "end")]
        if kind not in ("ROWS", "RANGE") or None in bounds:
            how = "a window frame is ROWS or RANGE BETWEEN two of UNBOUNDED, CURRENT ROW, a whole number or an interval"
            raise Refusal("ClauseNotAllowed", how)
        text.append(f"{kind} BETWEEN {bounds[0]} AND {bounds[1]}")
    return " ".join(text), partition, values


def _bound(bound: object, side: object, ctx: Context) -> str | None:
    """Text of the bound of a frame; None if it is not in the language. ``ROWS start`` ends at the current row."""
    word = str(side or "").upper()
    if bound is None or str(bound).upper() == "CURRENT ROW":
        return "CURRENT ROW"
    if word not in ("PRECEDING", "FOLLOWING"):
        return None
    if str(bound).upper() == "UNBOUNDED":
        return f"UNBOUNDED {word}"
    if isinstance(bound, exp.Interval):
        return f"{value_of(bound, ctx).sql} {word}"
    return f"{bound.this} {word}" if whole_number(bound) and isinstance(bound, exp.Literal) else None
