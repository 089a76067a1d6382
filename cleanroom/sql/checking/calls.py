"""CASE, calls of scalar functions, and casts."""

from __future__ import annotations

from collections.abc import Sequence

from cleanroom.sql.checking.aggregates import aggregate, arguments, window
from cleanroom.sql.checking.values import combine, compared
from cleanroom.sql.context import Context
from cleanroom.sql.model import ATOM, PREDICATE, SUM, Value
from cleanroom.sql.privacy import polynomials
from cleanroom.sql.privacy.aggregates import condition_divisions
from cleanroom.sql.privacy.exposure import check_condition, check_one_relation, choose_rows
from cleanroom.sql.privacy.polynomials import highest_degree
from cleanroom.sql.refusal import Refusal
from cleanroom.sql.rendering import parenthesised
from cleanroom.sql.text.remedies import CONSTRUCTS, not_listed, outside_language, remedy
from cleanroom.sql.text.tokens import NUMBER
from cleanroom.sql.vocabulary import EXTRACT_FIELDS, FUNCTIONS, TYPES, result_type, widest

_SHIFTS = ("DATE_ADD", "DATE_SUB", "ADD_MONTHS", "DATE_TRUNC", "TRUNC", "LAST_DAY")


def case(ctx: Context) -> Value:
    """``CASE WHEN condition THEN x ELSE y END`` and ``CASE subject WHEN value THEN x END``."""
    text = ctx.text
    text.at += 1
    subject = None if text.kinds[text.at] == "WHEN" else ctx.expression()
    parts = ["CASE" if subject is None else f"CASE {parenthesised(subject, ATOM)}"]
    conditions, results = [], []
    text.expect("WHEN")
    while True:
        test = ctx.expression()
        text.expect("THEN")
        result = ctx.expression()
        parts.append(f"WHEN {test.sql} THEN {result.sql}")
        if subject is not None:
            equality = f"{parenthesised(subject, ATOM)} = {parenthesised(test, ATOM)}"
            test = combine(equality, "boolean", PREDICATE, [subject, test])
        conditions.append(test)
        results.append(result)
        if not text.accept("WHEN"):
            break
    if text.accept("ELSE"):
        results.append(ctx.expression())
        parts.append(f"ELSE {results[-1].sql}")
    text.expect("END")
    return _conditional(" ".join([*parts, "END"]), conditions, results, ctx)


def _conditional(sql: str, conditions: Sequence[Value], results: Sequence[Value], ctx: Context) -> Value:
    """A value that is one of ``results``, depending on ``conditions``.

    Inside an aggregate over protected rows, the condition divides the rows of each group, and the floor applies to each part. The value
    is then that of the rows which meet it.
    """
    scope = ctx.scope
    divides = bool(ctx.aggregate) and scope.aggregates_persons
    check_condition(conditions, ctx.catalog)
    if divides:
        choose_rows(conditions, scope, ctx.catalog)
        scope.divide(division for test in conditions for division in condition_divisions(test, ctx.catalog))
        check_one_relation(scope, conditions, [result for result in results if not result.identity])
    degree = highest_degree(results) if divides else None
    for test in conditions:
        if test.identity:
            combine("", "boolean", ATOM, [test])  # refuses it
    kind = widest([result.type for result in results])
    out = combine(sql, kind, ATOM, [*conditions, *results], degree=degree, identity=divides)
    if divides:
        others = results[1:]
        if len(conditions) > 1 or not all(other.type == "null" or other.constant == 0 for other in others):
            raise Refusal(
                "ConditionalAggregate",
                "a CASE or IF inside an aggregate over rows under a privacy floor has one condition, and is 0 or NULL otherwise: write one "
                "aggregate with FILTER (WHERE …) for each case",
            )
        out.conditional, out.selector, out.selected = True, parenthesised(conditions[0], SUM), results[0]
        out.plain = results[0].plain and all(other.type == "null" for other in others)
    complete = len(results) > len(conditions)  # without ELSE it may be NULL
    out.flag = complete and all(result.constant in (0, 1) or result.flag for result in results)
    return out


