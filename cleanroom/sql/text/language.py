"""The language of queries: the nodes of the parser's tree that a query may contain, with their parts and words.

Everything else is refused. The checks read every part that is listed here, so that nothing of an accepted query is ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from sqlglot import exp

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.text.tokens import strip_invisible
from cleanroom.sql.verdict import Position
from cleanroom.sql.vocabulary import FUNCTIONS

Node = type[exp.Expr]
ANY_JOIN = "\0"
SAME = {"==": "=", "!=": "<>", "!": "NOT", "REGEXP": "RLIKE", "MINUS": "EXCEPT", "TEMP": "TEMPORARY", "SUBSTR": "SUBSTRING"}
"""Words with other spellings. Names may be such words too, so the words of both sides are replaced."""


class Form(NamedTuple):
    """What a node of one kind consists of."""

    parts: dict[str, tuple[str, ...]]  # the parser's names of the allowed parts, each with the words that it adds
    lists: frozenset[str]  # parts with commas between their members
    words: tuple[str, ...]  # words of the node itself


_LANGUAGE = """
    Select: with_ SELECT distinct expressions, from_ joins laterals where group having qualify order limit
    Union: with_ this UNION expression distinct order limit; Intersect: with_ this INTERSECT expression distinct order limit
    Except: with_ this EXCEPT expression distinct order limit; With: WITH expressions,; CTE: alias ( this ); Subquery: ( this ) alias
    Table: this alias; TableAlias: this columns,:(:); From: FROM this; Join: side kind JOIN this on:ON using,:USING:(:)
    Lateral: LATERAL view:VIEW outer:OUTER this alias; Where: WHERE this; Group: GROUP BY expressions,; Having: HAVING this
    Qualify: QUALIFY this; Order: ORDER BY expressions,; Ordered: this desc:DESC nulls_first; Limit: LIMIT expression
    Create: CREATE replace:OR:REPLACE properties kind this expression; Properties: expressions; TemporaryProperty: TEMPORARY

    Alias: this alias; Column: table:. this; Identifier: this quoted; Star: *; Literal: this is_string; Null: NULL this; Boolean: this
    Var: this; CurrentDate: CURRENT_DATE; CurrentTimestamp: CURRENT_TIMESTAMP; Interval: INTERVAL this unit; Paren: ( this )
    Anonymous: this ( expressions, ); Distinct: DISTINCT expressions,; Filter: this FILTER ( expression )
    Window: this over ( partition_by,:PARTITION:BY order spec ); WindowSpec: kind start start_side end:BETWEEN:AND end_side
    Extract: EXTRACT ( this FROM expression ); Substring: SUBSTRING ( this start:FROM length:FOR )

    Add: this + expression typed safe; Sub: this - expression typed safe; Mul: this * expression typed safe; Neg: - this
    Div: this / expression typed safe; Mod: this % expression typed safe; IntDiv: this DIV expression typed safe
    DPipe: this || expression safe; And: this AND expression safe; Or: this OR expression safe; Not: NOT this
    EQ: this = expression; NEQ: this <> expression; GT: this > expression; GTE: this >= expression; LT: this < expression
    LTE: this <= expression; NullSafeEQ: this <=> expression; Is: this IS expression; Between: this BETWEEN low AND high
    In: this IN expressions,:(:) query; Exists: EXISTS ( this ); Like: this negate:NOT LIKE expression
    ILike: this negate:NOT ILIKE expression; RegexpLike: this negate:NOT RLIKE expression
    Case: CASE this ifs default:ELSE END; If: WHEN this THEN true
