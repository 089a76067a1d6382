"""Results in every format and encryption mode, written by a pod and downloaded by their owner."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from cleanroom.datasets.download import download_result
from cleanroom.datasets.result import result_digest, write_receipt
from cleanroom.datasets.schema import arrow_schema
from cleanroom.spark.job import ResultReceipt
from sparkapp.output import ComputedResult, write_result
from tests.unit.sparkapp_dataset import DIGEST, DatasetWorld


@pytest.mark.parametrize("mode", ["CSE", "SSE", "CPK"])
@pytest.mark.parametrize("fmt", ["csv", "csv with header", "json", "parquet"])
def test_downloaded_result_equals_the_written_one(tmp_path: Path, fmt: str, mode: str) -> None:
    types = {"s": "string", "i": "integer", "l": "long", "n": "number", "b": "boolean", "d": "date", "t": "timestamp"}
    world = DatasetWorld(
        tmp_path / "w",
        format=fmt.split()[0],
        csv_header=fmt == "csv with header",
        encryption=mode,
        key_secret_id="cleanroom_key" if mode == "CSE" else None,
        schema_fields=types,
        allowed_fields=tuple(types),
    )
    values: list[dict[str, object]] = [
        dict.fromkeys(types),
        {"s": 'a "b",\n\r\n é', "i": -1, "l": 2**60, "n": 0.1, "b": False, "d": date(1, 1, 1), "t": datetime(2024, 1, 2, 3, 4, 5, 6, UTC)},
        {"s": "", "i": 0, "l": 0, "n": -0.5, "b": True, "d": date(9999, 12, 31), "t": datetime(1, 1, 1, tzinfo=UTC)},
    ]
    table = pa.Table.from_pylist(values, schema=arrow_schema(world.dataset.schema_fields))
    pod = world.pod()
    objects = write_result(ComputedResult(3, None, table), pod, pod.job())  # type: ignore[arg-type]
    receipt = ResultReceipt(
        run_id="r-1",
        query_digest=DIGEST,
        job_digest=DIGEST,
        dataset="things",
        objects=objects,
        rows=3,
        digest=result_digest(objects),
        columns=tuple(types),
    )
    key = world.key if mode == "CSE" else None
    write_receipt(world.store, receipt, key, collaboration="c")
    options = {
        "collaboration": "c",
        "result_format": world.dataset.format,
        "types": world.dataset.schema_fields,
        "csv_header": world.dataset.csv_header,
    }
    assert download_result(world.store, receipt, key, **options).to_pylist() == values  # type: ignore[arg-type]
