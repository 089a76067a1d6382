"""The output of ``cleanroom demo``, and its result compared with DuckDB on the plain rows of all 336,776 flights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cleanroom.documents.specs import DatasetSpec
from cleanroom.spark.job import ResultReceipt
from starters.demo import demo_spec
from starters.operations.results import open_result, read_receipt
from starters.operations.session import Session, run_async
from starters.terminal.result_view import result_rows
from tests.local_cloud import Cloud, assert_same_rows, code_of
from tests.local_cloud.demo import expected_rows

pytestmark = [pytest.mark.scenario, pytest.mark.spark, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def demo(cloud: Cloud) -> dict[str, Any]:
    """The last line that the demo printed. The demo started this session's cloud."""
    if cloud.demo is None:
        pytest.skip("the cloud in CLEANROOM_TEST_CLOUD was not started by this session's demo")
    return cloud.printed_by_demo


@pytest.fixture(scope="module")
def receipt(cloud: Cloud, demo: dict[str, Any]) -> ResultReceipt:
    return run_async(read_receipt(cloud.fabrikam, demo["run_id"]))


@pytest.fixture(scope="module")
def sink(receipt: ResultReceipt) -> DatasetSpec:
    return demo_spec(receipt.dataset)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows that DuckDB computes with the same SQL on the plain tables."""
    return expected_rows(tmp_path_factory.mktemp("plain"))


def test_last_line_is_one_json_object(demo: dict[str, Any]) -> None:
    assert {"run_id", "state", "rows", "workflow_ids", "seconds"} <= demo.keys()
    assert demo["state"] == "COMPLETED"
    assert set(demo["workflow_ids"]) == {"contosso-flights", "litware-planes", "litware-weather", "litware-delays", "query", "run"}
    assert 0 < demo["spark_seconds"] < demo["seconds"]


def test_printed_rows_equal_those_of_duckdb(demo: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert_same_rows(demo["rows"], expected, "manufacturer")


def test_rows_that_litware_opens_equal_those_of_duckdb(
    cloud: Cloud, receipt: ResultReceipt, sink: DatasetSpec, expected: list[dict[str, Any]]
) -> None:
    assert_same_rows(result_rows(open_result(cloud.litware, sink, receipt)), expected, "manufacturer")


def test_receipt_states_rows_and_digest(demo: dict[str, Any], receipt: ResultReceipt) -> None:
    assert receipt.model_dump(mode="json") == demo["receipt"]
    assert receipt.rows == len(demo["rows"])
    assert len(receipt.digest) == 64


def test_forged_receipt_does_not_open_the_result(cloud: Cloud, receipt: ResultReceipt, sink: DatasetSpec) -> None:
    """The digest in the receipt detects a replaced object or a replaced receipt."""
    first = receipt.objects[0].model_copy(update={"sha256": "0" * 64})
    forged = receipt.model_copy(update={"objects": (first, *receipt.objects[1:])})
    assert code_of(lambda: open_result(cloud.litware, sink, forged)) == "ReceiptDigestMismatch"


def test_fabrikam_cannot_open_the_rows(cloud: Cloud, receipt: ResultReceipt, sink: DatasetSpec, tmp_path: Path) -> None:
    """Fabrikam has no access to the bucket. Even with access, Litware's key is missing."""
    assert code_of(lambda: open_result(cloud.fabrikam, sink, receipt)) == "SecretFileNotFound"
    theirs, litwares = cloud.settings("fabrikam"), cloud.settings("litware")
    intruder = Session(theirs.model_copy(update={"s3": litwares.s3, "secret_files": litwares.secret_files}))
    assert code_of(lambda: open_result(intruder, sink, receipt)) == "DatasetKeyNotFound"


def test_stores_contain_no_plain_rows(cloud: Cloud, demo: dict[str, Any]) -> None:
    """No file of a store contains a value of the flights, the planes or the result."""
    needles = (b"MCDONNELL DOUGLAS", b"N14228", b"tailnum", b"PAR1")
    assert len(cloud.stored_by_demo) > 3
    assert [needle for needle in needles if any(needle in data for data in cloud.stored_by_demo)] == []


def test_every_grant_is_revoked(cloud: Cloud, demo: dict[str, Any]) -> None:
    assert cloud.leftovers.grants() == {}
    assert cloud.leftovers.secrets(demo["run_id"]) == []
    assert len(cloud.leftovers.staged(demo["run_id"])) == 9  # four keys, three connections, the consent receipt, the network secret
