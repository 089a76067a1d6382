"""Aggregates, FILTER, and window functions."""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.sql.checking.constants import interval
from cleanroom.sql.checking.values import combine
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, NO_NAMES, ROWS, SUM, Value
from cleanroom.sql.privacy.aggregates import aggregate_disclosure, condition_divisions, protected_columns, release_aggregate
from cleanroom.sql.privacy.exposure import check_condition, check_one_relation, choose_rows
from cleanroom.sql.privacy.rows import window_parts
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised
from cleanroom.sql.scope import Scope
from cleanroom.sql.text.remedies import CONSTRUCTS, outside_language
from cleanroom.sql.text.tokens import NUMBER, Tokens
from cleanroom.sql.vocabulary import FUNCTIONS, result_type


def arguments(ctx: Context, star: bool = False) -> list[Value]:
    """Read arguments and the closing parenthesis; none after ``*``."""
    values = [] if star or ctx.text.kinds[ctx.text.at] == ")" else ctx.expressions()
    ctx.text.expect(")")
    return values


def aggregate(name: str, distinct: bool, ctx: Context) -> Value:
    """A call of the aggregate ``name`` after its opening parenthesis, with FILTER."""
    text = ctx.text
    star = text.accept("*")
    _check_place(name, distinct, star, ctx)
    args = arguments(ctx.in_aggregate(name, name.lower()), star)
    value, where = _value(name, args, distinct, ctx), ""
    if text.accept("FILTER", "("):
        text.expect("WHERE")
        test = ctx.in_aggregate("FILTER", "condition").expression()
        text.expect(")")
        value, where = _filtered(value, args, test, ctx), parenthesised(test, SUM)
    value.mixed = 0 if ctx.scope.one_row_each or ctx.scope.aggregates_persons else value.mixed
    if ctx.scope.aggregates_persons:
        value.sql = release_aggregate(ctx.scope, name, args, distinct, where, value.sql, ctx.catalog)
    return value


def _check_place(name: str, distinct: bool, star: bool, ctx: Context) -> None:
    """Refuse a call of the aggregate ``name`` that is not allowed here. A SELECT with an aggregate and without GROUP BY has one group."""
    if not ctx.aggregates_allowed or ctx.aggregate:
        where = "inside another aggregate" if ctx.aggregate else "in this clause"
        raise Refusal("AggregateNotAllowedHere", f"{name} is not allowed {where}")
    if ctx.in_qualify:
        raise Refusal("AggregateNotAllowedHere", f"QUALIFY: give {name}(…) an alias in the SELECT and use that here")
    if distinct and name in ("FIRST", "LAST", "ANY_VALUE"):  # Spark reads FIRST(DISTINCT -x) as a difference with a column called DISTINCT
        raise Refusal("WrongArguments", f"{name}(DISTINCT …) is not allowed; omit DISTINCT")
    if star and (name != "COUNT" or distinct):
        raise Refusal("WrongArguments", f"{name}(*) is not allowed")
    if ctx.scope.group_keys is None:
        ctx.scope.group_keys = {}


def _value(name: str, args: Sequence[Value], distinct: bool, ctx: Context) -> Value:
    """The value of an aggregate; COUNT without arguments is ``COUNT(*)``."""
    scope, use, catalog, function = ctx.scope, name.lower(), ctx.catalog, FUNCTIONS[name]
    if len(args) > 1 and name == "COUNT" and not distinct:
        raise Refusal("WrongArguments", "COUNT takes one column, or DISTINCT several")
    for arg in args:
        if arg.windowed:
            raise Refusal("AggregateNotAllowedHere", f"{name} of a window function is not allowed")
        if arg.identity and function.disclosure != "count":
            raise Refusal("IdentityUse", f"{name} of {arg.name}: an identity may only be counted")
    sql = f"{name}({'DISTINCT ' if distinct else ''}{', '.join([arg.sql for arg in args]) or '*'})"
    if function.disclosure == "condition":
        check_condition(args, catalog)
        choose_rows(args, scope, catalog)
    released = scope.protected if scope.aggregates_persons else ()
    if released and function.disclosure == "count" and (distinct or name != "COUNT"):
        _check_counted(name, args, scope)
    disclosure = aggregate_disclosure(name, args, distinct=distinct, released=released, catalog=catalog)
    scope.divide(disclosure.divisions)
    for arg in args if scope.aggregates_persons else ():
        _warn_of_argument(name, arg, ctx)
    kind = result_type(function, [arg.type for arg in args]) if args else "long"
    out = combine(sql, kind, ATOM, args, identity=True)
    origins = frozenset([(view, column, use) for arg in args for view, column, _ in arg.origins])
    # How many rows of a person are aggregated is no data of the author.
    rows = scope.views if not origins else {item.view for item in scope.protected if scope.per_person}
    out.origins = origins | {(view, ROWS, use) for view in rows}
    out.exposed, out.degree, out.aggregated = disclosure.exposed, disclosure.degree, True
    out.identity = out.ungrouped = False
    out.sources = out.outer_join_markers = out.caps = NO_NAMES
    out.flag = name in ("MIN", "MAX", "ANY_VALUE", "FIRST") and args[0].flag
    out.day = name in ("MIN", "MAX") and args[0].day
    out.step = f"{name}{' of repeated rows' if scope.repeats or scope.multiplied else ''}({out.step})"
    out.capped = out.capped and function.disclosure != "count"
    out.made_by_text = out.made_by_text or function.disclosure in ("count", "condition")
    return out


