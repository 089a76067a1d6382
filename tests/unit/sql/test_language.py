"""The language of queries: an addition to it is deliberate, and what is outside of it is refused with a remedy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import cleanroom.sql.checking
from cleanroom.sql import Catalog, Column, View, check_sql
from cleanroom.sql.text.remedies import REMEDIES
from cleanroom.sql.vocabulary import FUNCTIONS, TYPES
from tests.unit.sql.world import OPEN

LANGUAGE = set(
    """
    SELECT DISTINCT FROM WHERE GROUP BY HAVING QUALIFY ORDER ASC DESC NULLS FIRST LAST LIMIT WITH AS CREATE REPLACE TEMPORARY VIEW
    UNION INTERSECT EXCEPT ALL JOIN INNER CROSS LEFT RIGHT FULL OUTER SEMI ANTI ON USING LATERAL
    AND OR NOT IS NULL TRUE FALSE BETWEEN IN LIKE ILIKE RLIKE EXISTS DIV CASE WHEN THEN ELSE END
    CAST TRY_CAST EXTRACT FOR FILTER OVER PARTITION ROWS RANGE ROW CURRENT UNBOUNDED PRECEDING FOLLOWING INTERVAL DATE TIMESTAMP
    CURRENT_DATE CURRENT_TIMESTAMP
    """.split()  # noqa: SIM905
)
"""Every word of a query except names, functions, types, and fields of dates."""
OUTSIDE = {
    "SELECT * FROM events OFFSET 2": ("OFFSET", "ROW_NUMBER()"),
    "SELECT * EXCEPT (note) FROM events": ("* EXCEPT", "name the columns"),
    "SELECT spend FROM users NATURAL JOIN events": ("NATURAL JOIN", "USING"),
    "SELECT COUNT(*) OVER w AS n FROM events WINDOW w AS (PARTITION BY kind)": ("WINDOW", "OVER"),
    "SELECT kind, COUNT(*) AS n FROM events GROUP BY ROLLUP (kind)": ("ROLLUP", "UNION ALL"),
    "SELECT kind, COUNT(*) AS n FROM events GROUP BY kind WITH ROLLUP": ("ROLLUP", "UNION ALL"),
    "SELECT kind, COUNT(*) AS n FROM events GROUP BY CUBE (kind)": ("CUBE", "UNION ALL"),
    "SELECT kind, COUNT(*) AS n FROM events GROUP BY GROUPING SETS ((kind), ())": ("GROUPING SETS", "UNION ALL"),
    "SELECT kind, COUNT(*) AS n FROM events GROUP BY ALL": ("GROUP BY ALL", "name the keys"),
    "SELECT kind FROM events ORDER BY ALL": ("a keyword", ""),
    "SELECT event_id FROM events WHERE event_id = 3L": ("this cast", "CAST(x AS type)"),
    "SELECT spend::int AS s FROM events": ("this cast", "CAST(x AS type)"),
    "SELECT CAST(kind AS BINARY) AS s FROM events": ("this cast", "CAST(x AS type)"),
    "SELECT x FROM (VALUES (1), (2)) AS v(x)": ("VALUES", "UNION ALL"),
    "SELECT kind FROM events WHERE note LIKE '%!%%' ESCAPE '!'": ("ESCAPE", "CONTAINS"),
    "SELECT kind FROM events WHERE kind LIKE ANY ('b%', 'v%')": ("ANY", "OR"),
    "SELECT kind FROM events WHERE kind IS DISTINCT FROM 'buy'": ("IS DISTINCT FROM", "<=>"),
    "SELECT FIRST(note) IGNORE NULLS AS n FROM events": ("IGNORE NULLS", "TRUE"),
    "SELECT PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY spend) AS p FROM events": ("WITHIN GROUP", "PERCENTILE_APPROX"),
    "SELECT LISTAGG(DISTINCT user_key, ',') AS l FROM events": ("the function LISTAGG", ""),
    "SELECT Decode(kind, 'buy', 1) AS l FROM events": ("the function Decode", ""),
    "SELECT BIT_OR(event_id) AS b FROM events": ("the function BIT_OR", ""),
    "SELECT event_id & 3 AS a FROM events": ("&", ""),
    "SELECT ~event_id AS a FROM events": ("~", ""),
    "SELECT split(user_key, 'u')[1] AS n FROM events": ("[…]", "SPLIT_PART"),
    "SELECT kind FROM events WHERE (kind, user_key) IN (SELECT kind, user_key FROM events)": ("a list in parentheses", "one column"),
    "SELECT n_name FROM region JOIN (supplier JOIN nation ON s_nationkey = n_nationkey) ON n_regionkey = r_regionkey": (
        "a join in",
        "alias",
    ),
    "CREATE OR REPLACE TEMP VIEW v (k) AS SELECT kind FROM events": ("a list of columns", "alias them"),
    "SELECT day + INTERVAL '1 02' DAY TO HOUR AS q FROM events": ("an interval of several units", "sum"),
    "SELECT * FROM (SELECT user_key, kind, spend FROM events) PIVOT (SUM(spend) FOR kind IN ('buy', 'view'))": ("PIVOT", "CASE WHEN"),
    "SELECT * FROM events UNPIVOT (x FOR y IN (spend))": ("PIVOT", "CASE WHEN"),
    "SELECT * FROM events TABLESAMPLE (10 PERCENT)": ("TABLESAMPLE", "WHERE"),
    "SELECT kind FROM events SORT BY kind": ("SORT BY", "ORDER BY"),
    "SELECT TRIM(BOTH 'x' FROM kind) AS t FROM events": ("TRIM … FROM", "TRIM(x)"),
    "SELECT POSITION('x' IN kind) AS t FROM events": ("POSITION … IN", "LOCATE"),
    "SELECT OVERLAY(kind PLACING 'x' FROM 1) AS t FROM events": ("OVERLAY", "CONCAT"),
    "SELECT r'x' AS t FROM events": ("r'…'", "backslash"),
    "SELECT 'a' 'b' AS t FROM events": ("a text after a text", "||"),
    "SELECT DATEDIFF(DAY, day, day) AS t FROM events": ("DATEDIFF takes 2 arguments", ""),
    "SELECT transform(split(kind, 'x'), x -> x) AS t FROM events": ("", ""),
    "SELECT kind FROM events FOR UPDATE": ("", ""),
    "WITH RECURSIVE a AS (SELECT kind FROM events) SELECT kind FROM a": ("WITH RECURSIVE", "a join"),
}


WORDS = [
    "SELECT ALL kind FROM events", "SELECT AS kind k FROM events", "SELECT kind AS FROM events", "SELECT kind AS 10 FROM events",
    "SELECT , kind FROM events", "SELECT kind FROM events * , users", "SELECT kind FROM . events", "SELECT COUNT(, kind) AS n FROM events",
    "SELECT kind AS 'k' FROM events", "WITH AS t (SELECT kind FROM events) SELECT kind FROM t", "AS SELECT kind FROM events",
    "SELECT city FROM users JOIN events USING user_key ()", "SELECT CASE WHEN kind = 'x' 1 END AS c FROM events",
    "SELECT {fn UPPER(kind)} AS k FROM events", "FROM events |> SELECT kind", "SELECT kind FROM events WHERE spend BETWEEN 1 2",
    "SELECT kind FROM events WHERE spend NOT NULL", "SELECT SUM(spend) FILTER (spend > 1) AS s FROM events",
    "SELECT kind FROM users JOIN events", "SELECT +spend AS s FROM events", "SELECT kind FROM events WHERE kind IS UNKNOWN",
    "SELECT spend = 1 = TRUE AS s FROM events", "SELECT kind FROM events WHERE kind <=> NOT spend > 1",
    "SELECT . 5 AS s FROM events", "SELECT kind FROM events WHERE (FALSE)", "SELECT kind FROM events WHERE (NULL)",
]  # fmt: skip


@pytest.mark.parametrize("sql", WORDS)
def test_statement_with_a_word_too_many_or_too_few_is_refused(sql: str) -> None:
    verdict = check_sql(sql, OPEN)
    assert not verdict.allowed, verdict.sql
    assert all(reason.position is not None for reason in verdict.reasons), verdict.reasons
    assert {reason.code for reason in verdict.reasons} <= {"Unparsable", "ExpressionNotAllowed", "ParenthesesNeeded"}, verdict.reasons


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT DISTINCT e.kind k, .5 AS g, 'it''s' t FROM events AS e ORDER BY kind ASC NULLS LAST",
        "SELECT kind FROM events MINUS SELECT city FROM users UNION DISTINCT SELECT kind FROM events",
        "SELECT u.city FROM users u, events e WHERE u.user_key == e.user_key AND ! (e.spend != 1) AND kind REGEXP 'x'",
        "SELECT kind FROM events WHERE note IS NOT DISTINCT FROM kind AND spend <=> 1",
        "SELECT day - INTERVAL '7 days' AS d, SUBSTR(kind FROM 1) AS s FROM events",
        "SELECT p, q FROM events LATERAL VIEW OUTER posexplode(split(note, ' ')) w AS p, q",
        "FROM events SELECT `kind`, DATE '2024-01-05' AS d, TIMESTAMP '2024-01-05 10:00:00' AS t, CAST(spend AS DECIMAL(9, 2)) AS c",
        "SELECT SUM(spend) OVER (PARTITION BY kind, day ORDER BY day ROWS 2 PRECEDING) AS s FROM events",
    ],
)
def test_spelling_without_a_meaning_of_its_own_is_allowed(sql: str) -> None:
    assert check_sql(sql, OPEN).allowed, check_sql(sql, OPEN).reasons


FOREIGN = {
    "SELECT IFF(spend > 1, 1, 0) AS x FROM events": "IF(condition, x, y)",
    "SELECT kind, STRING_AGG(note, ',') AS x FROM events GROUP BY kind": "ARRAY_JOIN(COLLECT_LIST(x), separator)",
    "SELECT DATEADD(day, 7, day) AS x FROM events": "INTERVAL",
    "SELECT DATEDIFF(week, day, day) AS x FROM events": "DATEDIFF(end, start)",
    "SELECT ISNULL(note, '') AS x FROM events": "COALESCE",
    "SELECT SAFE_CAST(note AS INT) AS x FROM events": "TRY_CAST",
    "SELECT COUNTIF(spend > 1) AS x FROM events": "COUNT_IF",
    "SELECT APPROX_QUANTILES(spend, 4) AS x FROM events": "PERCENTILE_APPROX",
    "SELECT TOP 10 kind FROM events": "LIMIT",
    "SELECT DISTINCT ON (kind) kind, spend FROM events ORDER BY kind, day": "QUALIFY",
    "SELECT x FROM events, UNNEST(SPLIT(note, ' ')) AS x": "LATERAL VIEW EXPLODE",
    "SELECT TO_CHAR(day, 'YYYY') AS x FROM events": "DATE_FORMAT",
    "SELECT JSON_VALUE(note, '$.a') AS x FROM events": "GET_JSON_OBJECT",
    "SELECT note->>'a' AS x FROM events": "",
    "SELECT day::timestamp AS x FROM events": "CAST",
}


@pytest.mark.parametrize("sql", FOREIGN, ids=lambda sql: sql[:40])
def test_form_of_another_system_is_refused_with_that_of_spark(sql: str) -> None:
    (reason,) = check_sql(sql, OPEN).reasons
    assert FOREIGN[sql] in reason.message
    assert reason.position is not None


def test_remedies_for_functions_name_functions_of_the_language() -> None:
    assert len(REMEDIES) >= 100
    for name, remedy in REMEDIES.items():
        assert name not in FUNCTIONS or name in ("ISNULL", "DATEDIFF", "DATE_DIFF"), name
        assert set(re.findall(r"([A-Z_0-9]+)\(", remedy)) <= FUNCTIONS.keys() | {"CAST", "TRY_CAST"}, remedy


def test_only_these_words_are_in_the_language() -> None:
    known = LANGUAGE | FUNCTIONS.keys() | TYPES.keys() | {"WEEK", "S", "POS"}  # a unit of intervals, its plural, and parts of POSEXPLODE
    refused = {"ANY", "SOME", "BOTH", "WINDOW", "TO", "R"}
    read = set()
    for path in Path(cleanroom.sql.checking.__file__).parent.glob("*.py"):
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        read |= {word for text in texts if isinstance(text, str) and re.fullmatch("[A-Z][A-Z_]*( [A-Z]+)*", text) for word in text.split()}
    assert read - known == refused
    assert not LANGUAGE - read


@pytest.mark.parametrize("sql", OUTSIDE, ids=lambda sql: sql[:60])
def test_construct_outside_of_the_language_is_refused_with_its_place_and_a_remedy(sql: str) -> None:
    verdict = check_sql(sql, OPEN)
    (reason,) = verdict.reasons
    construct, remedy = OUTSIDE[sql]
    assert construct in reason.message
    assert remedy in reason.message
    assert reason.position is not None
    assert not verdict.rewritten


WORDS_AS_NAMES = [
    "temp", "substr", "substring", "date", "timestamp", "year", "month", "day", "hour", "first", "last", "position", "level", "value",
    "rank", "row", "rows", "range", "percent", "type", "source", "status", "comment", "location", "time", "state", "kind", "count",
    "order_id", "format", "filter", "replace", "view", "temporary", "interval", "limit_id", "offset", "window", "end", "key", "desc",
]  # fmt: skip


@pytest.mark.parametrize("name", WORDS_AS_NAMES)
def test_column_may_be_named_like_a_keyword(name: str) -> None:
    catalog = Catalog(views=(View(name="t", columns=(Column(name=name, type="string"), Column(name="other", type="integer"))),))
    for sql in (f"SELECT {name} FROM t", f"SELECT t.{name} FROM t ORDER BY t.{name}", f"SELECT other AS `{name}` FROM t"):
        verdict = check_sql(sql, catalog)
        assert verdict.allowed, (sql, verdict.reasons)
