"""The driver's program without Spark: the order of its steps, and what remains after each step that fails."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cleanroom.datasets.result import result_digest
from cleanroom.errors import CleanRoomError, InvalidInput, PreconditionFailed, Refused, Unavailable
from cleanroom.query_gate import job_catalog
from cleanroom.spark.job import JobConfig, ResultObject, ResultReceipt
from cleanroom.spark.pod_spans import POD_STEPS, PREFIX
from cleanroom.spark.run_events import RunEvent, parse_event
from cleanroom.sql import Catalog
from sparkapp import entry
from sparkapp.listing import DatasetListing
from sparkapp.output import ComputedResult
from sparkapp.views import LoadFailed, View
from tests.unit.spark_support import make_job

OBJECTS = (ResultObject(name="flights/run-1/part-00000-000.csv", size=7, sha256="ab" * 32),)
STEPS = [
    "verify_rendering",
    "consent before a dataset was opened",
    "open_datasets",
    "register_views",
    "consent before the query ran",
    "require_locked",
    "PlanCheck",
    "run_segments",
    "hold_persons",
    "conform",
    "compute",
    "count rows left out",
    "complete_views",
    "consent before the result was written",
    "write_result",
    "seal_receipt",
]
EVENTS = ["DATASET_LOAD_COMPLETED", "DATASET_LOAD_COMPLETED", "DATASET_WRITE_COMPLETED", "QUERY_STATISTICS", "QUERY_COMPLETED"]


def job_of_run(**changes: Any) -> JobConfig:
    """Return a job with two inputs; its output dataset has a column that the query must not deliver."""
    base = json.loads(make_job().model_dump_json(by_alias=True))
    orders = base["datasets"][0]
    sink = {
        **base["datasink"],
        "schema": [["region", "string"], ["hidden", "string"], ["amount", "number"]],
        "allowedFields": ["amount", "region"],
    }
    return make_job(datasets=[orders, {**orders, "name": "prices", "viewName": "p"}], datasink=sink, **changes)


class Program:
    """The pod and every step of the program. ``failing`` maps a step or an event to the error that it raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, job: JobConfig) -> None:
        self.config = job
        self.steps: list[str] = []
        self.events: list[RunEvent] = []
        self.event_ids: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.discarded: list[tuple[ResultObject, ...]] = []
        self.stopped = 0
        self.suppresses = True
        self.floor = -1
        self.clock = 100.0
        self.sealed: list[ResultReceipt] = []
        self.views = [View(self._listing(0), 30), View(self._listing(1), 12)]
        steps: dict[str, Callable[..., Any]] = {
            "verify_rendering": lambda given: self._require(given is self.config),
            "open_datasets": self._open,
            "register_views": self._register,
            "require_locked": lambda spark: self._require(spark is self),
            "run_segments": self._segments,
            "PlanCheck": lambda spark, catalog: self._check(spark, catalog),
            "hold_persons": lambda spark, frame: self._held(spark, frame),
            "conform": lambda frame, sink: self._require((frame, sink) == ("held", self.config.datasink)),
            "compute": lambda frame: ComputedResult(3, frame, None),
            "complete_views": self._complete,
            "write_result": lambda result, pod, given: OBJECTS,
            "seal_receipt": lambda pod, given, receipt: self.sealed.append(receipt),
        }
        for name, action in steps.items():
            monkeypatch.setattr(entry, name, self._step(name, action))
        monkeypatch.setattr(entry, "require_consent", self._consent)
        monkeypatch.setattr(entry, "serving_objects", self._serving)
        monkeypatch.setattr(entry, "discard", lambda pod, given, objects: self.discarded.append(tuple(objects)))
        monkeypatch.setattr(entry, "open_session", self._session)
        monkeypatch.setattr(entry, "on_cluster", lambda: False)

    def _listing(self, number: int) -> DatasetListing:
        return DatasetListing(self.config.datasets[number], {"a.csv": 5, "b.csv": 6}, frozenset(), number == 0, ("2013-01-02",))

    def _step(self, name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            self.steps.append(name)
            if name in self.failing:
                raise self.failing[name]
            return action(*arguments, **options)

        return step

    @staticmethod
    def _require(held: bool) -> None:
        assert held

    def _consent(self, pod: Any, *, before: str) -> None:
        self._step(f"consent before {before}", lambda: self._require(pod is self))()

    def _session(self, name: str, *, network_secret: Path | None = None) -> Program:
        if "open_session" in self.failing:
            raise self.failing["open_session"]
        assert (name, network_secret) == ("cleanroom-run-1", None)
        return self

    def _open(self, pod: Any, job: JobConfig, *, on_start: Callable[[Any], None]) -> list[str]:
        for dataset in job.datasets:
            on_start(dataset)
        return ["opened"]

    def _register(self, spark: Any, pod: Any, job: JobConfig, datasets: Any, *, on_loaded: Callable[[View], None]) -> list[View]:
        assert (spark, pod, job, datasets) == (self, self, self.config, ["opened"])
        on_loaded(self.views[0])
        return self.views

    def _complete(self, views: list[View], *, on_loaded: Callable[[View], None]) -> None:
        assert views == self.views
        on_loaded(self.views[1])

    def _check(self, spark: Any, catalog: Catalog) -> str:
        assert (spark, catalog) == (self, job_catalog(self.config))
        return "check"

    def _held(self, spark: Any, frame: str) -> tuple[str, Program | None]:
        assert (spark, frame) == (self, "lazy")
        return "held", self if self.suppresses else None

    def count(self, floor: int) -> int:
        """Rows that the floors leave out."""
        self.floor = floor
        return int(self._step("count rows left out", lambda: 4)())

    def _segments(self, spark: Any, job: JobConfig, views: list[View], check: str, *, on_segment: Callable[[int, int], None]) -> str:
        assert (spark, views, check) == (self, self.views, "check")
        on_segment(1, 1)
        return "lazy"

    # The pod

    def job(self) -> JobConfig:
        return self.config

    def record(self, event_id: str, event: dict[str, Any]) -> None:
        parsed = parse_event(event)
        if parsed.name in self.failing:
            raise self.failing[parsed.name]
        self.event_ids.append(event_id)
        self.events.append(parsed)

    # The session

    @contextmanager
    def _serving(self, spark: Any, pod: Any) -> Iterator[None]:
        self._require((spark, pod) == (self, self))
        yield

    def stop(self) -> None:
        self.stopped += 1

    def run(self) -> ResultReceipt:
        return entry.run(self, self.config)  # type: ignore[arg-type]

    def failure(self) -> CleanRoomError:
        with pytest.raises(CleanRoomError) as caught:
            self.run()
        assert caught.value.__cause__ is None
        return caught.value

    def recorded(self) -> list[str]:
        return [event.name for event in self.events]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(monkeypatch, job_of_run())


def test_steps_and_events_are_in_order(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    receipt = program.run()
    assert program.steps == STEPS
    assert program.recorded() == EVENTS
    assert (program.stopped, program.discarded, program.sealed) == (1, [], [receipt])
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line.removeprefix(PREFIX))["name"] for line in printed if line.startswith(PREFIX)] == [*POD_STEPS[1:], "pod"]
    lines = [line.split("s  ", 1)[1] for line in printed if not line.startswith(PREFIX)]
    assert lines == [
        "run run-1: attested, consent verified",
        "dataset orders: opening",
        "dataset prices: opening",
        "Spark has started",
        "dataset orders is open as orders",
        "segment 1 of 1",
        "dataset prices is open as p",
        "the query is complete",
        f"the result is written and in the ledger: 1 objects, digest {receipt.digest}",
    ]


