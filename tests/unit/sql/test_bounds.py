"""Small texts that would hang or crash a parser, or whose rendering would grow without bound, are refused with a code."""

from __future__ import annotations

import time

import pytest

from cleanroom.sql import Catalog, check_sql
from tests.unit.sql.world import GUARDED, OPEN

WIDE = Catalog.model_validate({"views": {"wide": {f"c{number}": "number" for number in range(500)}}})


def nested(before: str, after: str, times: int = 60) -> str:
    return before * times + "1" + after * times


UNREADABLE = {
    # A parser that backtracks needs twice the time for each level of nesting, and one that recurses crashes.
    "joins without ON": ("SELECT kind FROM events " + "JOIN users " * 500, "ExpressionNotAllowed"),
    "joins without ON in parentheses": ("SELECT a FROM " + "(a JOIN b JOIN " * 60 + "c" + ")" * 60, "RelationNotAllowed"),
    "structs": (f"SELECT {nested('struct(', ')')}", "FunctionNotAllowed"),
    "structs that do not end": ("SELECT " + "struct(" * 60, "Unparsable"),
    "sizes of types": (f"SELECT {nested('DECIMAL(', ')')}", "FunctionNotAllowed"),
    "arrays of types": (f"SELECT a FROM {nested('BIGINT[', ']')}", "UnknownRelation"),
    "laterals": ("SELECT kind FROM " + "(SELECT * FROM events, LATERAL " * 60 + ")" * 60, "RelationNotAllowed"),
    "FROM FROM": ("FROM " * 14_000, "Unparsable"),
}
EXPENSIVE = {
    "stars of one name": f"SELECT {', '.join('*' * 2_000)} FROM wide",
    "many NOT": "SELECT kind FROM events WHERE " + "NOT ! " * 5_000 + "kind",
    "many signs": "SELECT " + "- " * 5_000 + "spend AS s FROM events",
    "parentheses": "SELECT " + nested("(", ")", 5_000) + " AS s FROM events",
    "CASE in CASE": "SELECT " + nested("CASE WHEN TRUE THEN ", " END", 5_000) + " AS s FROM events",
    # The rendering is much longer than the text.
    "aliases that double": "SELECT spend AS a0, " + ", ".join(f"a{n} + a{n} AS a{n + 1}" for n in range(60)) + " FROM events",
    "stars": f"SELECT {', '.join('*' * 200)} FROM wide",
    "stars of joins": "SELECT * FROM wide w0 " + " ".join(f"JOIN wide w{n} ON w{n}.c0 = w0.c0" for n in range(1, 60)),
    "stars through steps": "WITH s0 AS (SELECT * FROM wide)"
    + "".join(f", s{n} AS (SELECT * FROM s{n - 1})" for n in range(1, 60))
    + " SELECT * FROM s59",
    "an ordinal in each of many levels": "SELECT " + "(SELECT concat(kind, " * 30 + "'x'" + ") AS k FROM events GROUP BY 1)" * 30,
    "persons that double": "WITH s0 AS (SELECT user_key, region FROM orders)"
    + "".join(f", s{n} AS (SELECT a.user_key, a.region FROM s{n - 1} a JOIN s{n - 1} b ON a.user_key = b.user_key)" for n in range(1, 60))
    + " SELECT region, COUNT(*) AS n FROM s59 GROUP BY region",
    "one after the other": "SELECT spend" + " + spend - spend" * 100 + " AS s FROM events",
    "tests of tests": "SELECT kind FROM events WHERE kind" + " IS NULL" * 5_000,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_text_that_is_hard_to_read_is_refused_quickly(name: str) -> None:
    text, code = UNREADABLE[name]
    start = time.process_time()
    assert [reason.code for reason in check_sql(text, OPEN).reasons] == [code]
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", EXPENSIVE)
def test_expensive_query_is_refused_quickly(name: str) -> None:
    catalog = WIDE if "wide" in EXPENSIVE[name] else GUARDED if "orders" in EXPENSIVE[name] else OPEN
    start = time.process_time()
    verdict = check_sql(EXPENSIVE[name], catalog)
    assert not verdict.allowed
    assert {reason.code for reason in verdict.reasons} <= {"QueryTooComplex", "QueryTooLarge", "ParenthesesNeeded"}, verdict.reasons
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM wide",
        "SELECT kind FROM events WHERE kind IN (" + ", ".join(f"'k{n}'" for n in range(2_000)) + ")",
        "SELECT CASE " + " ".join(f"WHEN spend > {n} THEN {n}" for n in range(300)) + " END AS c FROM events",
        " UNION ALL ".join(f"SELECT kind, {n} AS n FROM events" for n in range(200)),
        "SELECT " + ", ".join(f"CAST(spend AS DECIMAL(12, {n % 9})) AS c{n}" for n in range(200)) + " FROM events",
        "SELECT kind FROM events WHERE kind IN ('/*+', '/*+')" + " OR kind = '/*+'" * 2_000,
        "SELECT " + ", ".join(f"SUM(spend + {n}) AS c{n}" for n in range(200)) + " FROM events GROUP BY kind",
        "SELECT a.kind FROM events a CROSS JOIN " + " CROSS JOIN ".join(f"users u{n}" for n in range(40)),
        "SELECT kind AS k0, " + ", ".join(f"k{n} || 'x' AS k{n + 1}" for n in range(40)) + " FROM events",
    ],
)
def test_long_query_is_allowed(sql: str) -> None:
    assert check_sql(sql, WIDE if "wide" in sql else OPEN).allowed


@pytest.mark.parametrize("words", ["FROM LATERAL ", "LIMIT JOIN SELECT ", "DESCRIBE LATERAL ", "SELECT a FROM ", "JOIN a ON a = a "])
def test_repeated_keywords_are_refused_without_a_crash(words: str) -> None:
    assert not check_sql(f"SELECT a FROM t {words * (28_000 // len(words.split()))}", OPEN).allowed
    assert not check_sql(words * (28_000 // len(words.split())), OPEN).allowed


def test_number_of_reasons_is_limited() -> None:
    verdict = check_sql("SELECT " + ", ".join(f"nothing{n}" for n in range(1_000)) + " FROM events", OPEN)
    assert {reason.code for reason in verdict.reasons} == {"UnknownColumn"}
    assert len(verdict.reasons) <= 60
