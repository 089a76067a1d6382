"""Verdicts: lineage, the card, positions."""

# ruff: noqa: E501  (one query per line)

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from cleanroom.documents.query import PostFilter, PreCondition, QuerySegment
from cleanroom.sql import Catalog, analyse, check_sql
from tests.unit.sql.world import GUARDED, OPEN

OVERLAP = "SELECT o.region AS region, COUNT(DISTINCT o.user_key) AS buyers, SUM(c.spend) AS total_spend FROM orders o JOIN clicks c ON o.user_key = c.user_key WHERE c.device = 'web' GROUP BY o.region"


def test_card_of_a_query_is_deterministic() -> None:
    segment = QuerySegment(
        execution_sequence=1,
        data=OVERLAP,
        pre_conditions=(PreCondition(view_name="orders", min_row_count=50),),
        post_filters=(PostFilter(column_name="buyers", value=25),),
    )
    verdict = analyse([segment], GUARDED)
    head, runs = verdict.card.split("runs\n")
    assert runs == textwrap.indent(verdict.sql + ";\n", "  ")
    assert head + "runs\n" == textwrap.dedent(
        """\
        reads
          orders: user_key (count, join), region (group, output), * (rows)
          clicks: user_key (join), spend (sum), device (filter), * (rows)
        result
          region string <- orders.region (value)
          buyers long <- orders.user_key (count)
          total_spend number <- clicks.spend (sum)
        floors
          orders (contosso): every row is of at least 5 distinct user_key
          clicks (litware): every row is of at least 5 distinct user_key
        conditions of segment 1
          orders has at least 50 rows
          only rows with buyers >= 25
        runs
        """
    )
    assert verdict.card_digest == analyse([segment], GUARDED).card_digest


def test_card_does_not_depend_on_case_comments_and_line_breaks() -> None:
    other = OVERLAP.lower().replace(" from ", "\n  -- a comment\n  from ").replace("'web'", '"web"') + " ;"
    assert check_sql(OVERLAP, GUARDED).card == check_sql(other, GUARDED).card


def test_card_contains_no_control_characters() -> None:
    catalog = Catalog.model_validate(
        {
            "views": {
                "v": {"columns": {"x": "string"}, "owner": "con\u202etosso\x1b[2J", "floor": {"minGroupSize": 2, "identityColumn": "x"}}
            }
        }
    )
    card = check_sql("SELECT COUNT(*) AS n FROM v WHERE x IS NOT NULL", catalog).card
    assert "contosso[2J" in card
    assert not any(ord(character) < 32 and character != "\n" for character in card)
    assert "\u202e" not in card


def test_lineage_follows_columns_through_views_and_expressions() -> None:
    verdict = check_sql(
        [
            "CREATE OR REPLACE TEMP VIEW per AS SELECT user_key AS k, SUM(spend * 2) AS s, MAX(day) AS last FROM events WHERE kind = 'buy' GROUP BY user_key",
            "SELECT u.city, AVG(p.s) AS mean, COUNT(*) AS n FROM per p JOIN users u ON p.k = u.user_key GROUP BY u.city ORDER BY mean",
        ],
        OPEN,
    )
    assert verdict.lineage is not None
    outputs = {output.name: [(s.view, s.column, s.uses) for s in output.sources] for output in verdict.lineage.outputs}
    assert outputs == {
        "city": [("users", "city", ("value",))],
        "mean": [("events", "spend", ("avg",))],
        "n": [("events", "*", ("count",)), ("users", "*", ("count",))],
    }
    inputs = {(use.view, use.column): use.uses for use in verdict.lineage.inputs}
    assert inputs["events", "kind"] == ("filter",)
    assert inputs["events", "user_key"] == ("group", "join", "output")
    assert [(column.name, column.type) for column in verdict.output] == [("city", "string"), ("mean", "number"), ("n", "long")]


def test_lineage_of_a_condition_names_the_columns_of_its_subquery() -> None:
    verdict = check_sql(
        "SELECT EXISTS (SELECT 1 FROM events e WHERE e.user_key = u.user_key) AS a, user_key IN (SELECT user_key FROM events) AS b FROM users u",
        OPEN,
    )
    assert verdict.lineage is not None
    assert [[(s.view, s.column, s.uses) for s in output.sources] for output in verdict.lineage.outputs] == [
        [("events", "*", ("exists",)), ("users", "user_key", ("computed",))],
        [("events", "user_key", ("computed",)), ("users", "user_key", ("computed",))],
    ]


def test_syntax_error_is_refused_with_its_position() -> None:
    (reason,) = check_sql("SELECT kind\nFROM events WHERE spend > 3 XOR kind = 'buy'", OPEN).reasons
    assert reason.position is not None
    assert (reason.code, reason.position.line, reason.position.column) == ("Unparsable", 2, 29)


def test_checks_in_several_threads_are_independent() -> None:
    catalog = Catalog.model_validate({"views": {"t": {"columns": {"a": "integer"}}}})
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda sql: check_sql(sql, catalog), ["SELECT a FROM t", "SELECT (((", "SELECT b FROM t"] * 8))
    assert [verdict.allowed for verdict in verdicts] == [True, False, False] * 8


@pytest.mark.parametrize(
    ("sql", "code", "word"),
    [
        ("SELECT COUNT(*) AS n FROM orders WHERE region = 'a' OR status = 'b'", "OrOverProtectedColumns", "orders.region"),
        ("SELECT SUM(amount * discount) AS s FROM orders", "ProductOfColumns", "orders.discount"),
        (
            "SELECT r.country, COUNT(*) AS n FROM orders o JOIN regions r ON o.region = r.region GROUP BY r.country",
            "JoinNotOnIdentity",
            "left out",
        ),
        (
            "SELECT SUM(w.w) AS s FROM orders o JOIN (SELECT DISTINCT user_key, w FROM weights) w ON o.user_key = w.user_key",
            "OwnDataAsWeights",
            "weights.w",
        ),
        ("SELECT COUNT(*) AS n FROM orders o JOIN weights w ON o.user_key = w.user_key", "JoinLeavesOutRows", "w.user_key is not unique"),
        ("SELECT SUM(amount) AS s FROM orders WHERE NOT (region = 'a' AND status = 'b')", "OrOverProtectedColumns", "orders.region"),
        ("SELECT region, COUNT(*) AS n FROM orders GROUP BY region ORDER BY n DESC LIMIT 1", "OrderWithLimit", "LIMIT"),
    ],
)
def test_verdict_warns_of_what_an_owner_should_look_at(sql: str, code: str, word: str) -> None:
    verdict = check_sql(sql, GUARDED)
    warning = next(warning for warning in verdict.warnings if warning.code == code)
    assert {warning.code for warning in verdict.warnings} <= {code, "JoinLeavesOutRows"}
    assert word in warning.message
    assert warning.message in verdict.card


def test_plain_query_has_no_warnings() -> None:
    assert check_sql("SELECT region, SUM(amount) AS s FROM orders GROUP BY region", GUARDED).warnings == ()
