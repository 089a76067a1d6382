"""Failures of the payload: redaction, codes and the termination message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import AnalysisException, ArithmeticException, NumberFormatException, ParseException

from cleanroom.errors import CATEGORIES, CleanRoomError, PreconditionFailed, Refused, Unavailable
from sparkapp.failures import (
    EXIT_CODES,
    TaskFailed,
    failure_code,
    redact_error,
    redact_for_floors,
    redact_task_errors,
    report_failure,
    retry_transient,
    write_termination,
)
from tests.unit.sparkapp_dataset import DatasetWorld


@pytest.fixture
def termination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEANROOM_TERMINATION_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


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


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ParseException("no viable SELECT\nat CANARY; more"), "QueryInvalid", "no viable SELECT"),
        (AnalysisException("column  `x`\tis missing;\n'Project CANARY"), "QueryInvalid", "column `x` is missing"),
        (NumberFormatException("CANARY is no number"), "QueryFailed", "NumberFormatException"),
        (ValueError("CANARY"), "PayloadError", "ValueError at"),
        (KeyboardInterrupt("CANARY"), "PayloadError", "KeyboardInterrupt"),
    ],
)
def test_error_keeps_its_kind_and_loses_values(error: BaseException, code: str, words: str) -> None:
    redacted = redact_error(error)
    assert (redacted.code, words in redacted.message) == (code, True)
    assert "CANARY" not in json.dumps(redacted.to_dict())


def test_error_of_spark_names_its_condition() -> None:
    error = NumberFormatException(errorClass="CANNOT_PARSE_DATATYPE", messageParameters={"msg": "CANARY"})
    redacted = redact_error(error)
    assert redacted.details == {"condition": "CANNOT_PARSE_DATATYPE"}
    assert redact_error(AnalysisException("x")).details == {"condition": "AnalysisException"}


def test_text_of_the_query_is_shown_up_to_a_limit() -> None:
    assert redact_error(ParseException("x" * 500)).message == "Spark refused the query: " + "x" * 400


def test_unexpected_error_shows_the_innermost_places() -> None:
    def deeper(levels: int) -> None:
        if levels == 0:
            raise ValueError
        deeper(levels - 1)

    with pytest.raises(ValueError) as caught:
        deeper(6)
    line = deeper.__code__.co_firstlineno
    places = " < ".join([f"test_sparkapp_failures.py:{line + 2}", *[f"test_sparkapp_failures.py:{line + 3}"] * 3])
    assert redact_error(caught.value).message == f"The payload failed with ValueError at {places}. The message is withheld."


def test_decoded_task_error_is_complete() -> None:
    typed = Refused("CiphertextInvalid", "object x", cause="c", hint="h", party="u-1", details={"object": "x"}, retryable=True)
    with pytest.raises(TaskFailed) as caught:
        list(redact_task_errors(_raising(typed)))
    assert redact_error(RuntimeError(f"Job aborted: {caught.value} at line 3")).to_dict() == typed.to_dict()
    assert redact_error(typed) is typed


def _raising(error: Exception) -> Iterator[int]:
    yield 1
    raise error


def test_closed_task_is_not_an_error() -> None:
    closed: list[str] = []

    def steps() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append("closed")

    guarded = redact_task_errors(steps())
    assert next(guarded) == 1
    guarded.close()  # type: ignore[attr-defined]
    assert closed == ["closed"]


# --- retries


def clocked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock of tenacity by one that only sleeping moves; return the naps."""
    naps: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", naps.append)
    monkeypatch.setattr("tenacity.time.monotonic", lambda: sum(naps))
    monkeypatch.setattr("tenacity.wait.random.uniform", lambda low, high: high)
    return naps


def test_retryable_errors_are_retried_with_growing_waits_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = clocked(monkeypatch)

    def call() -> None:
        raise Unavailable("Away", "x")

    with pytest.raises(CleanRoomError, match="Away"):
        retry_transient(60.0, call)
    assert naps == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]