def test_receipt_describes_the_measured_job_and_the_written_result(program: Program) -> None:
    receipt = program.run()
    job = program.config
    assert (receipt.run_id, receipt.query_digest, receipt.job_digest) == (job.run_id, job.query_digest, job.digest())
    assert (receipt.dataset, receipt.objects, receipt.digest, receipt.rows) == ("totals", OBJECTS, result_digest(OBJECTS), 3)
    assert receipt.columns == ("region", "amount")  # the allowed columns in the order of the schema
    assert receipt.rows_read == {"orders": 30, "p": 12}
    assert receipt.suppressed_rows == 4


def test_rows_left_out_are_counted_against_the_strictest_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    base = json.loads(job_of_run().model_dump_json(by_alias=True))
    for item, size in zip(base["datasets"], (3, 7), strict=True):
        item["floors"] = {"minGroupSize": size, "identityColumn": "region"}
    program = Program(monkeypatch, make_job(datasets=base["datasets"]))
    program.run()
    assert program.floor == 7


def test_result_without_a_release_has_no_number_of_rows_left_out(program: Program) -> None:
    program.suppresses = False
    assert program.run().suppressed_rows is None


def test_times_include_the_start_of_spark(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry.time, "monotonic", lambda: program.clock)

    def opened(name: str, *, network_secret: Path | None = None) -> Program:
        program.clock += 6.00012
        return program

    def computed(frame: Any) -> ComputedResult:
        program.clock += 30.00023
        return ComputedResult(3, frame, None)

    monkeypatch.setattr(entry, "open_session", opened)
    monkeypatch.setattr(entry, "compute", computed)
    receipt = program.run()
    assert receipt.spark_seconds == 36.0  # rounded to milliseconds
    assert receipt.seconds in (30.0, 36.0)  # Spark starts in another thread, before or after the reporter's clock


