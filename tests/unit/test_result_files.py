"""``run result --to``: the rows of a result as CSV, Parquet and Excel."""

from __future__ import annotations

import datetime as dt
import math
import stat
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from cleanroom.errors import Conflict, InvalidInput
from starters.terminal import result_files
from starters.terminal.result_files import check_target, write_result

TABLE = pa.table(
    {
        "city": ["Lyon", "=1+1", None],
        "customers": pa.array([1, 2**60, None], pa.int64()),
        "spend": [1.5, math.nan, -math.inf],
        "since": pa.array([dt.date(2020, 1, 2), dt.date(1800, 1, 1), None]),
        "at": pa.array([dt.datetime(2020, 1, 2, 3, 4, 5), None, None], pa.timestamp("us")),
        "member": [True, False, None],
    }
)


def cells(path: Path) -> dict[str, tuple[str, str]]:
    """Return type and content of the cells of a workbook, as its XML has them."""
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(path) as archive:
        shared = [
            "".join(part.text or "" for part in item.iter(f"{space}t"))
            for item in ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
        ]
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    assert not list(sheet.iter(f"{space}f")), "a formula"
    found = {}
    for cell in sheet.iter(f"{space}c"):
        text = cell.findtext(f"{space}v") or ""
        kind = cell.get("t", "n")
        found[str(cell.get("r"))] = (kind, shared[int(text)] if kind == "s" else text)
    return found


def test_csv_and_parquet_have_the_rows_and_are_private(tmp_path: Path) -> None:
    for name in ("r.csv", "new/r.parquet"):
        write_result(TABLE, tmp_path / name)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert parquet.read_table(tmp_path / "new/r.parquet").schema == TABLE.schema
    assert str(parquet.read_table(tmp_path / "new/r.parquet")["spend"]) == str(TABLE["spend"])
    assert csv.read_csv(tmp_path / "r.csv").column("customers").to_pylist() == [1, 2**60, None]
    assert {path.name for path in tmp_path.rglob("*")} == {"r.csv", "r.parquet", "new"}


def test_workbook_has_types_and_no_formula(tmp_path: Path) -> None:
    write_result(TABLE, tmp_path / "r.XLSX")
    found = cells(tmp_path / "r.XLSX")
    assert [found[f"{letter}1"][1] for letter in "ABCDEF"] == TABLE.column_names
    assert [found[f"{letter}2"] for letter in "ABCF"] == [("s", "Lyon"), ("n", "1"), ("n", "1.5"), ("b", "1")]
    assert (found["D2"], found["E2"][0]) == (("n", "43832"), "n")
    assert float(found["E2"][1]) == pytest.approx(43832.1278356)
    assert [found[f"{letter}3"] for letter in "ABCDF"] == [
        ("s", "=1+1"), ("s", str(2**60)), ("s", "nan"), ("s", "1800-01-01"), ("b", "0"),
    ]  # fmt: skip
    assert found["C4"] == ("s", "-inf")
    assert "A4" not in found


def test_result_that_excel_cannot_hold_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="a text in row 1"):
        write_result(pa.table({"a": ["x" * 32_768]}), tmp_path / "r.xlsx")
    monkeypatch.setattr(result_files, "EXCEL_ROWS", 2)
    with pytest.raises(InvalidInput, match="3 rows"):
        write_result(TABLE, tmp_path / "r.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_target_is_checked_before_rows_are_decrypted(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_target(tmp_path / "r.ods", force=False)
    assert (caught.value.code, caught.value.hint) == ("ResultFileUnknown", "End its name with .csv, .parquet, .xlsx.")
    (tmp_path / "r.csv").write_text("mine")
    with pytest.raises(Conflict, match="FileExists"):
        check_target(tmp_path / "r.csv", force=False)
    check_target(tmp_path / "r.csv", force=True)
    with pytest.raises(InvalidInput, match="ResultFileNotWritten"):
        write_result(TABLE, tmp_path / "r.csv/r.csv")
    assert (tmp_path / "r.csv").read_text() == "mine"