@pytest.mark.parametrize("error", [Refused("Denied", "x"), ValueError("x")])
def test_other_errors_are_not_retried(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    naps = clocked(monkeypatch)

    def call() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        retry_transient(60.0, call)
    assert (caught.value, naps) == (error, [])


def test_call_that_succeeds_after_a_failure_returns_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked(monkeypatch)
    outcomes: list[Any] = [Unavailable("Away", "x"), 7]

    def call() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return int(outcome)

    assert retry_transient(1.0, call) == 7


def test_time_that_a_service_asks_for_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = clocked(monkeypatch)
    outcomes: list[Any] = [Unavailable("Busy", "x", details={"retryAfter": wait}) for wait in (20.0, 0.1)] + [7]

    def call() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return int(outcome)

    assert retry_transient(60.0, call) == 7
    assert naps[0] == 20.0
    assert naps[1] == 1.0


def test_service_that_asks_to_wait_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = clocked(monkeypatch)

    def call() -> None:
        raise Unavailable("Busy", "x", details={"retryAfter": 3600})

    with pytest.raises(Unavailable, match="Busy"):
        retry_transient(60.0, call)
    assert naps == []


# --- termination message


@pytest.mark.parametrize(("category", "exit_code"), {**EXIT_CODES, "unknown": 17}.items())
def test_failure_is_written_with_its_facts_and_ends_with_the_categorys_code(
    termination: Path, monkeypatch: pytest.MonkeyPatch, category: str, exit_code: int
) -> None:
    error = CleanRoomError.from_dict({"code": "SchemaMismatch", "message": "x", "category": category, "details": {"row": 3}})
    monkeypatch.setattr(type(error), "category", category)
    assert report_failure(error, {"runId": "r-1"}) == exit_code
    written = json.loads(termination.read_text())
    assert (written["code"], written["category"], written["details"]) == ("SCHEMA_MISMATCH", category, {"row": 3, "runId": "r-1"})


def test_exit_codes_are_distinct_and_not_those_of_shells_python_or_spark() -> None:
    assert sorted(EXIT_CODES.values()) == list(range(10, 18))
    assert set(EXIT_CODES) == set(CATEGORIES)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"code": "X", "cause": "c" * 4000, "details": {"a": "b"}, "message": "m"}, {"code": "X", "cause": "c" * 4000}),
        ({"code": "X", "cause": "c" * 5000, "details": {"a": "b"}, "message": "m"}, {"code": "X", "details": {"a": "b"}}),
        ({"runId": "r", "objects": ["o" * 5000], "rows": 1}, {"runId": "r", "objects": [], "rows": 1}),
        ({"code": "X", "details": {"d": "d" * 5000}, "message": "m"}, {"code": "X", "message": "m"}),
        ({"code": "X", "cause": "c" * 5000, "details": {"d": "d" * 5000}}, {"code": "X"}),
        ({"code": "X", "message": "m" * 5000}, {"code": "X", "message": "m" * 1000}),
    ],
)
def test_members_are_shortened_only_as_far_as_needed(termination: Path, value: dict[str, Any], kept: dict[str, Any]) -> None:
    write_termination(value)
    text = termination.read_text()
    assert len(text.encode()) <= 4096
    assert json.loads(text).items() >= kept.items()
    assert ("objects" in json.loads(text)) is ("objects" in kept)


def test_message_of_exactly_the_kubelets_size_is_kept(termination: Path) -> None:
    for size, cause in ((4096, True), (4097, False)):
        value = {"cause": "", "code": "X"}
        value["cause"] = "c" * (size - len(json.dumps(value)))
        write_termination(value)
        assert ("cause" in json.loads(termination.read_text())) is cause


def test_termination_log_that_cannot_be_written_does_not_hide_the_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLEANROOM_TERMINATION_LOG", str(tmp_path / "missing" / "log"))
    assert report_failure(Refused("Denied", "x"), {}) == 12


def test_termination_log_of_a_pod_is_the_kubelets(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.delenv("CLEANROOM_TERMINATION_LOG", raising=False)
    monkeypatch.setattr(Path, "write_text", lambda path, text, encoding: written.append(f"{path} {encoding} {text}"))
    write_termination({"code": "é"})
    assert written == ['/dev/termination-log utf-8 {"code": "é"}']
