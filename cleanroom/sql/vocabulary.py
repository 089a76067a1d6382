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

from typing import Any, Literal, NamedTuple

Kind = Literal["scalar", "aggregate", "window", "generator"]
Form = Literal["call", "conditional", "unit"]
DegreeRule = Literal["none", "first_argument", "days_between", "transforms"]
WithinGroup = Literal["no", "optional", "instead_of_argument", "required"]
Disclosure = Literal["count", "condition", "mixture", "extreme", "value"]


class Function(NamedTuple):
    """An allowed function."""

    kind: Kind  # where the function may be called
    least: int  # smallest number of arguments
    most: int  # largest number of arguments
    result: str  # A type, or the rule by which the type follows from the arguments; see result_type
    # `conditional` if the function chooses between its arguments as CASE does; `unit` if the first of three arguments is a unit keyword
    form: Form = "call"
    degree_rule: DegreeRule = "none"  # how the result depends on protected columns; see polynomials
    normalises_identity: bool = False  # the function may be applied to an identity before it is compared with another owner's identity
    accepts_ignore_nulls: bool = False  # IGNORE NULLS may follow the call
    within_group: WithinGroup = "no"  # whether the aggregate takes WITHIN GROUP (ORDER BY ...)
    joins_texts: bool = False  # the aggregate concatenates its arguments in the order of WITHIN GROUP
    describes_grouping: bool = False  # GROUPING and GROUPING_ID, whose arguments are group keys
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
    "IF": {"form": "conditional"},
    **{name: {"form": "unit"} for name in ("DATEADD", "TIMESTAMPADD", "TIMESTAMPDIFF")},
    **{name: {"form": "unit", "degree_rule": "days_between"} for name in ("DATE_DIFF", "DATEDIFF")},
    **{name: {"degree_rule": "first_argument"} for name in ("COALESCE", "NVL", "IFNULL")},
    **{name: {"degree_rule": "transforms"} for name in ("LEAST", "ROUND", "BROUND", "LN", "LOG10", "LOG2", "LOG1P")},
    **{
        name: {"normalises_identity": True}
        for name in ("LOWER", "UPPER", "LCASE", "UCASE", "TRIM", "BTRIM", "SHA2", "SHA1", "SHA", "MD5", "STRING", "HEX")
    },
    **{
        name: {"accepts_ignore_nulls": True}
        for name in ("FIRST", "LAST", "FIRST_VALUE", "LAST_VALUE", "ANY_VALUE", "LAG", "LEAD", "NTH_VALUE")
    },
    **{name: {"within_group": "required"} for name in ("PERCENTILE_CONT", "PERCENTILE_DISC")},
    **{name: {"within_group": "optional", "joins_texts": True} for name in ("LISTAGG", "STRING_AGG")},
    "MODE": {"within_group": "instead_of_argument"},
    **{name: {"describes_grouping": True} for name in ("GROUPING", "GROUPING_ID")},
}
"""Properties that the tables below do not state."""