def test_events_hold_statistics_and_identifiers(program: Program) -> None:
    receipt = program.run()
    loaded, _, written, statistics, completed = program.events
    assert (loaded.step, loaded.statistics) == ("orders", {"rows": 30, "objects": 2, "storedBytes": 11})
    orders = program.config.datasets[0]
    assert loaded.facts == {
        "documentVersion": orders.document_version,
        "documentDigest": orders.document_digest,
        "manifest": True,
        "missingDays": ["2013-01-02"],
    }
    assert (written.step, written.facts) == ("totals", {"digest": receipt.digest})
    assert statistics.statistics == completed.statistics
    assert completed.statistics["numRowsRead"] == 42.0
    assert completed.statistics["numRowsWritten"] == 3.0
    assert set(completed.statistics) == {"durationSec", "sparkSec", "numRowsRead", "numRowsWritten"}
    assert (completed.receipt, statistics.receipt) == (receipt, None)
    assert program.event_ids == [
        "run-1.dataset-load-completed.orders",
        "run-1.dataset-load-completed.prices",
        "run-1.dataset-write-completed.totals",
        "run-1.query-statistics",
        "run-1.query-completed",
    ]


@pytest.mark.parametrize("step", STEPS)
def test_failed_step_ends_the_run_and_is_recorded(program: Program, step: str) -> None:
    program.failing[step] = Refused("StepFailed", "x")
    assert program.failure().code == "StepFailed"
    assert program.steps == STEPS[: STEPS.index(step) + 1]
    assert (program.recorded()[-1], program.events[-1].code) == ("QUERY_FAILED", "STEP_FAILED")
    assert "QUERY_COMPLETED" not in program.recorded()
    assert program.stopped == 1
    assert program.discarded == ([OBJECTS] if step == "seal_receipt" else [])


@pytest.mark.parametrize("event", ["DATASET_WRITE_COMPLETED", "QUERY_STATISTICS", "QUERY_COMPLETED"])
@pytest.mark.parametrize("error", [Unavailable("Away", "x"), Refused("NotGranted", "x")], ids=["lost", "denied"])
def test_result_without_its_event_in_the_ledger_is_discarded(program: Program, event: str, error: CleanRoomError) -> None:
    program.failing[event] = error
    assert program.failure().code == ("AuditLost" if error.retryable else "NotGranted")
    assert program.discarded == [OBJECTS]
    assert program.recorded()[-1] == "QUERY_FAILED"


@pytest.mark.parametrize("step", ["open_datasets", "register_views", "complete_views"])
def test_dataset_that_cannot_be_opened_is_named_in_the_ledger(program: Program, step: str) -> None:
    program.failing[step] = LoadFailed(program.config.datasets[1], InvalidInput("SchemaMismatch", "x"))
    assert program.failure().code == "SchemaMismatch"
    failed, last = program.events[-2:]
    assert (failed.name, failed.step, failed.code) == ("DATASET_LOAD_FAILED", "prices", "SCHEMA_MISMATCH")
    assert (last.name, last.code) == ("QUERY_FAILED", "SCHEMA_MISMATCH")


def test_result_that_cannot_be_written_is_named_in_the_ledger(program: Program) -> None:
    program.failing["write_result"] = OSError("a secret row")
    assert program.failure().code == "PayloadError"
    failed, last = program.events[-2:]
    assert (failed.name, failed.step, failed.code) == ("DATASET_WRITE_FAILED", "totals", "PAYLOAD_ERROR")
    assert last.name == "QUERY_FAILED"
    assert "secret" not in str([event.wire() for event in program.events])


