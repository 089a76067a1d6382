"""`cleanroom run start` compares the dates with the approved ones before a workflow is started."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cleanroom.documents.query import (
    Application,
    ApprovalScope,
    InputDataset,
    QueryDocument,
    QuerySegment,
    QuerySegments,
    RunParameters,
    encode_segments,
)
from cleanroom.documents.specs import load_query_spec
from starters.cli import app
from starters.operations.session import Session
from tests.governance_documents import use_profiles

runner = CliRunner()
READS: list[str] = []
"""Queries that were read from governance."""
STATE = ["Accepted"]
"""State of the query's document in governance."""
APPROVED = RunParameters(date_range=True, earliest="2013-01-01", latest="2013-01-31")


def document(parameters: RunParameters) -> str:
    segments = QuerySegments(segments=(QuerySegment(execution_sequence=1, data="SELECT 1 AS n FROM v"),))
    return QueryDocument(
        name="totals",
        application=Application(
            input_dataset=(InputDataset(specification="d", view="v"),),
            output_dataset=InputDataset(specification="o", view="result"),
            query=encode_segments(segments),
        ),
        approval=ApprovalScope(collaboration="flights", proposer_id="u", datasets=(), parameters=parameters),
    ).to_data()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Runs that were started, with a governance that holds one approved query."""
    runs: list[Any] = []
    use_profiles(tmp_path, monkeypatch, "fabrikam")

    async def get(name: str) -> Any:
        READS.append(name)
        return SimpleNamespace(data=document(APPROVED), id=name, state=STATE[0])

    @asynccontextmanager
    async def governance(session: Session) -> AsyncIterator[None]:
        yield None

    async def latest_name(session: Session, name: str, **options: Any) -> str:
        return name

    async def start_run(*arguments: Any, **options: Any) -> None:
        runs.append(arguments)

    monkeypatch.setattr(Session, "governance", governance)
    monkeypatch.setattr(Session, "documents", lambda session, client: SimpleNamespace(get=get))
    monkeypatch.setattr("starters.run.latest_name", latest_name)

    async def require_startable(*arguments: Any) -> None:
        """The owners' decisions stand."""

    monkeypatch.setattr("starters.operations.runs.require_startable", require_startable)
    monkeypatch.setattr("starters.operations.runs.start_run", start_run)
    return runs


@pytest.mark.parametrize(
    ("dates", "code", "exit_code"),
    [
        ("--start-date 2013-01-02 --end-date 2013-01-31", None, 0),
        ("--start-date 31.01.2013 --end-date 2013-01-31", "RunParametersInvalid", 2),
        ("--start-date 2013-1-1 --end-date 2013-01-31", "RunParametersInvalid", 2),
        ("--start-date 2013-02-28 --end-date 2013-02-30", "InvalidDateFormat", 2),
        ("--start-date 2013-01-31 --end-date 2013-01-01", "InvalidDateRange", 2),
        ("--start-date 2013-01-31", "InvalidDateRange", 2),
        ("--end-date 2013-01-31", "InvalidDateRange", 2),
        ("--start-date 2012-12-31 --end-date 2013-01-31", "ParametersNotApproved", 4),
        ("--start-date 2013-01-01 --end-date 2013-02-01", "ParametersNotApproved", 4),
        ("", "ParametersNotApproved", 4),
        ("--start-date 2013-01-02 --end-date 2013-01-31 --run-id Run_1", "InvalidName", 2),
    ],
)
def test_dates_are_refused_before_a_run_is_started(dates: str, code: str | None, exit_code: int, started: list[Any]) -> None:
    READS.clear()
    words = ["run", "start", "totals", *dates.split(), "--no-wait", "--plaintext", "--output", "json"]
    done = runner.invoke(app, words)
    found = json.loads(done.stdout)
    assert (found.get("code"), done.exit_code, bool(started)) == (code, exit_code, code is None), found
    assert code is None or found["hint"]
    assert bool(READS) is (code in (None, "ParametersNotApproved")), "dates that are wrong in themselves need no service"


DAYS = ["--start-date", "2013-01-02", "--end-date", "2013-01-31"]


@pytest.mark.parametrize("size", [None, "small", "medium", "large"])
def test_size_is_part_of_the_request(size: str | None, started: list[Any]) -> None:
    words = ["run", "start", "totals", *DAYS, *(["--size", size] if size else []), "--no-wait", "--plaintext", "--output", "json"]
    done = runner.invoke(app, words)
    assert done.exit_code == 0, done.stdout
    assert started[0][4].size == size


def test_unknown_size_is_refused_with_the_known_ones(started: list[Any]) -> None:
    done = runner.invoke(app, ["run", "start", "totals", *DAYS, "--size", "huge", "--no-wait", "--plaintext"])
    assert (done.exit_code, started) == (2, [])
    assert all(size in done.stderr for size in ("small", "medium", "large"))


@pytest.mark.parametrize(("state", "word"), [("Draft", "Draft"), ("Proposed", "Not Approved")])
def test_a_query_that_is_not_approved_starts_no_run(state: str, word: str, started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "STATE", [state])
    words = ["run", "start", "totals", "--start-date", "2013-01-02", "--end-date", "2013-01-03", "--plaintext", "--output", "json"]
    done = runner.invoke(app, words)
    error = json.loads(done.stdout)
    assert (error["code"], done.exit_code, started) == ("QueryNotApproved", 6, [])
    assert f"query 'totals' is {word}" in error["message"]
    assert "`cleanroom query show totals`" in error["hint"]


def test_days_in_a_query_file_need_no_quotes(tmp_path: Path) -> None:
    file = tmp_path / "query.yaml"
    file.write_text(
        "name: x\ninputs: {a: b}\noutput: c\nsql: SELECT 1\nparameters: {dateRange: true, earliest: 2013-01-01, latest: '2013-01-31'}\n"
    )
    assert load_query_spec(file).parameters == APPROVED