"""
"""For each kind of node, its words, and its parts in lower case: with ``,`` for a list, and ``:`` before each word that they add."""


def _form(text: str) -> Form:
    items = [item.partition(":") for item in text.split()]
    parts = {name.rstrip(","): tuple(more.split(":")) if more else () for name, _, more in items if name[0].islower()}
    lists = frozenset([name.rstrip(",") for name, _, _ in items if name[0].islower() and name.endswith(",")])
    return Form(parts, lists, tuple(name for name, _, _ in items if not name[0].islower()))


LANGUAGE: dict[Node, Form] = {
    getattr(exp, name): _form(text) for name, text in re.findall(r"(\w+): (.+?)(?:; (?=\w)|$)", _LANGUAGE, re.MULTILINE)
}
"""The form of each kind of node that a query may contain, by kind."""

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
    Placeholder: a name after a colon; write GET_JSON_OBJECT(column, '$.name')
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
    UNKNOWN ISNULL: IS UNKNOWN or ISNULL after a value; write IS NULL
    NOTNULL: NOTNULL after a value; write IS NOT NULL
    IS: NOT NULL after a value; write IS NOT NULL
    +: a sign + before a value; leave it out
    ON: a JOIN without ON; write CROSS JOIN
"""
CONSTRUCTS = {
    name: construct
    for names, _, construct in (line.strip().partition(": ") for line in _CONSTRUCTS.strip().splitlines())
    for name in names.split()
}
"""What an author calls a construct outside of the language and may write instead.

By the parser's name of a part or a node, or by a word that the parser skips over or adds.
"""

_CONDITIONS: frozenset[Node] = frozenset(
    {
        exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.Is, exp.Between, exp.In, exp.Like, exp.ILike,
        exp.RegexpLike, exp.Not, exp.And, exp.Or, exp.Exists,
    }
)  # fmt: skip
_SUMS = frozenset[Node]({exp.Add, exp.Sub})
_PRODUCTS = frozenset[Node]({exp.Mul, exp.Div, exp.Mod, exp.IntDiv})
UNCLEAR: dict[Node, frozenset[Node]] = {
    **dict.fromkeys(_CONDITIONS - {exp.Not, exp.And, exp.Or, exp.Exists}, _CONDITIONS),
    **dict.fromkeys((exp.Extract, exp.Substring), _CONDITIONS),
    **dict.fromkeys(_SUMS, _CONDITIONS | {exp.DPipe}),
    exp.DPipe: _CONDITIONS | _SUMS,
    **dict.fromkeys(_PRODUCTS, _CONDITIONS | _SUMS | {exp.DPipe}),
    exp.Neg: _CONDITIONS | _SUMS | _PRODUCTS | {exp.DPipe},
}
"""For each operator, the operators that need parentheses as its operands, because the parser and Spark may read another order."""


_CLAUSES = (
    "with_",
    "this",
    "expression",
    "from_",
    "joins",
    "laterals",
    "expressions",
    "where",
    "group",
    "having",
    "qualify",
    "order",
    "limit",
)
"""Clauses of a query in the order of Spark's grammar, in which SELECT may also stand before FROM. The parser reads them in any order."""


def _check_order(query: exp.Expr) -> None:
    places: dict[str, tuple[int, int]] = {}
    for name in _CLAUSES:
        part = query.args.get(name)
        clause = part[0] if isinstance(part, list) and part else part
        token = next((child._meta for child in clause.walk() if child._meta), None) if isinstance(clause, exp.Expr) else None
        if token and isinstance(clause, exp.Expr):
            places[name] = token["line"], token["col"]
            if name == "expressions" and places[name] < places.get("from_", (0, 0)):
                del places[name]
            elif places[name] < max(places.values()):
                order = "SELECT, FROM, JOIN, LATERAL VIEW, WHERE, GROUP BY, HAVING, QUALIFY, ORDER BY, LIMIT"
                raise Refusal("Unparsable", f"the clauses of a query stand in the order {order}", position_of(clause))


def check_language(tree: exp.Expr, text: str) -> list[str]:
    """Refuse the statement ``text`` if its tree has a node, a part of a node or an order of operators outside of the language.

    Returns:
        The words of the tree. :data:`ANY_JOIN` is among them for each join that may also be a comma.
    """
    waiting, words = [tree], list[str]()
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind is exp.Identifier or kind is exp.Literal:
            word = node.args["this"]
            words.append(SAME.get(word.upper(), word.upper()) if kind is exp.Identifier else f"'{word}")
            continue
        form = LANGUAGE.get(kind)
        if form is None:
            raise _outside(node, text)
        if isinstance(node, exp.Query) and kind is not exp.Subquery:
            _check_order(node)
        unclear = UNCLEAR.get(kind)
        words += form.words
        for name, part in node.args.items():
            if not part:
                continue
            if name not in form.parts:
                raise _part_outside(node, name, part)
            words += form.parts[name]
            if isinstance(part, exp.Expr):
                if unclear is not None and type(part) in unclear:
                    raise unclear_order(node, part)
                waiting.append(part)
            elif type(part) is list:
                waiting += [item for item in part if isinstance(item, exp.Expr)]
                if name in form.lists:
                    words += [","] * (len(part) - 1)
            elif type(part) is str:
                words += part.upper().split(" ")
        if kind in _SPECIAL:
            words += _other_words(node)
    return words


