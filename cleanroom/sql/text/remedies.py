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
        [ ] = […]; write SPLIT_PART, or a name in backticks
        : ? = a name after a colon; write GET_JSON_OBJECT(column, '$.name')
        WITHIN = WITHIN GROUP; write PERCENTILE_APPROX(x, p), or ARRAY_JOIN(SORT_ARRAY(COLLECT_LIST(x)), ',')
        IGNORE RESPECT = IGNORE NULLS; write LAST(x, TRUE)
        ESCAPE = ESCAPE; write CONTAINS, STARTSWITH or RLIKE
        -> = a function of elements (x -> …)
        & = &; write AND between conditions
        | = |
        ^ = ^; write POWER(x, y)
        ~ = ~; write RLIKE
        => = a named argument; write the arguments in their order
        SIMILAR = SIMILAR TO; write RLIKE
        POSITION = POSITION … IN; write LOCATE(part, x)
        OVERLAY = OVERLAY; write CONCAT and SUBSTRING
        BOTH LEADING TRAILING = TRIM … FROM; write TRIM(x), LTRIM(x) or RTRIM(x)
        UNKNOWN ISNULL = IS UNKNOWN or ISNULL after a value; write IS NULL
        NOTNULL = NOTNULL after a value; write IS NOT NULL
    """,
    "TypeNotAllowed": """
        :: = this cast; write CAST(x AS type) with STRING, INT, BIGINT, DOUBLE, DECIMAL(p, s), BOOLEAN, DATE or TIMESTAMP
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
    IFF IIF = IF(condition, x, y)
    ZEROIFNULL = COALESCE(x, 0)
    NULLIFZERO = NULLIF(x, 0)
    ISNULL = COALESCE(x, y)
    DECODE CHOOSE = CASE x WHEN … THEN … ELSE … END
    DIV0 SAFE_DIVIDE = TRY_DIVIDE(x, y)
    SAFE_CAST TRY_CONVERT TRY_TO_NUMBER TRY_TO_DATE TRY_TO_TIMESTAMP = TRY_CAST(x AS type)
    CONVERT TO_CHAR TO_VARCHAR TO_NUMBER TO_DECIMAL TO_NUMERIC TO_DOUBLE = CAST(x AS type), or DATE_FORMAT(date, pattern)
    STRING_AGG GROUP_CONCAT LISTAGG = ARRAY_JOIN(COLLECT_LIST(x), separator)
    ARRAY_CONCAT_AGG GROUP_ARRAY = COLLECT_LIST(x)
    COUNTIF COUNT_WHERE = COUNT_IF(condition)
    SUMIF SUM_IF AVGIF AVG_IF = SUM(x) FILTER (WHERE condition)
    LOGICAL_OR BOOLOR_AGG = BOOL_OR(condition)
    LOGICAL_AND BOOLAND_AGG = BOOL_AND(condition)
    STDEV STDDEV_SAMPLE = STDDEV(x)
    STDEVP = STDDEV_POP(x)
    VAR = VARIANCE(x)
    VARP = VAR_POP(x)
    PERCENTILE_CONT PERCENTILE_DISC QUANTILE_CONT QUANTILE APPROX_QUANTILES APPROX_QUANTILE = PERCENTILE_APPROX(x, 0.5) without WITHIN GROUP
    APPROX_DISTINCT HLL_COUNT HLL APPROX_COUNT = APPROX_COUNT_DISTINCT(x)
    APPROX_TOP_COUNT TOPK = GROUP BY, ORDER BY and LIMIT
    NTH_VALUE = ROW_NUMBER() OVER (…) in a subquery, and a condition
    RATIO_TO_REPORT = x / SUM(x) OVER ()
    DATEADD TIMESTAMPADD TIMEADD DATETIME_ADD TIMESTAMP_ADD = x + INTERVAL 3 DAYS, or ADD_MONTHS(x, 3)
    DATETIME_SUB TIMESTAMP_SUB = x - INTERVAL 3 DAYS
    DATEDIFF DATE_DIFF TIMESTAMPDIFF TIMESTAMP_DIFF DATETIME_DIFF AGE = DATEDIFF(end, start), or MONTHS_BETWEEN(end, start)
    GETDATE SYSDATE SYSTIMESTAMP SYSDATETIME CURRENT_DATETIME LOCALTIMESTAMP = CURRENT_TIMESTAMP()
    CURDATE TODAY = CURRENT_DATE()
    DATE_PART DATEPART = YEAR(x), MONTH(x), DAY(x) or HOUR(x)
    WEEK ISOWEEK WEEKISO = WEEKOFYEAR(x)
    DAYNAME MONTHNAME DATENAME FORMAT_DATE FORMAT_TIMESTAMP FORMAT_DATETIME STRFTIME = DATE_FORMAT(x, 'EEEE'), with the pattern of Spark
    EOMONTH = LAST_DAY(x)
    DATEFROMPARTS DATE_FROM_PARTS = MAKE_DATE(year, month, day)
    PARSE_DATE STR_TO_DATE = TO_DATE(x, 'yyyy-MM-dd'), with the pattern of Spark
    PARSE_TIMESTAMP PARSE_DATETIME TO_TIMESTAMP_NTZ TO_TIMESTAMP_LTZ = TO_TIMESTAMP(x, 'yyyy-MM-dd HH:mm:ss'), with the pattern of Spark
    DATETIME = TIMESTAMP(x)
    DATE_BIN TIME_SLICE TIME_BUCKET DATETIME_TRUNC TIMESTAMP_TRUNC = DATE_TRUNC('HOUR', x)
    EPOCH TO_EPOCH DATE_TO_UNIX = UNIX_TIMESTAMP(x)
    CHARINDEX STRPOS = LOCATE(part, x)
    STUFF = CONCAT and SUBSTRING
    STRTOK = SPLIT_PART(x, separator, number)
    REGEXP_SUBSTR REGEXP_EXTRACT_ALL = REGEXP_EXTRACT(x, pattern, 0)
    REGEXP_CONTAINS REGEXP_MATCHES REGEXP_MATCH = REGEXP_LIKE(x, pattern)
    REGEXP_COUNT = SIZE(SPLIT(x, pattern)) - 1
    TO_HEX = HEX(x)
    SHA256 SHA512 SHA2_HEX = SHA2(x, 256)
    FARM_FINGERPRINT = XXHASH64(x)
    EDITDISTANCE EDIT_DISTANCE = LEVENSHTEIN(x, y)
    DATALENGTH STRLEN = LENGTH(x)
    JSON_VALUE JSON_QUERY JSON_EXTRACT JSON_EXTRACT_SCALAR JSON_EXTRACT_PATH_TEXT PARSE_JSON FROM_JSON = GET_JSON_OBJECT(x, '$.name')
    ARRAY_LENGTH ARRAY_SIZE CARDINALITY_OF = SIZE(x)
    ARRAY_TO_STRING = ARRAY_JOIN(x, separator)
    GENERATE_SERIES GENERATE_ARRAY GENERATE_DATE_ARRAY = SEQUENCE(first, last)
    UNNEST FLATTEN = LATERAL VIEW EXPLODE(x) t AS column
    TRUNCATE = FLOOR(x), or ROUND(x, digits)
    SQUARE = x * x
    CBRT = POWER(x, 1 / 3)
    DEGREES = x * 180 / PI()
    TAN = SIN(x) / COS(x)
    ATAN = ATAN2(x, 1)