_LISTED: dict[str, Function] = {
    **_functions(
        "scalar",
        """
        first: ABS/1 NEGATIVE/1 POSITIVE/1 PMOD/2 MOD/2 NULLIF/2 NULLIFZERO/1 ZEROIFNULL/1 ROUND/1-2 BROUND/1-2 TRY_ADD/2
        first: TRY_SUBTRACT/2 TRY_MOD/2 ARRAY_DISTINCT/1 SORT_ARRAY/1-2 REVERSE/1 TRY_MULTIPLY/2
        all: COALESCE/1-32 IFNULL/2 NVL/2 GREATEST/2-32 LEAST/2-32 NANVL/2
        rest: IF/3 NVL2/3
        decode: DECODE/3-32
        long: CEIL/1 CEILING/1 FLOOR/1 UNIX_TIMESTAMP/1-2 TO_UNIX_TIMESTAMP/1-2 UNIX_SECONDS/1 UNIX_MILLIS/1 XXHASH64/1-32
        long: CRC32/1 BIGINT/1 FACTORIAL/1 UNIX_MICROS/1 ARRAY_POSITION/2 TIMESTAMPDIFF/3 WIDTH_BUCKET/4
        number: SQRT/1 CBRT/1 EXP/1 LN/1 LOG/1-2 LOG10/1 LOG2/1 LOG1P/1 EXPM1/1 POW/2 POWER/2 SIGN/1 SIGNUM/1 SIN/1 COS/1 TAN/1
        number: ASIN/1 ACOS/1 ATAN/1 ATAN2/2 SINH/1 COSH/1 TANH/1 COT/1 SEC/1 CSC/1 ASINH/1 ACOSH/1 ATANH/1 RINT/1 DEGREES/1
        number: RADIANS/1 PI/0 E/0 HYPOT/2 TRY_DIVIDE/2 MONTHS_BETWEEN/2-3 DOUBLE/1
        boolean: ISNULL/1 ISNOTNULL/1 ISNAN/1 STARTSWITH/2 ENDSWITH/2 CONTAINS/2 REGEXP_LIKE/2 REGEXP/2 RLIKE/2 BOOLEAN/1
        boolean: ARRAY_CONTAINS/2 ARRAYS_OVERLAP/2 EQUAL_NULL/2
        decimal: TO_NUMBER/2 TRY_TO_NUMBER/2
        string: UPPER/1 UCASE/1 LOWER/1 LCASE/1 TRIM/1-2 BTRIM/1-2 LTRIM/1-2 RTRIM/1-2 SUBSTRING/2-3 SUBSTR/2-3 LEFT/2 RIGHT/2
        string: CONCAT/1-32 CONCAT_WS/2-32 REPLACE/2-3 TRANSLATE/3 LPAD/2-3 RPAD/2-3 REPEAT/2 INITCAP/1 CHR/1 SPLIT_PART/3
        string: SUBSTRING_INDEX/3 REGEXP_REPLACE/3-4 REGEXP_EXTRACT/2-3 REGEXP_SUBSTR/2 FORMAT_NUMBER/2 HEX/1 MD5/1 SHA1/1 SHA/1
        string: SHA2/2 SOUNDEX/1 DATE_FORMAT/2 FROM_UNIXTIME/1-2 STRING/1 ARRAY_JOIN/2-3 TO_CHAR/2 DAYNAME/1 MONTHNAME/1 SPACE/1
        string: BASE64/1 GET_JSON_OBJECT/2 FORMAT_STRING/1-16 PRINTF/1-16 BIN/1 CONV/3 OVERLAY/3-4
        integer: LENGTH/1 LEN/1 CHAR_LENGTH/1 CHARACTER_LENGTH/1 OCTET_LENGTH/1 BIT_LENGTH/1 INSTR/2 LOCATE/2-3 POSITION/2-3
        integer: ASCII/1 LEVENSHTEIN/2-3 REGEXP_COUNT/2 FIND_IN_SET/2 HASH/1-32 INT/1 DATEDIFF/2-3 YEAR/1 QUARTER/1 MONTH/1
        integer: DAY/1 DAYOFMONTH/1 DAYOFWEEK/1 DAYOFYEAR/1 WEEKDAY/1 WEEKOFYEAR/1 HOUR/1 MINUTE/1 SECOND/1 DATE_PART/2 SIZE/1
        integer: CARDINALITY/1 ARRAY_SIZE/1 DATE_DIFF/2-3 UNIX_DATE/1 SHIFTLEFT/2 SHIFTRIGHT/2 BIT_COUNT/1 REGEXP_INSTR/2
        integer: DATEPART/2
        float: FLOAT/1
        array: SPLIT/2-3 ARRAY/1-64 SEQUENCE/2-3 SLICE/3 ARRAY_UNION/2 ARRAY_INTERSECT/2 ARRAY_EXCEPT/2 ARRAY_SORT/1
        array: ARRAY_COMPACT/1 REGEXP_EXTRACT_ALL/2-3
        date: DATE/1 TO_DATE/1-2 DATE_ADD/2 DATE_SUB/2 ADD_MONTHS/2 LAST_DAY/1 NEXT_DAY/2 TRUNC/2 MAKE_DATE/3
        date: DATE_FROM_UNIX_DATE/1 CURRENT_DATE/0 TRY_TO_DATE/1-2
        timestamp: TIMESTAMP/1 TO_TIMESTAMP/1-2 DATE_TRUNC/2 TIMESTAMP_SECONDS/1 TIMESTAMP_MILLIS/1 CURRENT_TIMESTAMP/0 NOW/0
        timestamp: TRY_TO_TIMESTAMP/1-2 MAKE_TIMESTAMP/6 TIMESTAMP_MICROS/1 FROM_UTC_TIMESTAMP/2 TO_UTC_TIMESTAMP/2
        timestamp: TIMESTAMPADD/3 DATEADD/2-3
        """,
    ),
    **_functions("aggregate", "long: COUNT/1-32 APPROX_COUNT_DISTINCT/1-2", "count"),
    **_functions("aggregate", "long: COUNT_IF/1", "condition"),
    **_functions(
        "aggregate",
        """
        sum: SUM/1 TRY_SUM/1
        number: AVG/1 MEAN/1 TRY_AVG/1 STDDEV/1 STDDEV_SAMP/1 STDDEV_POP/1 STD/1 VARIANCE/1 VAR_SAMP/1 VAR_POP/1 CORR/2 COVAR_POP/2
        number: COVAR_SAMP/2 SKEWNESS/1 KURTOSIS/1 REGR_SLOPE/2 REGR_INTERCEPT/2 REGR_R2/2 REGR_AVGX/2 REGR_AVGY/2 REGR_SXX/2
        number: REGR_SXY/2 REGR_SYY/2
        long: REGR_COUNT/2
        """,
        "mixture",
    ),
    **_functions("aggregate", "first: MIN/1 MAX/1", "extreme"),
    **_functions(
        "aggregate",
        """
        number: MEDIAN/1 PERCENTILE/2 PERCENTILE_CONT/1 PERCENTILE_DISC/1
        string: LISTAGG/1-2 STRING_AGG/1-2
        first: BIT_AND/1 BIT_OR/1 BIT_XOR/1 ANY_VALUE/1-2 FIRST/1-2 LAST/1-2 FIRST_VALUE/1-2 LAST_VALUE/1-2 MAX_BY/2 MIN_BY/2
        first: MODE/0-1 PERCENTILE_APPROX/2-3 APPROX_PERCENTILE/2-3
        boolean: BOOL_AND/1 BOOL_OR/1 EVERY/1
        array: COLLECT_LIST/1 COLLECT_SET/1 ARRAY_AGG/1
        tinyint: GROUPING/1
        long: GROUPING_ID/0-32
        """,
    ),
    **_functions(
        "window",
        """
        integer: ROW_NUMBER/0 RANK/0 DENSE_RANK/0 NTILE/0-1
        number: PERCENT_RANK/0 CUME_DIST/0
        first: LAG/1-3 LEAD/1-3 NTH_VALUE/2-3
        """,
    ),
    **_functions("generator", "all: EXPLODE/1 EXPLODE_OUTER/1\nrest: POSEXPLODE/1 POSEXPLODE_OUTER/1"),
}
FUNCTIONS: dict[str, Function] = {name: function._replace(**_TRAITS.get(name, {})) for name, function in _LISTED.items()}
"""Every allowed function, by upper-case name."""