@pytest.mark.parametrize("step", ["compute", "write_result"])
def test_failure_under_a_floor_does_not_disclose_its_condition(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A task that writes the result also evaluates the query, so the condition of its failure can depend on one row."""
    orders = json.loads(make_job().model_dump_json(by_alias=True))["datasets"][0]
    orders |= {"floors": {"allowedOutputColumns": ["region"]}}
    program = Program(monkeypatch, make_job(datasets=[orders, orders | {"name": "persons", "viewName": "p"}]))
    program.failing[step] = InvalidInput("QueryFailed", "CAST_INVALID_INPUT", details={"condition": "CAST_INVALID_INPUT"})
    failure = program.failure()
    assert (failure.code, failure.details) == ("QueryFailed", {})
    assert "withheld" in failure.message
    assert "CAST" not in str([failure.to_dict(), *(event.wire() for event in program.events)])


def test_failure_that_the_ledger_does_not_confirm_says_so(program: Program) -> None:
    program.failing |= {"compute": InvalidInput("QueryFailed", "x"), "QUERY_FAILED": Unavailable("Away", "x")}
    failure = program.failure()
    assert (failure.code, failure.details["auditLost"]) == ("QueryFailed", "AuditLost")


def test_spark_that_does_not_start_is_a_recorded_failure(program: Program) -> None:
    program.failing["open_session"] = PreconditionFailed("NetworkSecretMissing", "x")
    assert program.failure().code == "NetworkSecretMissing"
    assert program.steps == STEPS[:3]
    assert (program.recorded(), program.stopped) == (["QUERY_FAILED"], 0)


def test_driver_on_a_cluster_starts_spark_with_the_network_secret(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets: list[tuple[JobConfig, Any]] = []

    def secret_file(job: JobConfig, pod: Any) -> Path:
        secrets.append((job, pod))
        return tmp_path

    def opened(name: str, *, network_secret: Path | None = None) -> Program:
        assert network_secret == tmp_path
        return program

    monkeypatch.setattr(entry, "on_cluster", lambda: True)
    monkeypatch.setattr(entry, "network_secret_file", secret_file)
    monkeypatch.setattr(entry, "open_session", opened)
    program.run()
    monkeypatch.setattr(entry, "_attested_pod", lambda: program)
    entry.run(None, program.config)
    assert secrets == [(program.config, program)] * 2


# --- main


@pytest.fixture
def termination(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CLEANROOM_TERMINATION_LOG", str(tmp_path / "termination"))
    return tmp_path / "termination"


def test_main_writes_the_receipt_as_the_termination_message(program: Program, termination: Path) -> None:
    assert entry.main(program) == 0  # type: ignore[arg-type]
    assert json.loads(termination.read_text()) == program.sealed[0].model_dump(mode="json", by_alias=True)


def test_warnings_of_spark_which_quote_values_are_not_shown(program: Program, termination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(spark: Any) -> None:
        for module in ("pyspark.sql", "other"):
            warnings.warn_explicit(module, UserWarning, "x.py", 1, module=module)

    monkeypatch.setattr(entry, "require_locked", warn)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert entry.main(program) == 0  # type: ignore[arg-type]
    assert [str(item.message) for item in shown] == ["other"]


def test_main_reports_a_failure_without_its_text(program: Program, termination: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.failing["compute"] = ValueError("a secret row")
    before = logging.root.manager.disable
    disabled: list[int] = []
    program.record = lambda event_id, event: disabled.append(logging.root.manager.disable)  # type: ignore[method-assign,misc]
    assert entry.main(program) == 17  # type: ignore[arg-type]
    assert set(disabled) == {logging.CRITICAL}
    assert logging.root.manager.disable == before
    written = json.loads(termination.read_text())
    assert written["code"] == "PAYLOAD_ERROR"
    assert written["details"] == {"runId": "run-1", "jobDigest": program.config.digest()}
    output = capsys.readouterr().out
    assert output.endswith("failed: PAYLOAD_ERROR\n")
    assert "secret" not in output + termination.read_text()


def test_pod_without_a_job_is_a_reported_failure(monkeypatch: pytest.MonkeyPatch, termination: Path) -> None:
    for value, code, exit_code in (("", "JOB_CONFIG_MISSING", 14), ("%", "JOB_CONFIG_INVALID", 10)):
        monkeypatch.setenv("JOB_CONFIG", value)
        assert entry.main() == exit_code
        assert json.loads(termination.read_text())["code"] == code
        assert json.loads(termination.read_text())["details"].keys().isdisjoint({"runId", "jobDigest"})


def test_real_pod_runs_the_job_of_its_environment(monkeypatch: pytest.MonkeyPatch, termination: Path) -> None:
    program = Program(monkeypatch, job_of_run())
    monkeypatch.setenv("JOB_CONFIG", program.config.encode())
    monkeypatch.setattr(entry, "_attested_pod", lambda: program)
    monkeypatch.setattr(entry, "verify_rendering", lambda job: program.steps.append(job.run_id))
    monkeypatch.setattr(entry, "conform", lambda frame, sink: None)
    assert entry.main() == 0
    assert program.steps[0] == "run-1"
