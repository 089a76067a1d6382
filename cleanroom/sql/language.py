"""The language of queries: the nodes of the parser's tree that a query may contain, and the parts that each may have.

Everything else is refused. The checks read every part that is listed here, so that nothing of an accepted query is ignored.
"""

from __future__ import annotations

import difflib
import re

from sqlglot import exp

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.characters import strip_invisible
from cleanroom.sql.verdict import Position
from cleanroom.sql.vocabulary import FUNCTIONS

Node = type[exp.Expr]

_LANGUAGE = """
    Select: with_ distinct expressions limit from_ joins laterals where group having qualify order
    Union Intersect Except: with_ this expression distinct order limit
    Subquery Table CTE: this alias                     With Group Order Distinct Properties: expressions
    TableAlias: this columns                           From Where Having Qualify Neg Not Paren Exists Null Boolean Var: this
    Join: this side kind on using                      Lateral: this view outer alias
    Ordered: this desc nulls_first                     Limit: expression
    Column: this table                                 Identifier: this quoted
    Alias: this alias                                  Star TemporaryProperty CurrentDate CurrentTimestamp:
    Add Sub Mul Div Mod IntDiv: this expression typed safe
    DPipe And Or: this expression safe                 EQ NEQ GT GTE LT LTE NullSafeEQ Is Filter Extract: this expression
    Like ILike RegexpLike: this expression negate      Between: this low high
    In: this expressions query                         Case: this ifs default
    If: this true                                      Literal: this is_string
    Interval: this unit                                Substring: this start length
    Anonymous: this expressions                        Window: this partition_by order spec over
    WindowSpec: kind start start_side end end_side     Create: this kind replace expression properties
"""
LANGUAGE: dict[Node, frozenset[str]] = {
    getattr(exp, name): frozenset(parts.split())
    for names, parts in re.findall(r"((?:\w+ )*\w+):((?: \w+)*)", _LANGUAGE)
    for name in names.split()
}
"""For each allowed kind of node, the parser's names of its allowed parts."""

_CONSTRUCTS = r"""
    sort: SORT BY; write ORDER BY
    cluster: CLUSTER BY; write ORDER BY
    distribute: DISTRIBUTE BY; leave it out
    sample: TABLESAMPLE, which gives each run another result; write WHERE
    hint: a hint; leave it out
    pivots: PIVOT; write SUM(CASE WHEN … THEN … END) with GROUP BY
    recursive: WITH RECURSIVE; write a join for each step
    version when: VERSION AS OF and TIMESTAMP AS OF; leave it out
    symmetric: SYMMETRIC; order the two values
    field unnest: IN without parentheses; write IN (values)
    windows alias: the WINDOW clause; write OVER (…) at each function
    method: NATURAL JOIN; write ON or USING
    offset: OFFSET; write ROW_NUMBER() OVER (ORDER BY …) and a condition
    except_: * EXCEPT; name the columns
    joins: a join in parentheses; write it without them, or as a subquery with an alias
    cube Cube: CUBE; write UNION ALL of one SELECT for each set of keys
    rollup Rollup: ROLLUP; write UNION ALL of one SELECT for each set of keys
    grouping_sets GroupingSets: GROUPING SETS; write UNION ALL of one SELECT for each set of keys
    all: GROUP BY ALL; name the keys
    db: a name of three parts; write relation.column
    Cast TryCast: this cast; write CAST(x AS type) with a type of dataset documents, DECIMAL, FLOAT, SMALLINT or TINYINT
    Tuple: a list in parentheses; compare one column after the other
    Any: ANY; write OR
    All: ALL; write AND
    Bracket: […]; write SPLIT_PART
    Fetch: FETCH; write LIMIT
    WithinGroup: WITHIN GROUP; write PERCENTILE_APPROX(x, p) or MEDIAN(x)
    IgnoreNulls RespectNulls: IGNORE NULLS; write LAST(x, TRUE)
    Escape: ESCAPE; write CONTAINS, STARTSWITH or RLIKE
    NullSafeNEQ: IS DISTINCT FROM; write NOT (a <=> b)
    Values: VALUES; write UNION ALL of SELECTs
    Lambda: a function of elements (x -> …)
    RawString: r'…'; write \\ for each backslash
    Concat: a text after a text; write ||
    BitwiseAnd: &
    BitwiseOr: |
    BitwiseXor: ^
    BitwiseNot: ~
    IntervalSpan: an interval of several units; write their sum
    Dot: a name with a dot here; write relation.column
    Kwarg: a named argument; write the arguments in their order
    SimilarTo: SIMILAR TO; write RLIKE
    JSONExtract: path extraction; write GET_JSON_OBJECT
    Trim: TRIM … FROM; write TRIM(x), LTRIM(x) or RTRIM(x)
    StrPosition: POSITION … IN; write LOCATE(part, x)
    Overlay: OVERLAY; write CONCAT and SUBSTRING
    Schema: a list of columns here; alias them in the SELECT
"""
_NAMED = {
    name: construct
    for names, _, construct in (line.strip().partition(": ") for line in _CONSTRUCTS.strip().splitlines())
    for name in names.split()
}
"""What an author calls a construct outside of the language and may write instead, by the parser's name of a part or a node."""

