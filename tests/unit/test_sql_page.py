"""The examples of docs/guides/sql.md: the gate accepts those without a comment, and refuses the others with the code in the comment."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cleanroom.sql import Catalog, check_sql, split_statements
from starters.cli import app

PAGE = (Path(__file__).parents[2] / "docs/guides/sql.md").read_text("utf-8")
CATALOG = re.findall(r"^```json\n(.*?)^```", PAGE, re.M | re.S)
EXAMPLES = re.findall(r"^```sql\n(?:-- (\w+)\n)?(.*?)^```", PAGE, re.M | re.S)


@pytest.mark.parametrize(("code", "sql"), EXAMPLES, ids=[f"{number} {code}".strip() for number, (code, _) in enumerate(EXAMPLES, 1)])
def test_the_gate_judges_an_example_as_the_page_says(code: str, sql: str) -> None:
    verdict = check_sql(split_statements(sql), Catalog.parse(CATALOG[0]))
    assert [reason.code for reason in verdict.reasons] == ([code] if code else []), verdict.reasons


def test_the_page_has_accepted_and_refused_examples_and_its_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = [sql for code, sql in EXAMPLES if not code]
    assert (len(CATALOG), len(accepted) >= 10, len(EXAMPLES) - len(accepted) >= 12) == (1, True, True)
    monkeypatch.chdir(tmp_path)
    Path("catalogue.json").write_text(CATALOG[0])
    Path("query.sql").write_text(accepted[0])
    monkeypatch.setattr("shutil.which", lambda name: None)  # without Java, no plan is checked
    done = CliRunner().invoke(app, ["query", "lint", "--sql", "query.sql", "--catalog", "catalogue.json", "--output", "json"])
    assert (done.exit_code, json.loads(done.stdout)["allowed"]) == (0, True), done.output


def test_a_choice_of_values_inside_a_sum_names_the_form_that_is_accepted() -> None:
    sql = "SELECT country, SUM(CASE WHEN product = 'book' THEN amount ELSE quantity END) AS books FROM orders GROUP BY country"
    (reason,) = check_sql([sql], Catalog.parse(CATALOG[0])).reasons
    assert "write one aggregate with FILTER (WHERE …) for each case" in reason.message