_SPECIAL = frozenset[Node]({exp.Boolean, exp.Union, exp.Intersect, exp.Except, exp.Join, exp.Where, exp.Having, exp.Qualify})


_SINGLE_WORDS = (exp.Column, exp.Boolean, exp.Null, exp.CurrentDate, exp.CurrentTimestamp)


def _other_words(node: exp.Expr) -> list[str]:
    """Words that depend on the values of parts."""
    if isinstance(node, exp.Boolean):
        return [str(node.this).upper()]
    if isinstance(node, exp.SetOperation):
        return [] if node.args.get("distinct") else ["ALL"]
    if isinstance(node, exp.Join):
        return [] if any(node.args.get(name) for name in ("side", "on", "using")) else [ANY_JOIN]
    if isinstance(node.this, exp.Paren) and isinstance(node.this.this, _SINGLE_WORDS):
        word = LANGUAGE[type(node)].words[0]  # Spark reads it as an alias with a list of columns
        raise Refusal("ParenthesesNeeded", f"{word} (…) around one word: leave the parentheses out", position_of(node))
    return []


def _outside(node: exp.Expr, text: str) -> Refusal:
    construct = CONSTRUCTS.get(type(node).__name__)
    if isinstance(node, exp.Func) and construct is None:
        meta = next((child._meta for child in node.walk() if child._meta), {})
        calls = [text[meta["start"] : meta["end"] + 1]] if node._meta else re.findall(r"(\w+)\s*\(", text[: meta.get("start", 0)])
        return not_listed(calls[-1] if calls else node.sql_name(), node)
    code = "TypeNotAllowed" if isinstance(node, exp.Cast) else "ExpressionNotAllowed"
    return outside_language(code, construct or describe(node), position_of(node))


def _part_outside(node: exp.Expr, name: str, part: object) -> Refusal:
    where = next((item for item in (part if isinstance(part, list) else [part]) if isinstance(item, exp.Expr)), node)
    if isinstance(node, exp.Table) and name in ("db", "catalog"):
        written = strip_invisible(".".join(item.name for item in node.parts))[:120]
        text = f"{written!r}: a relation is one plain name; files, formats and catalogues cannot be read"
        return Refusal("MultiPartName", text, position_of(node))
    construct = CONSTRUCTS.get(name) or f"{describe(node)} with {name.strip('_').replace('_', ' ').upper()}"
    return outside_language("ClauseNotAllowed", construct, position_of(where))


def outside_language(code: str, text: str, position: Position | None) -> Refusal:
    """The refusal of a construct outside of the language; ``text`` is its name, and what to write instead after a semicolon."""
    construct, _, remedy = text.partition("; ")
    return Refusal(code, f"{construct} is not in the language of queries" + (f"; {remedy}" if remedy else ""), position)


def unclear_order(node: exp.Expr, operand: exp.Expr) -> Refusal:
    """The refusal of an operand that needs parentheses."""
    names = [" ".join(LANGUAGE[type(each)].words) or "()" for each in (operand, node)]
    return Refusal(
        "ParenthesesNeeded",
        f"{names[0]} next to {names[1]} without parentheses: their order is easy to misread; write (…) around one of the two",
        position_of(operand),
    )


def not_listed(name: str, node: exp.Expr) -> Refusal:
    """The refusal of a call of the function ``name``, which is not in the vocabulary."""
    hint = suggestion(name.lower(), [known.lower() for known in FUNCTIONS if len(name) > 3], 0.8)
    text = f"the function {strip_invisible(name)[:80]} is not on the list of allowed functions{hint and '; '}{hint}"
    return Refusal("FunctionNotAllowed", text, position_of(node))


def suggestion(name: str, known: Iterable[str], least: float = 0.6, otherwise: str = "") -> str:
    """The name in ``known`` that the author may have meant, as a question."""
    close = difflib.get_close_matches(name, list(known), 1, least)
    return f"did you mean {close[0]}?" if close else otherwise


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