_CONDITIONS: frozenset[Node] = frozenset(
    {
        exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.Is, exp.Between, exp.In, exp.Like, exp.ILike,
        exp.RegexpLike, exp.Not, exp.And, exp.Or, exp.Exists,
    }
)  # fmt: skip
_SUMS = frozenset[Node]({exp.Add, exp.Sub})
_PRODUCTS = frozenset[Node]({exp.Mul, exp.Div, exp.Mod, exp.IntDiv})
_UNCLEAR: dict[Node, frozenset[Node]] = {
    **dict.fromkeys(_CONDITIONS - {exp.Not, exp.And, exp.Or, exp.Exists}, _CONDITIONS),
    **dict.fromkeys((exp.Extract, exp.Substring), _CONDITIONS),
    **dict.fromkeys(_SUMS, _CONDITIONS | {exp.DPipe}),
    exp.DPipe: _CONDITIONS | _SUMS,
    **dict.fromkeys(_PRODUCTS, _CONDITIONS | _SUMS | {exp.DPipe}),
    exp.Neg: _CONDITIONS | _SUMS | _PRODUCTS | {exp.DPipe},
}
"""For each operator, the operators that need parentheses as its operands, because the parser and Spark may read another order."""
_SYMBOLS = {
    "EQ": "=", "NEQ": "<>", "GT": ">", "GTE": ">=", "LT": "<", "LTE": "<=", "NullSafeEQ": "<=>", "RegexpLike": "RLIKE", "Add": "+", "Sub":
    "-", "Mul": "*", "Div": "/", "Mod": "%", "IntDiv": "DIV", "DPipe": "||", "Neg": "-",
}  # fmt: skip


def check_language(tree: exp.Expr, text: str) -> None:
    """Refuse the statement ``text`` if its tree has a node, a part of a node or an order of operators outside of the language."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        parts = LANGUAGE.get(kind)
        if parts is None:
            raise _outside(node, text)
        if kind is exp.Identifier or kind is exp.Literal:
            continue
        unclear = _UNCLEAR.get(kind)
        children: list[exp.Expr] = []
        for name, part in node.args.items():
            if not part:
                continue
            if name not in parts:
                raise _part_outside(node, name, part)
            if isinstance(part, exp.Expr):
                if unclear is not None and type(part) in unclear:
                    raise _unclear_order(kind, part)
                children.append(part)
            elif type(part) is list:
                children += [item for item in part if isinstance(item, exp.Expr)]
        children.reverse()
        waiting += children


def _outside(node: exp.Expr, text: str) -> Refusal:
    construct = _NAMED.get(type(node).__name__)
    if isinstance(node, exp.Func) and construct is None:
        meta = next((child._meta for child in node.walk() if child._meta), {})
        calls = [text[meta["start"] : meta["end"] + 1]] if node._meta else re.findall(r"(\w+)\s*\(", text[: meta.get("start", 0)])
        return not_listed(calls[-1] if calls else node.sql_name(), node)
    code = "TypeNotAllowed" if isinstance(node, exp.Cast) else "ExpressionNotAllowed"
    return _refusal(code, construct or describe(node), node)


def _part_outside(node: exp.Expr, name: str, part: object) -> Refusal:
    where = next((item for item in (part if isinstance(part, list) else [part]) if isinstance(item, exp.Expr)), node)
    if isinstance(node, exp.Table) and name in ("db", "catalog"):
        written = strip_invisible(".".join(item.name for item in node.parts))[:120]
        text = f"{written!r}: a relation is one plain name; files, formats and catalogues cannot be read"
        return Refusal("MultiPartName", text, position_of(node))
    construct = _NAMED.get(name) or f"{describe(node)} with {name.strip('_').replace('_', ' ').upper()}"
    return _refusal("ClauseNotAllowed", construct, where if position_of(where) else node)


def _refusal(code: str, text: str, node: exp.Expr) -> Refusal:
    construct, _, remedy = text.partition("; ")
    return Refusal(code, f"{construct} is not in the language of queries" + (f"; {remedy}" if remedy else ""), position_of(node))


def _unclear_order(kind: Node, operand: exp.Expr) -> Refusal:
    names = [_SYMBOLS.get(each.__name__, each.__name__.upper()) for each in (type(operand), kind)]
    return Refusal(
        "ParenthesesNeeded",
        f"{names[0]} next to {names[1]} without parentheses: their order is easy to misread; write (…) around one of the two",
        position_of(operand),
    )


def not_listed(name: str, node: exp.Expr) -> Refusal:
    """The refusal of a call of the function ``name``, which is not in the vocabulary."""
    close = difflib.get_close_matches(name.upper(), FUNCTIONS, 1, 0.8) if len(name) > 3 else []
    hint = f"; did you mean {close[0].lower()}?" if close else ""
    shown = strip_invisible(name)[:80]
    return Refusal("FunctionNotAllowed", f"the function {shown} is not on the list of allowed functions{hint}", position_of(node))


def describe(node: exp.Expr) -> str:
    """Name of ``node`` for messages."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", type(node).__name__).upper()


def position_of(node: exp.Expr | None) -> Position | None:
    """Position of the first token below ``node`` that has one, or else of the first one around it."""
    while node is not None:
        for child in node.walk():
            meta = child._meta
            if meta and "line" in meta:
                return Position(line=meta["line"], column=max(1, meta["col"] - (meta["end"] - meta["start"])))
        node = node.parent
    return None