"""
REMEDIES = {
    name: remedy
    for names, _, remedy in (line.strip().partition(" = ") for line in _FUNCTIONS.strip().splitlines())
    for name in names.split()
}
"""What the language has in place of functions of other systems, and of other forms of functions that it has."""


def outside_language(construct: str, position: Position | None) -> Refusal:
    """The refusal of a construct: its code, its name, and what to write instead after a semicolon."""
    code, _, text = construct.partition(": ")
    name, _, remedy = text.partition("; ")
    return Refusal(code, f"{name} is not in the language of queries" + (f"; {remedy}" if remedy else ""), position)


def not_listed(name: str) -> Refusal:
    """The refusal of a call of the function ``name``, which is not in the vocabulary."""
    hint = remedy(name) or suggestion(name.lower(), [known.lower() for known in FUNCTIONS if len(name) > 3], 0.8)
    return Refusal("FunctionNotAllowed", f"the function {name[:80]} is not on the list of allowed functions{hint and '; '}{hint}")


def remedy(name: str) -> str:
    """What an author may write in place of a call of the function ``name``; empty if that is not known."""
    found = REMEDIES.get(name.upper())
    return f"write {found}" if found else ""


def suggestion(name: str, known: Iterable[str], least: float = 0.6, otherwise: str = "") -> str:
    """The name in ``known`` that the author may have meant, as a question."""
    close = difflib.get_close_matches(name, list(known), 1, least)
    return f"did you mean {close[0]}?" if close else otherwise
