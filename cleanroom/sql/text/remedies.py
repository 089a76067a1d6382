"""What an author may write instead of constructs and functions that are not in the language of queries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from cleanroom.sql.refusal import Refusal
from cleanroom.sql.verdict import Position
from cleanroom.sql.vocabulary import FUNCTIONS

_CONSTRUCTS = {
    "ClauseNotAllowed": r"""
        SORT = SORT BY; write ORDER BY
        CLUSTER = CLUSTER BY; write ORDER BY
        DISTRIBUTE = DISTRIBUTE BY; leave it out
        TABLESAMPLE = TABLESAMPLE, which gives each run another result; write WHERE
        PIVOT UNPIVOT = PIVOT; write SUM(CASE WHEN … THEN … END) with GROUP BY
        RECURSIVE = WITH RECURSIVE; write a join for each step
        VERSION = VERSION AS OF and TIMESTAMP AS OF; leave it out
        WINDOW = the WINDOW clause; write OVER (…) at each function
        NATURAL = NATURAL JOIN; write ON or USING
        OFFSET = OFFSET; write ROW_NUMBER() OVER (ORDER BY …) and a condition
        CUBE = CUBE; write UNION ALL of one SELECT for each set of keys
        ROLLUP = ROLLUP; write UNION ALL of one SELECT for each set of keys
        GROUPING SETS = GROUPING SETS; write UNION ALL of one SELECT for each set of keys
        FETCH = FETCH; write LIMIT
        TOP = TOP; write LIMIT at the end of the query
        VALUES = VALUES; write UNION ALL of SELECTs
    """,
    "ExpressionNotAllowed": r"""
        SYMMETRIC = SYMMETRIC; order the two values
        ANY SOME = ANY; write OR, or BOOL_OR(x) for an aggregate
        [ ] = […]; write SPLIT_PART
        : ? = a name after a colon; write GET_JSON_OBJECT(column, '$.name')
        WITHIN = WITHIN GROUP; write PERCENTILE_APPROX(x, p) or MEDIAN(x)
        IGNORE RESPECT = IGNORE NULLS; write LAST(x, TRUE)
        ESCAPE = ESCAPE; write CONTAINS, STARTSWITH or RLIKE
        -> = a function of elements (x -> …)
        & = &
        | = |
        ^ = ^; write POWER(x, y)
        ~ = ~
        => = a named argument; write the arguments in their order
        SIMILAR = SIMILAR TO; write RLIKE
        POSITION = POSITION … IN; write LOCATE(part, x)
        OVERLAY = OVERLAY; write CONCAT and SUBSTRING
        BOTH LEADING TRAILING = TRIM … FROM; write TRIM(x), LTRIM(x) or RTRIM(x)
        UNKNOWN ISNULL = IS UNKNOWN or ISNULL after a value; write IS NULL
        NOTNULL = NOTNULL after a value; write IS NOT NULL
    """,
    "TypeNotAllowed": """
        :: = this cast; write CAST(x AS type) with a type of dataset documents, DECIMAL, FLOAT, SMALLINT or TINYINT
    """,
}
CONSTRUCTS = {
    name: f"{code}: {text}"
    for code, table in _CONSTRUCTS.items()
    for names, _, text in (line.strip().partition(" = ") for line in table.strip().splitlines())
    for name in names.split()
}
"""Code of the refusal, and what an author calls a construct outside of the language and may write instead, by the words that name it."""

_FUNCTIONS = """
    IFF: IF
"""


def outside_language(construct: str, position: Position | None) -> Refusal:
    """The refusal of a construct: its code, its name, and what to write instead after a semicolon."""
    code, _, text = construct.partition(": ")
    name, _, remedy = text.partition("; ")
    return Refusal(code, f"{name} is not in the language of queries" + (f"; {remedy}" if remedy else ""), position)


def not_listed(name: str) -> Refusal:
    """The refusal of a call of the function ``name``, which is not in the vocabulary."""
    hint = suggestion(name.lower(), [known.lower() for known in FUNCTIONS if len(name) > 3], 0.8)
    return Refusal("FunctionNotAllowed", f"the function {name[:80]} is not on the list of allowed functions{hint and '; '}{hint}")


def suggestion(name: str, known: Iterable[str], least: float = 0.6, otherwise: str = "") -> str:
    """The name in ``known`` that the author may have meant, as a question."""
    close = difflib.get_close_matches(name, list(known), 1, least)
    return f"did you mean {close[0]}?" if close else otherwise