UNITS = frozenset({"YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND", "MILLISECOND"})
"""Unit keywords of date arithmetic."""
EXTRACT_FIELDS = (UNITS - {"MILLISECOND"}) | {"DOW", "DAYOFWEEK", "DOY", "YEAROFWEEK", "DAYOFWEEK_ISO"}
"""Fields of ``EXTRACT(field FROM x)``."""
SYNONYMS = {"SOME": "BOOL_OR", "ANY": "BOOL_OR"}
"""Functions that are rendered under another name, because the parser uses their own names for other things."""

TYPES = {
    "INT": ("INT", "integer"),
    "BIGINT": ("BIGINT", "long"),
    "SMALLINT": ("SMALLINT", "smallint"),
    "TINYINT": ("TINYINT", "tinyint"),
    "DOUBLE": ("DOUBLE", "number"),
    "FLOAT": ("FLOAT", "float"),
    "DECIMAL": ("DECIMAL", "decimal"),
    "TEXT": ("STRING", "string"),
    "VARCHAR": ("STRING", "string"),
    "CHAR": ("STRING", "string"),
    "DATE": ("DATE", "date"),
    "TIMESTAMP": ("TIMESTAMP", "timestamp"),
    "TIMESTAMPTZ": ("TIMESTAMP", "timestamp"),
    "TIMESTAMPLTZ": ("TIMESTAMP", "timestamp"),
    "BOOLEAN": ("BOOLEAN", "boolean"),
}
"""For each type that a cast may name, by sqlglot's name: Spark's name and the name in verdicts."""
