"""Progress lines and audit events."""

from __future__ import annotations

import io
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError, InvalidInput, Refused, Unavailable
from sparkapp.reporting import Reporter
from tests.unit.spark_support import make_job

JOB = make_job()


class Ledger:
    """Keeps events, or raises ``error``."""

    def __init__(self, error: CleanRoomError | None = None) -> None:
        self.error, self.entries = error, []  # type: ignore[var-annotated]

    def record(self, event_id: str, event: dict[str, Any]) -> None:
        if self.error is not None:
            raise self.error
        self.entries.append((event_id, event))


def reporter(ledger: Ledger) -> Reporter:
    pod: Any = ledger
    return Reporter(pod, JOB)


def test_event_names_run_query_and_job_in_the_format_of_azure_cleanroom() -> None:
    ledger = Ledger()
    reporter(ledger).event("DATASET_LOAD_COMPLETED", "Dataset orders loaded", step="orders", statistics={"rows": 1}, facts={"a": "b"})
    assert ledger.entries == [
        (
            "run-1.dataset-load-completed.orders",
            {
                "id": 3001,
                "name": "DATASET_LOAD_COMPLETED",
                "source": "cleanroom-sparkapp",
                "message": "Event_DATASET_LOAD_COMPLETED_3001 | Dataset orders loaded | job id: run-1.",
                "runId": "run-1",
                "queryDigest": JOB.query_digest,
                "jobDigest": JOB.digest(),
                "step": "orders",
                "statistics": {"rows": 1.0},
                "facts": {"a": "b"},
            },
        )
    ]


def test_failure_is_recorded_by_its_code_only() -> None:
    ledger = Ledger()
    reporter(ledger).event("QUERY_FAILED", "Query failed", error=InvalidInput("SchemaMismatch", "a row"))
    ((_, event),) = ledger.entries
    assert (event["code"], event["statistics"], event["facts"]) == ("SCHEMA_MISMATCH", {}, {})
    assert "a row" not in str(event)


@pytest.mark.parametrize(
    ("error", "code"), [(Unavailable("GovernanceUnavailable", "away"), "AuditLost"), (Refused("NotGranted", "x"), "NotGranted")]
)
def test_event_that_the_ledger_does_not_confirm_is_an_error(error: CleanRoomError, code: str) -> None:
    with pytest.raises(CleanRoomError) as caught:
        reporter(Ledger(error)).event("QUERY_COMPLETED", "x")
    assert (caught.value.code, caught.value.retryable) == (code, error.retryable)


class Output(io.StringIO):
    """Standard output; ``shown`` is what has left its buffer."""

    shown = ""

    def flush(self) -> None:
        self.shown = self.getvalue()


def test_progress_is_printed_at_once_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 12.5, 13.25))
    monkeypatch.setattr("sparkapp.reporting.time.monotonic", lambda: next(clock))
    output = Output()
    monkeypatch.setattr("sys.stdout", output)
    made = reporter(Ledger())
    made.progress("opening")
    assert output.shown == "    2.50s  opening\n"
    assert made.seconds() == 3.25
