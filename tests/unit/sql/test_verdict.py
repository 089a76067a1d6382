"""What people and programs read: lineage, the card, the command."""

# ruff: noqa: E501  (one query a line)

from __future__ import annotations

import json
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cleanroom.documents.query import PostFilter, PreCondition, QuerySegment
from cleanroom.sql import Catalog, analyse, check_sql
from starters.lint import lint, verdict_of
from tests.unit.sql.world import GUARDED, OPEN

OVERLAP = "SELECT o.region AS region, COUNT(DISTINCT o.user_key) AS buyers, SUM(c.spend) AS total_spend FROM orders o JOIN clicks c ON o.user_key = c.user_key WHERE c.device = 'web' GROUP BY o.region"


def test_the_card_of_a_query_is_the_same_text_every_time() -> None:
    segment = QuerySegment(
        execution_sequence=1,
        data=OVERLAP,
        pre_conditions=(PreCondition(view_name="orders", min_row_count=50),),
        post_filters=(PostFilter(column_name="buyers", value=25),),
    )
    verdict = analyse([segment], GUARDED)
    assert verdict.card == textwrap.dedent(
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
          SELECT
            `o`.`region` AS `region`,
            COUNT(DISTINCT `o`.`user_key`) AS `buyers`,
            SUM(`c`.`spend`) AS `total_spend`
          FROM `orders` AS `o`
          JOIN `clicks` AS `c` ON `o`.`user_key` = `c`.`user_key`
          WHERE `c`.`device` = 'web'
          GROUP BY `o`.`region`
          HAVING COUNT(DISTINCT `o`.`user_key`) >= 5 AND COUNT(DISTINCT `c`.`user_key`) >= 5;
        """
    )
    assert verdict.card_digest == analyse([segment], GUARDED).card_digest


def test_what_does_not_change_the_meaning_does_not_change_the_card() -> None:
    other = OVERLAP.lower().replace(" from ", "\n  -- a comment\n  from ").replace("'web'", '"web"') + " ;"
    assert check_sql(OVERLAP, GUARDED).card == check_sql(other, GUARDED).card


def test_the_card_keeps_strange_names_and_texts_from_the_terminal() -> None:
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


def test_a_condition_in_the_output_names_what_it_looks_into() -> None:
    verdict = check_sql(
        "SELECT EXISTS (SELECT 1 FROM events e WHERE e.user_key = u.user_key) AS a, user_key IN (SELECT user_key FROM events) AS b FROM users u",
        OPEN,
    )
    assert verdict.lineage is not None
    assert [[(s.view, s.column, s.uses) for s in output.sources] for output in verdict.lineage.outputs] == [
        [("events", "*", ("exists",)), ("users", "user_key", ("computed",))],
        [("events", "user_key", ("computed",)), ("users", "user_key", ("computed",))],
    ]


def test_a_text_that_cannot_be_read_is_refused_at_its_place() -> None:
    (reason,) = check_sql("SELECT kind\nFROM events WHERE spend > 3 XOR kind = 'buy'", OPEN).reasons
    assert reason.position is not None
    assert (reason.code, reason.position.line, reason.position.column) == ("Unparsable", 2, 29)


# -- the command --------------------------------------------------------------------------------------------------------

runner = CliRunner()
app = typer.Typer()
app.command()(lint)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    catalog = tmp_path / "catalog.json"
    catalog.write_text(GUARDED.model_dump_json(by_alias=True))
    return tmp_path / "query.sql", catalog


def _lint(sql: Path, catalog: Path, *more: str) -> tuple[int, str, str]:
    result = runner.invoke(app, ["--sql", str(sql), "--catalog", str(catalog), *more])
    return result.exit_code, result.stdout, result.stderr


def test_an_allowed_query_exits_0_with_its_rewriting(files: tuple[Path, Path]) -> None:
    files[0].write_text(
        "create or replace temp view v as select region from orders;\nselect region, count(*) as n from v group by region;\n"
    )
    code, out, err = _lint(*files, "--output", "json")
    body = json.loads(out)
    assert (code, err) == (0, "")
    assert {"allowed", "reasons", "lineage", "rewritten"} <= body.keys()
    assert body["allowed"] is True
    assert "COUNT(DISTINCT `v`.`__cr_id_0`) >= 5" in body["rewritten"]
    assert [segment["executionSequence"] for segment in body["segments"]] == [1, 2]
    assert _lint(*files)[1].startswith("reads\n")


def test_a_refused_query_exits_4_with_reasons(files: tuple[Path, Path]) -> None:
    files[0].write_text("select * from csv.`/etc/passwd`")
    code, out, _ = _lint(*files, "--output", "json")
    body = json.loads(out)
    assert code == 4
    assert (body["allowed"], body["rewritten"], body["lineage"]) == (False, None, None)
    assert body["reasons"][0]["code"] == "MultiPartName"
    assert body["reasons"][0]["position"] == {"line": 1, "column": 19}
    code, out, err = _lint(*files)
    assert (code, out) == (4, "")
    assert err.startswith("segment 1 line 1 column 19: MultiPartName: ")


def test_a_refusal_is_safe_to_print(files: tuple[Path, Path]) -> None:
    files[0].write_text("select `\x1b]0;x\x07\u202e` from orders")
    code, _, err = _lint(*files)
    assert code == 4
    assert "\x1b" not in err
    assert "\u202e" not in err


def test_missing_files_exit_3_and_bad_input_2(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert _lint(*files)[0] == 3
    files[0].write_text("select 1 as a")
    assert _lint(files[0], tmp_path / "none.json")[0] == 3
    files[1].write_text("{")
    code, out, err = _lint(*files, "--output", "json")
    assert code == 2
    assert json.loads(out)["code"] == "InvalidCatalog"
    assert "InvalidCatalog" in err
    assert runner.invoke(app, ["--sql", str(files[0])]).exit_code == 2
    files[1].write_text(GUARDED.model_dump_json(by_alias=True))
    for content in (b"\xff\xfe\x00", b'{"segments": [{"executionSequence": 1}]}', TWICE):
        files[0].write_bytes(content)
        code, out, err = _lint(*files, "--output", "json")
        body = json.loads(out)
        assert code == 2
        assert body["hint"] in err
        assert "pydantic" not in out


TWICE = b'{"segments": [{"executionSequence": 1, "data": "SELECT 1 AS a", "data": "SELECT 2 AS a"}]}'


def test_segments_of_a_query_document_are_read_too() -> None:
    text = '{"segments": [{"executionSequence": 1, "data": "SELECT region, COUNT(*) AS n FROM orders GROUP BY region", "preConditions": [], "postFilters": [{"columnName": "n", "value": 25}]}]}'
    verdict = verdict_of(text, GUARDED)
    assert verdict.allowed
    assert verdict.rewritten[0].post_filters[0].value == 25


def test_checks_in_several_threads_do_not_disturb_each_other() -> None:
    catalog = Catalog.model_validate({"views": {"t": {"columns": {"a": "integer"}}}})
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda sql: check_sql(sql, catalog), ["SELECT a FROM t", "SELECT (((", "SELECT b FROM t"] * 8))
    assert [verdict.allowed for verdict in verdicts] == [True, False, False] * 8
