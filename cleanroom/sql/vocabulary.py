"""The functions that a query may call, by their Spark names, and the types that it may cast to. Everything else is refused.

The list omits on purpose:

* reflection (``reflect``, ``java_method``) and the environment (``current_user``, ``version``, ``input_file_name``);
* randomness (``rand``, ``uuid``, ``shuffle``) and the physical layout (``monotonically_increasing_id``, ``spark_partition_id``);
* side channels by failure (``raise_error``, ``assert_true``);
* schema readers, higher-order functions, sketches, and generators other than ``explode`` and ``posexplode``;
* functions of newer Spark versions until they have been reviewed.

Reference: https://spark.apache.org/docs/latest/api/sql/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["scalar", "aggregate", "window", "generator"]
DegreeRule = Literal["none", "first_argument", "days_between", "transforms", "rounds"]
Disclosure = Literal["count", "condition", "mixture", "extreme", "value"]


class Function(NamedTuple):
    """An allowed function."""

    kind: Kind  # where the function may be called
    least: int  # smallest number of arguments
    most: int  # largest number of arguments
    result: str  # A type, or the rule by which the type follows from the arguments; see result_type
    degree_rule: DegreeRule = "none"  # how the result depends on protected columns; see polynomials
    disclosure: Disclosure = "value"  # what the result of an aggregate reveals about the rows; see aggregates


def _functions(kind: Kind, table: str, disclosure: Disclosure = "value") -> dict[str, Function]:
    """Parse lines of ``result: NAME/arguments NAME/least-most``."""
    functions = {}
    for line in table.split("\n"):
        result, _, names = line.strip().partition(":")
        for item in names.split():
            name, _, arity = item.partition("/")
            least, _, most = arity.partition("-")
            functions[name] = Function(kind, int(least), int(most or least), result, disclosure=disclosure)
    return functions


_TRAITS: dict[str, dict[str, Any]] = {
    **{name: {"degree_rule": "days_between"} for name in ("DATE_DIFF", "DATEDIFF")},
    **{name: {"degree_rule": "first_argument"} for name in ("COALESCE", "NVL", "IFNULL")},
    **{name: {"degree_rule": "transforms"} for name in ("LEAST", "LN", "LOG10", "LOG2", "LOG1P")},
    **{name: {"degree_rule": "rounds"} for name in ("ROUND", "BROUND")},
}
"""Properties that the tables below do not state."""

_LISTED: dict[str, Function] = {
    **_functions(
        "scalar",
        """
        first: ABS/1 PMOD/2 MOD/2 NULLIF/2 ROUND/1-2 BROUND/1-2 TRY_ADD/2 TRY_SUBTRACT/2 TRY_MULTIPLY/2 REVERSE/1 ARRAY_DISTINCT/1
        first: SORT_ARRAY/1-2
        all: COALESCE/1-32 IFNULL/2 NVL/2 GREATEST/2-32 LEAST/2-32
        rest: IF/3 NVL2/3
        long: CEIL/1 CEILING/1 FLOOR/1 UNIX_TIMESTAMP/1-2 UNIX_SECONDS/1 UNIX_MILLIS/1 XXHASH64/1-32 CRC32/1 BIGINT/1 WIDTH_BUCKET/4
        number: SQRT/1 EXP/1 LN/1 LOG/1-2 LOG10/1 LOG2/1 LOG1P/1 POW/2 POWER/2 SIGN/1 SIGNUM/1 TRY_DIVIDE/2 MONTHS_BETWEEN/2-3 DOUBLE/1
        number: SIN/1 COS/1 ASIN/1 ACOS/1 ATAN2/2 RADIANS/1 PI/0
        boolean: ISNULL/1 ISNOTNULL/1 STARTSWITH/2 ENDSWITH/2 CONTAINS/2 REGEXP_LIKE/2 BOOLEAN/1 ARRAY_CONTAINS/2
        string: UPPER/1 UCASE/1 LOWER/1 LCASE/1 TRIM/1-2 BTRIM/1-2 LTRIM/1-2 RTRIM/1-2 SUBSTRING/2-3 SUBSTR/2-3 LEFT/2 RIGHT/2
        string: CONCAT/1-32 CONCAT_WS/2-32 REPLACE/2-3 TRANSLATE/3 LPAD/2-3 RPAD/2-3 REPEAT/2 INITCAP/1 SPLIT_PART/3 STRING/1
        string: SUBSTRING_INDEX/3 REGEXP_REPLACE/3-4 REGEXP_EXTRACT/2-3 FORMAT_NUMBER/2 HEX/1 MD5/1 SHA1/1 SHA/1 SHA2/2
        string: DATE_FORMAT/2 FROM_UNIXTIME/1-2 ARRAY_JOIN/2-3 BASE64/1 GET_JSON_OBJECT/2
        integer: LENGTH/1 LEN/1 CHAR_LENGTH/1 INSTR/2 LOCATE/2-3 ASCII/1 LEVENSHTEIN/2-3 HASH/1-32 INT/1 SIZE/1 CARDINALITY/1
        integer: DATEDIFF/2 DATE_DIFF/2 YEAR/1 QUARTER/1 MONTH/1 DAY/1 DAYOFMONTH/1 DAYOFWEEK/1 DAYOFYEAR/1 WEEKDAY/1 WEEKOFYEAR/1
        integer: HOUR/1 MINUTE/1 SECOND/1 UNIX_DATE/1
        float: FLOAT/1
        array: SPLIT/2-3 ARRAY/1-64 SEQUENCE/2-3
        date: DATE/1 TO_DATE/1-2 DATE_ADD/2 DATE_SUB/2 ADD_MONTHS/2 LAST_DAY/1 NEXT_DAY/2 TRUNC/2 MAKE_DATE/3 CURRENT_DATE/0
        timestamp: TIMESTAMP/1 TO_TIMESTAMP/1-2 DATE_TRUNC/2 TIMESTAMP_SECONDS/1 TIMESTAMP_MILLIS/1 CURRENT_TIMESTAMP/0 NOW/0
        timestamp: FROM_UTC_TIMESTAMP/2 TO_UTC_TIMESTAMP/2
        """,
    ),
    **_functions("aggregate", "long: COUNT/1-32 APPROX_COUNT_DISTINCT/1-2", "count"),
    **_functions("aggregate", "long: COUNT_IF/1", "condition"),
    **_functions(
        "aggregate",
        """
        sum: SUM/1 TRY_SUM/1
        number: AVG/1 MEAN/1 TRY_AVG/1 STDDEV/1 STDDEV_SAMP/1 STDDEV_POP/1 STD/1 VARIANCE/1 VAR_SAMP/1 VAR_POP/1
        """,
        "mixture",
    ),
    **_functions("aggregate", "first: MIN/1 MAX/1", "extreme"),
    **_functions(
        "aggregate",
        """
        number: MEDIAN/1 PERCENTILE/2 SKEWNESS/1 KURTOSIS/1 CORR/2 COVAR_POP/2 COVAR_SAMP/2 REGR_SLOPE/2 REGR_INTERCEPT/2 REGR_R2/2
        number: REGR_AVGX/2 REGR_AVGY/2 REGR_SXX/2 REGR_SXY/2 REGR_SYY/2
        long: REGR_COUNT/2
        first: ANY_VALUE/1-2 FIRST/1-2 LAST/1-2 FIRST_VALUE/1-2 LAST_VALUE/1-2 MAX_BY/2 MIN_BY/2 MODE/1 PERCENTILE_APPROX/2-3
        first: APPROX_PERCENTILE/2-3
        boolean: BOOL_AND/1 BOOL_OR/1 EVERY/1
        array: COLLECT_LIST/1 COLLECT_SET/1 ARRAY_AGG/1
        """,
    ),
    **_functions(
        "window",
        """
        integer: ROW_NUMBER/0 RANK/0 DENSE_RANK/0 NTILE/0-1
        number: PERCENT_RANK/0 CUME_DIST/0
        first: LAG/1-3 LEAD/1-3
        """,
    ),
    **_functions("generator", "all: EXPLODE/1 EXPLODE_OUTER/1\nrest: POSEXPLODE/1 POSEXPLODE_OUTER/1"),
}
FUNCTIONS: dict[str, Function] = {name: function._replace(**_TRAITS.get(name, {})) for name, function in _LISTED.items()}
"""Every allowed function, by upper-case name."""

EXTRACT_FIELDS = frozenset({"YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND", "DOW", "DAYOFWEEK", "DOY"})
"""Fields of ``EXTRACT(field FROM x)``."""

_TIMES = frozenset({"date", "timestamp"})
NUMERIC = ("number", "float", "decimal", "long", "integer", "smallint", "tinyint")
"""Types of numbers, the widest first."""
TYPES = {
    **dict.fromkeys(("INT", "INTEGER"), ("INT", "integer")), **dict.fromkeys(("BIGINT", "LONG"), ("BIGINT", "long")),
    **dict.fromkeys(("SMALLINT", "SHORT"), ("SMALLINT", "smallint")), **dict.fromkeys(("TINYINT", "BYTE"), ("TINYINT", "tinyint")),
    **dict.fromkeys(("DECIMAL", "DEC", "NUMERIC"), ("DECIMAL", "decimal")), **dict.fromkeys(("FLOAT", "REAL"), ("FLOAT", "float")),
    **dict.fromkeys(("STRING", "VARCHAR"), ("STRING", "string")), "DOUBLE": ("DOUBLE", "number"), "BOOLEAN": ("BOOLEAN", "boolean"),
    "DATE": ("DATE", "date"), **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_LTZ"), ("TIMESTAMP", "timestamp")),
}  # fmt: skip
"""For each type that a cast may name: the name in the rewritten query, and in verdicts.

