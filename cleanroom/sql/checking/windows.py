"""Window functions: ``function(...) OVER (...)`` and the WINDOW clause."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from cleanroom.sql.checking.combining import combine
from cleanroom.sql.checking.dispatch import checks_expression, value_of, values_of
from cleanroom.sql.checking.nodes import allow_only, called_function, located_at, position_of
from cleanroom.sql.checking.ordering import sort_keys
from cleanroom.sql.context import Context
from cleanroom.sql.model import Value
from cleanroom.sql.precedence import ATOM
from cleanroom.sql.privacy.exposure import check_condition
from cleanroom.sql.privacy.rows import window_parts
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.spark_types import result_type
from cleanroom.sql.text.characters import strip_invisible
from cleanroom.sql.vocabulary import FUNCTIONS


@dataclass(frozen=True, slots=True)
class _Call:
    """The function of a window, with its modifiers.

    Attributes:
        name: Name of the function.
        node: The call.
        where: Condition of FILTER.
        ignores_nulls: IGNORE NULLS follows the call.
    """

    name: str
    node: exp.Anonymous
    where: exp.Expr | None
    ignores_nulls: bool


@checks_expression(exp.Window)
def window(node: exp.Window, ctx: Context) -> Value:
    """A call of an aggregate or a window function over a window."""
    allow_only(node, "this", "partition_by", "order", "spec", "alias", "over")
    if str(node.args.get("over") or "OVER").upper() != "OVER":
        raise Refusal("ClauseNotAllowed", "only OVER (…) is allowed", position_of(node))
    if not ctx.aggregates_allowed or ctx.aggregate:
        raise Refusal("AggregateNotAllowedHere", "a window function is not allowed here", position_of(node))
    call = _call_of(node)
    inside = ctx.inside_window()
    text, args = _arguments(call, inside)
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


def _call_of(node: exp.Window) -> _Call:
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
    return _Call(name, call, where, ignores_nulls)


def _arguments(call: _Call, ctx: Context) -> tuple[str, list[Value]]:
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