def call(ctx: Context) -> Value:
    """A call of a function of the vocabulary."""
    text = ctx.text
    start, name = text.at, text.kinds[text.at]
    end = text.closing[start + 1]
    function = FUNCTIONS.get(name)
    if function is None:
        raise text.construct(start) or not_listed(text.values[start])
    if (refusal := text.construct(end + 1)) is not None:
        raise refusal
    text.at += 2
    if name in ("SUBSTRING", "SUBSTR", "TRIM") and any(text.places(end, "FROM")):
        return _substring(name, ctx)
    distinct = text.accept("DISTINCT")
    count = 0 if text.at == end else 1 + sum(1 for _ in text.places(end, ","))
    if not function.least <= count <= function.most:
        takes = f"{function.least} to {function.most}" if function.most > function.least else function.most
        how = remedy(name)
        raise Refusal("WrongArguments", f"{name} takes {takes} arguments, and not {count}{how and '; '}{how}")
    over = text.kinds[end + 1] == "OVER"
    if over and function.kind in ("aggregate", "window") and not distinct:
        return window(name, ctx)
    if function.kind == "aggregate":
        return aggregate(name, distinct, ctx)
    if function.kind == "window":
        raise Refusal("FunctionNotAllowed", f"{name} needs OVER (…)")
    if function.kind == "generator":
        raise Refusal("FunctionNotAllowed", f"{name} is allowed only as LATERAL VIEW {name.lower()}(…)")
    if distinct:
        raise Refusal("WrongArguments", f"{name} takes no DISTINCT")
    value = _scalar(name, ctx)
    if over or text.kinds[text.at : text.at + 2] == ["FILTER", "("]:
        word = text.kinds[text.at]
        raise Refusal(
            "FunctionNotAllowed", f"{word} is allowed with an aggregate{' or a window function' if over else ''}, not with {name}"
        )
    return value


def _scalar(name: str, ctx: Context) -> Value:
    args = arguments(ctx)
    function = FUNCTIONS[name]
    sql = f"{name}({', '.join([arg.sql for arg in args])})"
    if name == "IF":
        return _conditional(sql, args[:1], args[1:], ctx)
    kind = result_type(function, [arg.type for arg in args])
    out = combine(sql, kind, ATOM, args, degree=polynomials.call(function, args))
    out.day = name in _SHIFTS and [arg.day for arg in args if arg.columns] == [True]
    out = compared(out, args) if name in ("DATEDIFF", "DATE_DIFF", "MONTHS_BETWEEN") else out
    out.transformed = out.transformed or (function.degree_rule in ("transforms", "rounds", "days_between") and out.degree == 1)
    if name == "LEAST" and out.degree == 1:
        below = [f"{sql} <> {parenthesised(arg, SUM)}" for arg in args if arg.constant is not None]
        missing = [f"NOT ({arg.sql} IS NOT NULL)" for arg in args if arg.constant is None]  # LEAST(NULL, 5) is 5
        out.capped, out.caps = True, frozenset([*below, *missing])
    out.filled = out.filled or (function.degree_rule == "first_argument" and out.degree == 1)
    return out


def _substring(name: str, ctx: Context) -> Value:
    """``SUBSTRING(x FROM 1 FOR 2)``, rendered as an ordinary call."""
    text = ctx.text
    if name == "TRIM":
        raise outside_language(CONSTRUCTS["BOTH"], text.position())
    parts = [ctx.expression(SUM)]
    text.expect("FROM")
    parts.append(ctx.expression(SUM))
    if text.accept("FOR"):
        parts.append(ctx.expression(SUM))
    text.expect(")")
    return combine(f"SUBSTRING({', '.join(part.sql for part in parts)})", "string", ATOM, parts)


def cast(ctx: Context) -> Value | None:
    """``CAST(x AS type)``."""
    text = ctx.text
    word = text.kinds[text.at]
    text.at += 1
    text.expect("(")
    part = ctx.expression()
    text.expect("AS")
    at = text.at
    name, kind = TYPES.get(text.kinds[at], ("", ""))
    text.at += 1
    sizes = []
    if text.kinds[text.at] == "(":
        end = text.closing[text.at]
        sizes = text.values[text.at + 1 : end : 2]
        shape = text.kinds[text.at + 1 : end]
        if text.kinds[at] not in ("DECIMAL", "DEC", "NUMERIC", "VARCHAR") or shape not in ([NUMBER], [NUMBER, ",", NUMBER]):
            name = ""
        text.at = end + 1
    if not name or text.kinds[text.at] != ")" or not all(size.isdecimal() for size in sizes):
        raise outside_language(CONSTRUCTS["::"], text.position(at))
    text.at += 1
    sizes = sizes if name == "DECIMAL" else []
    exact = polynomials.keeps_value(word, part.type, kind)
    spark_type = f"{name}({', '.join(sizes)})" if sizes else name
    out = combine(f"{word}({part.sql} AS {spark_type})", kind, ATOM, [part], degree=part.degree if exact else None)
    out.factors = polynomials.factors_of(part) if exact else ()
    out.day = part.day and kind in ("date", "timestamp")
    return out


def extract(ctx: Context) -> Value | None:
    """``EXTRACT(field FROM x)``."""
    text = ctx.text
    text.at += 1
    text.expect("(")
    field = text.kinds[text.at]
    if field not in EXTRACT_FIELDS:
        raise Refusal("LiteralNotAllowed", f"EXTRACT takes a field of {', '.join(sorted(EXTRACT_FIELDS))}")
    text.at += 1
    text.expect("FROM")
    part = ctx.expression(SUM)
    text.expect(")")
    return combine(f"EXTRACT({field} FROM {parenthesised(part, SUM)})", "decimal" if field == "SECOND" else "integer", ATOM, [part])