The names in verdicts are those of dataset documents (``string integer number boolean date long timestamp``; ``number`` is a double) and
``float decimal smallint tinyint array interval null unknown``. They describe results to readers and decide which functions take an
argument; they never decide a value.
"""


def widest(types: Sequence[str]) -> str:
    """The common type of several expressions, following Spark's coercion rules approximately."""
    known = [kind for kind in types if kind not in ("null", "unknown")]
    if not known:
        return types[0] if types else "null"
    if len(set(known)) == 1:
        return known[0]
    for kind in NUMERIC:
        if kind in known and all(other in NUMERIC for other in known):
            return "number" if kind == "float" and "decimal" in known else kind
    if set(known) <= _TIMES:
        return "timestamp"
    return "string" if "string" in known else known[0]


def arithmetic_type(operator: str, left: str, right: str) -> str:
    """Type of ``left operator right``, for the operators ``+ - * / % DIV``."""
    if operator == "DIV":
        return "long"
    types = {left, right}
    if types & _TIMES:
        if operator == "-" and len(types) == 1:
            return "interval"
        return "timestamp" if "timestamp" in types else "date"
    if "interval" in types:
        return "interval"
    if operator == "/":
        return "decimal" if "decimal" in types and "number" not in types and "string" not in types else "number"
    out = widest([left, right])
    return "number" if out in ("string", "null", "unknown") else out


def result_type(function: Function, types: Sequence[str]) -> str:
    """Type of a call of ``function`` with arguments of ``types``."""
    match function.result:
        case "first":
            return types[0] if types else "unknown"
        case "all":
            return widest(types)
        case "rest":
            return widest(types[1:])
        case "sum":
            first = types[0]
            return {"decimal": "decimal", "number": "number", "float": "number"}.get(first, "long" if first in NUMERIC else "number")
    return function.result
