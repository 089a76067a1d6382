"""Writes the rows of a result to a file: CSV, Parquet, or an Excel workbook."""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cleanroom.errors import Conflict, InvalidInput
from starters.terminal.result_view import result_values

EXCEL_ROWS: Final = 1_048_575
"""Rows of a worksheet, without the header."""
EXCEL_TEXT: Final = 32_767
"""Characters of a cell."""
_EXACT: Final = 2**53
"""Excel stores numbers as doubles, which represent integers exactly up to this one."""


def check_target(path: Path, *, force: bool) -> None:
    """Check the name of the file before the rows are decrypted.

    Raises:
        InvalidInput: ``ResultFileUnknown``.
        Conflict: ``FileExists``.
    """
    if path.suffix.lower() not in _WRITERS:
        raise InvalidInput("ResultFileUnknown", f"--to: {path} has no known format.", hint=f"End its name with {', '.join(_WRITERS)}.")
    if path.exists() and not force:
        raise Conflict("FileExists", f"--to: {path} exists.", hint="Name another file, or overwrite it with --force.")


def write_result(table: Any, path: Path) -> None:
    """Write a table (:mod:`cleanroom.datasets.readers`) to ``path``, in the format of its suffix.

    Only the owner can read the file, and it appears when it is complete.

    Raises:
        InvalidInput: ``ResultFileNotWritten``; ``ResultTooLargeForExcel``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        _WRITERS[path.suffix.lower()](table, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InvalidInput("ResultFileNotWritten", f"--to: cannot write {path}.", cause=error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _csv(table: Any, path: Path) -> None:
    columns = [map(_csv_value, result_values(column)) for column in table.columns]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(map(_csv_value, table.column_names)) + "\n")
        file.writelines(",".join(row) + "\n" for row in zip(*columns, strict=True))


def _csv_value(value: Any) -> str:
    """Return a value as Arrow writes it: text in quotes, and no value as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S.%f}".rjust(26, "0") + ("Z" if value.tzinfo else "")
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return str(value)


def _parquet(table: Any, path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(table, path)


def _excel(table: Any, path: Path) -> None:
    import xlsxwriter

    if table.num_rows > EXCEL_ROWS:
        raise InvalidInput(
            "ResultTooLargeForExcel",
            f"--to: the result has {table.num_rows:,} rows, and a worksheet {EXCEL_ROWS:,}.",
            hint="Use .csv or .parquet.",
        )
    with xlsxwriter.Workbook(str(path)) as workbook:
        sheet = workbook.add_worksheet("result")
        formats: dict[type, Any] = {
            dt.date: workbook.add_format({"num_format": "yyyy-mm-dd"}),
            dt.datetime: workbook.add_format({"num_format": "yyyy-mm-dd hh:mm:ss.000"}),
        }
        for column, (name, stored) in enumerate(zip(table.column_names, table.columns, strict=True)):
            sheet.write_string(0, column, name, workbook.add_format({"bold": True}))
            for row, value in enumerate(result_values(stored), 1):
                _cell(sheet, row, column, value, formats)
        sheet.freeze_panes(1, 0)
        sheet.autofilter(0, 0, table.num_rows, max(0, table.num_columns - 1))


def _cell(sheet: Any, row: int, column: int, value: Any, formats: dict[type, Any]) -> None:
    """Write one value. What Excel cannot represent becomes text, and text is never a formula."""
    if value is None:
        return
    if isinstance(value, bool):
        sheet.write_boolean(row, column, value)
    elif (isinstance(value, int) and abs(value) <= _EXACT) or (isinstance(value, float) and math.isfinite(value)):
        sheet.write_number(row, column, value)
    elif isinstance(value, dt.date) and value.year >= 1900 and getattr(value, "tzinfo", None) is None:
        sheet.write_datetime(row, column, value, formats[type(value)])
    else:
        text = value.isoformat() if hasattr(value, "isoformat") else str(value)
        if len(text) > EXCEL_TEXT:
            message = f"--to: a text in row {row} has {len(text):,} characters, and a cell at most {EXCEL_TEXT:,}."
            raise InvalidInput("ResultTooLargeForExcel", message, hint="Use .csv or .parquet.")
        sheet.write_string(row, column, text)


_WRITERS: Final[dict[str, Callable[[Any, Path], None]]] = {".csv": _csv, ".parquet": _parquet, ".xlsx": _excel}
