"""The language of queries: an addition to it is deliberate, and what is outside of it is refused with a remedy."""

from __future__ import annotations

import pytest

from cleanroom.sql import check_sql
from cleanroom.sql.checking.nodes import EXPRESSIONS, QUERIES, RELATIONS, checks_expression
from cleanroom.sql.text.language import LANGUAGE
from tests.unit.sql.world import OPEN

NODES = """
    Add Alias And Anonymous Between Boolean CTE Case Column Create CurrentDate CurrentTimestamp DPipe Distinct Div EQ Except Exists Extract
    Filter From GT GTE Group Having ILike Identifier If In IntDiv Intersect Interval Is Join LT LTE Lateral Like Limit Literal Mod Mul NEQ
    Neg Not Null NullSafeEQ Or Order Ordered Paren Properties Qualify RegexpLike Select Star Sub Subquery Substring Table TableAlias
    TemporaryProperty Union Var Where Window WindowSpec With
"""
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


def test_only_these_nodes_are_in_the_language() -> None:
    assert {kind.__name__ for kind in LANGUAGE} == set(NODES.split())


def test_every_check_is_of_a_node_in_the_language() -> None:
    assert {*EXPRESSIONS, *RELATIONS, *QUERIES} <= LANGUAGE.keys()


def test_two_checks_of_one_kind_are_an_error() -> None:
    kind, before = next(iter(EXPRESSIONS.items()))
    with pytest.raises(ValueError, match=f"two checks are registered for {kind.__name__}"):
        checks_expression(kind)(before)
    assert EXPRESSIONS[kind] is before


@pytest.mark.parametrize("sql", OUTSIDE, ids=lambda sql: sql[:60])
def test_construct_outside_of_the_language_is_refused_with_its_place_and_a_remedy(sql: str) -> None:
    verdict = check_sql(sql, OPEN)
    (reason,) = verdict.reasons
    construct, remedy = OUTSIDE[sql]
    assert construct in reason.message
    assert remedy in reason.message
    assert reason.position is not None
    assert not verdict.rewritten
