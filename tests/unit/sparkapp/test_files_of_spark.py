"""What Spark writes to the disk of a pod: shuffle files and cached rows are encrypted, and no file contains a key."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkapp import entry, output, session, views
from tests.unit.sparkapp_run import Payload, make_run_world, segments

pytestmark = pytest.mark.spark

ON_DISK = b"canary-on-disk"
ROWS = 3000
SQL = (
    "SELECT tailnum AS manufacturer, COUNT(*) AS flights, CAST(0 AS DOUBLE) AS mean_delay, CAST(0 AS DOUBLE) AS warmest"
    " FROM planes GROUP BY tailnum ORDER BY manufacturer"
)


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "control"])
def test_files_contain_rows_only_without_encryption_and_never_a_key(
    encrypted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The control runs without the session's encryption. It shows that the search finds what it should not find."""
    world = make_run_world(tmp_path)
    folder = tmp_path / "planes"
    folder.mkdir()
    planes = {
        "tailnum": [f"{ON_DISK.decode()}-{n}" for n in range(ROWS)],
        "manufacturer": ["B"] * ROWS,
        "seats": pa.array([1] * ROWS, pa.int32()),
    }
    pq.write_table(pa.table(planes), folder / "planes.parquet", compression="none", use_dictionary=False)
    world.upload("litware-planes", folder)
    disk = tmp_path / "disk"
    monkeypatch.setattr(session, "READING_CONF", {**session.READING_CONF, "spark.local.dir": str(disk)})
    if not encrypted:
        monkeypatch.setattr(session, "ENCRYPTION_CONF", {"spark.io.encryption.enabled": "false"})
    # Tasks write the result, from rows that Spark holds on its disk.
    monkeypatch.setattr(output, "DRIVER_ROWS", 0)
    monkeypatch.setattr(views, "DRIVER_BYTES", dict.fromkeys(views.DRIVER_BYTES, 0))
    files: dict[str, bytes] = {}

    def write_result(*arguments: Any) -> Any:
        files.update({path.name: path.read_bytes() for path in disk.rglob("*") if path.is_file()})
        return output.write_result(*arguments)

    monkeypatch.setattr(entry, "write_result", write_result)
    job = world.job(segments=segments(SQL), datasets=(world.datasets["contosso-flights"], world.datasets["litware-planes"]))
    receipt = Payload(world, monkeypatch, capfd).run(job).receipt()
    assert receipt.rows == ROWS
    shuffled = [name for name, data in files.items() if name.startswith("shuffle_") and name.endswith(".data") and data]
    assert shuffled
    holding = [name for name, data in files.items() if ON_DISK in data]
    assert (holding == []) is encrypted, holding
    assert encrypted or set(holding) & set(shuffled)
    for key in world.keys.values():
        raw = key.reveal()
        for form in (raw, base64.b64encode(raw), raw.hex().encode()):
            assert not any(form in data for data in files.values())
