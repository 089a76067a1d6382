"""``cleanroom query adopt`` and ``cleanroom run show --from-ledger``: their options, and what they print."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cleanroom.errors import NotFound
from starters.cli import app
from starters.operations import ledger_run
from starters.operations.session import Session

runner = CliRunner()


@pytest.fixture(autouse=True)
def no_temporal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(session: Session, **options: Any) -> Any:
        raise AssertionError("Temporal was contacted")

    monkeypatch.setattr(Session, "temporal", refuse)
    for name, value in {
        "COLLABORATION": "flights",
        "PARTY": "north",
        "PARTIES": '{"north": "u-north"}',
        "TEMPORAL__KEYRING_FILE": "k",
    }.items():
        monkeypatch.setenv(f"CLEANROOM_{name}", value)


def test_a_run_is_shown_without_temporal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def show(session: Session, run_id: str) -> dict[str, Any]:
        return {"run_id": run_id, "state": "COMPLETED", "steps": ["2026-01-01 00:00:00 PREPARED"], "not_in_ledger": ["retries"]}

    monkeypatch.setattr(ledger_run, "show_run_from_ledger", show)
    done = runner.invoke(app, ["run", "show", "r-1", "--from-ledger", "--output", "json"])
    assert (done.exit_code, json.loads(done.output)["state"]) == (0, "COMPLETED")
    table = runner.invoke(app, ["run", "show", "r-1", "--from-ledger"])
    assert "run r-1, from the ledger" in table.output
    assert "retries" in table.output


def test_a_run_that_the_ledger_does_not_know_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def show(session: Session, run_id: str) -> dict[str, Any]:
        raise NotFound("RunNotInLedger", "none")

    monkeypatch.setattr(ledger_run, "show_run_from_ledger", show)
    assert runner.invoke(app, ["run", "show", "r-1", "--from-ledger"]).exit_code == 3


def test_adopting_passes_the_periods_and_prints_what_was_not_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    async def adopt(session: Session, name: str, **options: Any) -> dict[str, Any]:
        asked.update(options, name=name)
        return {"query": name, "state": "Approved", "not_rebuilt": ["the history"]}

    monkeypatch.setattr("starters.operations.adopt.adopt_query", adopt)
    done = runner.invoke(app, ["query", "adopt", "totals", "--approval-days", "2", "--output", "json"])
    assert (done.exit_code, json.loads(done.output)["not_rebuilt"]) == (0, ["the history"])
    assert asked == {"name": "totals", "approval_seconds": 2 * 86_400}
