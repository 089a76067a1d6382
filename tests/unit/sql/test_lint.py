"""``cleanroom query lint``: exit codes, and what it prints."""

# ruff: noqa: E501  (one query per line)

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cleanroom.errors import Refused
from starters.lint import lint, verdict_of
from tests.unit.sql.world import GUARDED

runner = CliRunner()
app = typer.Typer()
app.command()(lint)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    catalog = tmp_path / "catalog.json"
    catalog.write_text(GUARDED.model_dump_json(by_alias=True))
    return tmp_path / "query.sql", catalog


def _lint(sql: Path, catalog: Path, *more: str) -> tuple[int, str, str]:
    result = runner.invoke(app, ["--sql", str(sql), "--catalog", str(catalog), "--no-spark", *more])
    return result.exit_code, result.stdout, result.stderr


def test_allowed_query_exits_0_and_prints_the_rewritten_query(files: tuple[Path, Path]) -> None:
    files[0].write_text(
        "create or replace temp view v as select region from orders;\nselect region, count(*) as n from v group by region;\n"
    )
    code, out, err = _lint(*files, "--output", "json")
    body = json.loads(out)
    assert (code, err) == (0, "")
    assert {"allowed", "reasons", "lineage", "rewritten"} <= body.keys()
    assert body["allowed"] is True
    assert "`v`.`__cr_id_0` AS `__cr_p`" in body["rewritten"]
    assert "HAVING COUNT(`__cr_r`.`__cr_p`) >= 5" in body["rewritten"]
    assert [segment["executionSequence"] for segment in body["segments"]] == [1, 2]
    assert _lint(*files)[1].startswith("reads\n")


def test_refused_query_exits_4_with_reasons(files: tuple[Path, Path]) -> None:
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


def test_refusal_contains_no_control_characters(files: tuple[Path, Path]) -> None:
    files[0].write_text("select `\x1b]0;x\x07\u202e` from orders")
    code, _, err = _lint(*files)
    assert code == 4
    assert "\x1b" not in err
    assert "\u202e" not in err


def test_missing_file_exits_3(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert _lint(*files)[0] == 3
    files[0].write_text("select 1 as a")
    assert _lint(files[0], tmp_path / "none.json")[0] == 3


def test_invalid_catalogue_exits_2(files: tuple[Path, Path]) -> None:
    files[0].write_text("select 1 as a")
    files[1].write_text("{")
    code, out, err = _lint(*files, "--output", "json")
    assert code == 2
    assert json.loads(out)["code"] == "InvalidCatalog"
    assert "InvalidCatalog" in err


def test_missing_option_exits_2(files: tuple[Path, Path]) -> None:
    assert runner.invoke(app, ["--sql", str(files[0])]).exit_code == 2


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b'{"segments": [{"executionSequence": 1}]}',
        b'{"segments": [{"executionSequence": 1, "data": "SELECT 1 AS a", "data": "SELECT 2 AS a"}]}',
    ],
    ids=["not UTF-8", "segment without SQL", "duplicate member"],
)
def test_invalid_query_file_exits_2_with_a_hint(content: bytes, files: tuple[Path, Path]) -> None:
    files[0].write_bytes(content)
    code, out, err = _lint(*files, "--output", "json")
    body = json.loads(out)
    assert code == 2
    assert body["hint"] in err
    assert "pydantic" not in out


def test_segments_of_a_query_document_are_accepted() -> None:
    text = '{"segments": [{"executionSequence": 1, "data": "SELECT region, COUNT(*) AS n FROM orders GROUP BY region", "preConditions": [], "postFilters": [{"columnName": "n", "value": 25}]}]}'
    verdict = verdict_of(text, GUARDED)
    assert verdict.allowed
    assert verdict.rewritten[0].post_filters[0].value == 25


def test_plan_of_an_allowed_query_is_checked_where_spark_is_installed(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sparkapp.plan_check

    files[0].write_text("SELECT region, COUNT(*) AS n FROM orders GROUP BY region")
    seen: list[list[str]] = []

    def refused(statements: list[str], catalog: object) -> None:
        seen.append(statements)
        raise Refused("PlanFloorMissing", "a floor is missing")

    monkeypatch.setattr(sparkapp.plan_check, "check_on_empty_views", refused)
    code, out, err = _lint(*files, "--spark")
    assert (code, out) == (4, "")
    assert "PlanFloorMissing: a floor is missing" in err
    monkeypatch.setattr(sparkapp.plan_check, "check_on_empty_views", lambda statements, catalog: seen.append(statements))
    assert _lint(*files, "--spark")[0] == 0
    assert [len(statements) for statements in seen] == [1, 1]
    files[0].write_text("SELECT amount FROM orders")
    assert _lint(*files, "--spark")[0] == 4
    assert len(seen) == 2, "a refused query has no plan"
