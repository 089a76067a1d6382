"""Runs that only the pods can reject, because of the rows: each fails with the payload's code and leaves no access behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cleanroom.documents.query import PreCondition
from cleanroom.messages.run import RunResult
from starters.operations.datasets import upload_rows
from tests.local_cloud import Cloud, World, planes_spec

pytestmark = [pytest.mark.scenario, pytest.mark.spark, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Failed:
    """A run that failed in the pods, on a query that was approved for one run."""

    query: str
    digest: str
    run_id: str
    result: RunResult


@pytest.fixture(scope="module")
def failed(cloud: Cloud, world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Failed]:
    """Start all runs concurrently, because each of them starts Spark."""
    uploaded = planes_spec()
    upload_rows(cloud.litware, uploaded, [world.files["planes"]])
    columns = {"tailnum": "string", "manufacturer": "string", "places": "long"}
    cloud.publish(cloud.litware, planes_spec(name=uploaded.name, schema=columns, store=uploaded.store.model_dump(by_alias=True)))
    fixed = planes_spec(manifest="pinned")
    cloud.publish(cloud.litware, fixed, world.files["planes"])
    upload_rows(cloud.litware, fixed, [_other_rows(world.files["planes"], tmp_path_factory.mktemp("rows"))])
    queries = {
        "schema": world.query(
            "schema",
            inputs={"flights": world.flights.name, "planes": uploaded.name},
            sql=world.SQL.replace("AVG(f.dep_delay)", "AVG(p.places)"),
        ),
        "pinned": world.query("pinned", inputs={"flights": world.flights.name, "planes": fixed.name}),
        "rows": world.query("rows", pre_conditions=(PreCondition(view_name="flights", min_row_count=3001),)),
    }
    runs = {}
    for word, query in queries.items():
        state = cloud.approved_query(query, max_runs=1)
        runs[word] = (state.query, state.digest, cloud.start(state.query, state.digest))
    return {word: Failed(*run, result=cloud.result(run[2])) for word, run in runs.items()}


def test_run_on_rows_with_another_schema_fails(failed: dict[str, Failed]) -> None:
    assert _code(failed["schema"].result) == "SCHEMA_MISMATCH"


def test_run_on_rows_uploaded_after_publication_fails(failed: dict[str, Failed]) -> None:
    assert _code(failed["pinned"].result) == "ROWS_NOT_THOSE_PUBLISHED"


def test_run_with_fewer_rows_than_a_precondition_fails(failed: dict[str, Failed]) -> None:
    result = failed["rows"].result
    assert _code(result) == "PRECONDITION_FAILED"
    assert result.failure is not None
    assert "3000" not in result.failure.message, "the message must not disclose the number of rows"


def test_failed_run_leaves_no_grants_and_no_result(cloud: Cloud, failed: dict[str, Failed]) -> None:
    assert cloud.leftovers.grants() == {}
    for run in failed.values():
        assert cloud.leftovers.staged(run.run_id) != []
        assert cloud.leftovers.secrets(run.run_id) == []
        assert run.result.receipt is None


def test_failed_run_uses_up_an_approval_for_one_run(cloud: Cloud, failed: dict[str, Failed]) -> None:
    run = failed["rows"]
    assert cloud.failed_run(run.query, run.digest)[0] == "ApprovalRunsExhausted"


def _other_rows(file: Path, folder: Path) -> Path:
    """Write a copy of ``file`` without its last row."""
    table = pq.read_table(file)
    pq.write_table(table.slice(0, table.num_rows - 1), folder / file.name)
    return folder / file.name


def _code(result: RunResult) -> str:
    assert result.state == "FAILED"
    assert result.failure is not None
    return result.failure.code
