"""Failures of the payload: redaction, codes and the termination message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import ArithmeticException, NumberFormatException

from cleanroom.errors import CleanRoomError, PreconditionFailed
from sparkapp.failures import TaskFailed, failure_code, redact_error, redact_for_floors, redact_task_errors, write_termination
from tests.unit.sparkapp_dataset import DatasetWorld


def test_task_error_keeps_its_code_and_loses_values() -> None:
    def broken(error: Exception):
        yield 1
        raise error

    typed = CleanRoomError.from_dict({"code": "SchemaMismatch", "message": "x", "category": "invalid-input", "details": {"row": 3}})
    for error, code in ((typed, "SchemaMismatch"), (ValueError("SECRET"), "PayloadError")):
        with pytest.raises(TaskFailed) as caught:
            list(redact_task_errors(broken(error)))
        assert "SECRET" not in str(caught.value)
        assert caught.value.__cause__ is None
        wrapped = RuntimeError(f"Job aborted: Traceback …\n{caught.value}\n at java.lang.Thread")
        assert redact_error(wrapped).code == code
    assert redact_error(wrapped).category == "internal"


@pytest.mark.parametrize("floors", [{"minGroupSize": 5, "identityColumn": "hidden"}, {"allowedOutputColumns": ["id"]}, {}])
def test_query_failure_under_a_floor_does_not_disclose_its_condition(tmp_path: Path, floors: dict[str, Any]) -> None:
    """Which of Spark's conditions it was is chosen by the author, and can be made to depend on one row."""
    job = DatasetWorld(tmp_path / "w", floors=floors).pod().job()
    errors = [NumberFormatException("CANARY"), ArithmeticException("CANARY")]
    redacted = [redact_for_floors(error, job).to_dict() for error in errors]
    assert (redacted[0] == redacted[1]) is bool(floors)
    assert {item["code"] for item in redacted} == {"QueryFailed"}
    assert "CANARY" not in str(redacted)
    assert redact_for_floors(PreconditionFailed("ConsentWithdrawn", "x"), job).code == "ConsentWithdrawn"


def test_failure_code_is_converted_to_upper_case() -> None:
    assert failure_code("SchemaMismatch") == "SCHEMA_MISMATCH"
    assert failure_code("AADSTS700213") == "AADSTS700213"
    assert failure_code("NoDataInDateRange") == "NO_DATA_IN_DATE_RANGE"


def test_long_termination_message_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANROOM_TERMINATION_LOG", str(tmp_path / "log"))
    write_termination({"code": "X", "message": "é" * 9000, "cause": "c" * 9000, "details": {"d": "d" * 9000}})
    text = (tmp_path / "log").read_bytes()
    assert len(text) <= 4096
    assert json.loads(text)["code"] == "X"