def _check_counted(name: str, args: Sequence[Value], scope: Scope) -> None:
    """Refuse a count of different values that are not identities: an address may be another name of a person."""
    same, text = scope.equal.representative, (args[0].selected or args[0]).sql
    persons = {scope.equal.person(item.reference) for item in scope.protected}
    union = args[0].identity and scope.equal.person(text) not in persons  # it is that of several views
    if name != "COUNT" or len(args) > 1 or not (union or same(text) in {same(item.reference) for item in scope.protected}):
        raise Refusal(
            "DistinctOverFloor",
            f"{name} of different values over rows under a privacy floor is one of persons: COUNT(DISTINCT <identity>); group by others, "
            "or count them per person first, with GROUP BY the identity, and add the counts up",
        )


def _filtered(value: Value, args: Sequence[Value], condition: Value, ctx: Context) -> Value:
    """``SUM(x) FILTER (WHERE condition)``."""
    scope = ctx.scope
    check_condition([condition], ctx.catalog)
    choose_rows([condition], scope, ctx.catalog)
    if scope.aggregates_persons:
        scope.divide(condition_divisions(condition, ctx.catalog))
        check_one_relation(scope, [condition], [arg for arg in args if not arg.identity])
    out = combine(f"{value.sql} FILTER(WHERE {condition.sql})", value.type, ATOM, [value, condition])
    out.aggregated, out.ungrouped, out.degree = True, False, None
    return out


def _warn_of_argument(name: str, arg: Value, ctx: Context) -> None:
    """Record that an aggregate over several persons contains a product, or values of a view without a floor."""
    catalog, mixture = ctx.catalog, FUNCTIONS[name].disclosure == "mixture"
    columns = [f"{view}.{column}" for view, column in protected_columns(arg, catalog)]
    if mixture and columns and (arg.degree or 0) > 1:
        ctx.findings.warn("ProductOfColumns", f"{name} of a product of {', '.join(columns)}")
    own = sorted({f"{view}.{column}" for view, column, _ in arg.origins if not catalog.has_floor(view)})
    if mixture and own:
        ctx.findings.warn("OwnDataAsWeights", f"{name} of {', '.join(own)}, which has no floor: values per person can mark persons in it")


# -- windows ----------------------------------------------------------------------------------------------------------


def window(name: str, ctx: Context) -> Value:
    """A call of an aggregate or a window function over a window, after its opening parenthesis."""
    text = ctx.text
    if not ctx.aggregates_allowed or ctx.aggregate:
        raise Refusal("AggregateNotAllowedHere", "a window function is not allowed here")
    inside = ctx._replace(clause="window")
    star = name == "COUNT" and text.accept("*")
    args = arguments(inside, star)
    text.expect("OVER")
    if text.kinds[text.at] != "(":
        raise outside_language(CONSTRUCTS["WINDOW"], text.position())
    text.at += 1
    partition, operands, over = list[Value](), list(args), list[str]()
    if text.accept("PARTITION"):
        text.expect("BY")
        partition = inside.expressions()
        over.append("PARTITION BY " + ", ".join(part.sql for part in partition))
    if text.accept("ORDER"):
        text.expect("BY")
        keys = text.listed(lambda: (inside.expression(), direction(text)))
        operands += [key for key, _ in keys]
        over.append("ORDER BY " + ", ".join(key.sql + how for key, how in keys))
    if text.kinds[text.at] in ("ROWS", "RANGE"):
        over.append(_frame(ctx))
    text.expect(")")
    operands += window_parts(ctx.scope, partition)
    if ctx.scope.group_keys is None:  # the text may choose rows of each person
        ctx.scope.overlapping = ctx.scope.overlapping or bool(ctx.scope.protected)
    kind = "long" if star else result_type(FUNCTIONS[name], [arg.type for arg in args])
    shown = "*" if star else ", ".join(arg.sql for arg in args)
    out = combine(f"{name}({shown}) OVER ({' '.join(over)})", kind, ATOM, operands)
    out.windowed, out.degree = True, None
    rows = ctx.scope.views if not out.origins else {item.view for item in ctx.scope.protected}
    out.origins |= {(view, ROWS, "window") for view in rows}
    return out


def _frame(ctx: Context) -> str:
    """The frame of a window. ``ROWS start`` ends at the current row."""
    text = ctx.text
    text.at += 1
    kind = text.kinds[text.at - 1]
    if not text.accept("BETWEEN"):
        return f"{kind} BETWEEN {_bound(ctx)} AND CURRENT ROW"
    start = _bound(ctx)
    text.expect("AND")
    return f"{kind} BETWEEN {start} AND {_bound(ctx)}"


def _bound(ctx: Context) -> str:
    text = ctx.text
    if text.accept("CURRENT", "ROW"):
        return "CURRENT ROW"
    if text.accept("UNBOUNDED"):
        amount = "UNBOUNDED"
    elif text.kinds[text.at] == "INTERVAL" and (value := interval(ctx)) is not None:
        amount = value.sql
    else:
        amount = text.values[text.at] if text.kinds[text.at] == NUMBER else ""
        text.at += 1
    word = text.kinds[text.at]
    if not (amount.isdecimal() or amount.startswith(("UNBOUNDED", "INTERVAL"))) or word not in ("PRECEDING", "FOLLOWING"):
        how = "a window frame is ROWS or RANGE BETWEEN two of UNBOUNDED, CURRENT ROW, a whole number or an interval"
        raise Refusal("ClauseNotAllowed", how, text.position(text.at - 1))
    text.at += 1
    return f"{amount} {word}"


def direction(text: Tokens) -> str:
    """Read the direction of a sort key. The rendering states where NULLs go, so that every engine sorts alike."""
    descending = text.accept("DESC") or (text.accept("ASC") and False)
    first = not descending
    if text.accept("NULLS"):
        first = text.accept("FIRST")
        if not first:
            text.expect("LAST")
    return f" {'DESC' if descending else 'ASC'} NULLS {'FIRST' if first else 'LAST'}"
