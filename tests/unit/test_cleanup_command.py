"""``cleanroom cleanup``: its options, what it prints, and its exit codes."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cleanroom.errors import InvalidInput
from cleanroom.messages.cleanup import CleanupReport, Leftover
from starters.cli import app
from starters.operations import cleanup
from starters.operations.intervals import parse_interval

runner = CliRunner()


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANROOM_COLLABORATION", "flights")
    monkeypatch.setenv("CLEANROOM_TEMPORAL__KEYRING_FILE", "keyring.json")


LEFT = Leftover(
    run_id="r-1", query="totals", held={"secrets": 3, "not closed": 1}, age_seconds=3723, reason="its workflow has ended: TERMINATED"
)


def invoke(monkeypatch: pytest.MonkeyPatch, *words: str, **members: Any) -> tuple[int, str, dict[str, Any]]:
    """Run the command against a report; returns exit code, output, and what the cleanup was asked for."""
    asked: dict[str, Any] = {}

    async def run(session: Any, **options: Any) -> CleanupReport:
        asked.update(options)
        return CleanupReport(collaboration="flights", **{"applied": options["apply"]} | members)

    monkeypatch.setattr(cleanup, "run_cleanup", run)
    # A console reads the width when it is created, so the environment of an earlier test would decide.
    monkeypatch.setattr("starters.terminal.output.out", Console(soft_wrap=True, width=200))
    done = runner.invoke(app, ["cleanup", *words])
    return done.exit_code, done.output, asked


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--apply",)], ids=["default", "dry run", "apply"])
def test_nothing_left_is_one_sentence_and_exit_0(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, asked = invoke(monkeypatch, *words, open_runs=2)
    assert (code, output.strip()) == (0, "Nothing is left of ended runs; 2 open runs hold secrets or grants.")
    assert asked == {"apply": "--apply" in words, "grace_seconds": 600, "lost": ()}


def test_a_dry_run_that_finds_something_names_it_and_exits_6(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, _ = invoke(monkeypatch, "--dry-run", left=(LEFT,))
    assert code == 6
    for text in ("flights", "r-1", "totals", "3 secrets", "not closed", "1:02:03", "TERMINATED", "cleanroom cleanup --apply"):
        assert text in output


@pytest.mark.parametrize(("outcome", "expected"), [("undone", 0), ("GrantsRemain", 6)], ids=["undone", "failed"])
def test_applying_exits_with_what_became_of_it(outcome: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, _ = invoke(monkeypatch, "--apply", left=(LEFT.model_copy(update={"outcome": outcome}),))
    assert (code, outcome in output) == (expected, True)


def test_what_could_not_be_looked_at_exits_7(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, _ = invoke(monkeypatch, "--apply", unchecked={"SparkApplications": "KubernetesUnreachable"})
    assert code == 7
    assert "SparkApplications could not be looked at (KubernetesUnreachable)" in output


def test_more_runs_than_were_looked_at_exit_7(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, _ = invoke(monkeypatch, "--apply", more=True)
    assert (code, "there are more runs" in output) == (7, True)


def test_what_is_left_alone_is_listed_and_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = LEFT.model_copy(update={"reason": "it began in another Temporal namespace"})
    code, output, asked = invoke(monkeypatch, "--lost", "n-1", "--lost", "n-2", "--grace", "5", kept=(kept,), unattributed=4)
    assert (code, asked["lost"], asked["grace_seconds"]) == (0, ["n-1", "n-2"], 5)
    assert output.index("left alone") < output.index("another Temporal namespace")
    assert "4 grants belong to no known run" in output


def test_json_is_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, _ = invoke(monkeypatch, "--output", "json", left=(LEFT,), unattributed=1)
    report = json.loads(output)
    assert (code, report["left"][0]["run_id"], report["unattributed"], report["applied"]) == (6, "r-1", 1, False)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--apply", "--dry-run"), "OptionsExclude"),
        (("--schedule", "--unschedule"), "OptionsExclude"),
        (("15m",), "IntervalNotUsed"),
        (("--schedule", "soon"), "IntervalInvalid"),
        (("--schedule", "59s"), "IntervalInvalid"),
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_are_refused(words: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, asked = invoke(monkeypatch, *words)
    assert (code, expected in output, asked) == (2, True, {})


@pytest.mark.parametrize(("text", "seconds"), [("60s", 60), ("15m", 900), ("1h", 3600), ("7d", 604_800)])
def test_an_interval_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_interval(text) == dt.timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "1h30m", "0d", "9999999d"])
def test_anything_else_is_no_interval(text: str) -> None:
    with pytest.raises(InvalidInput, match="IntervalInvalid"):
        parse_interval(text)
