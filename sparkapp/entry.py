"""The order of things in the driver, from the measured job to the confirmed receipt."""

from __future__ import annotations

import time

from cleanroom.errors import CleanRoomError
from cleanroom.spark.job import JobConfig, JobDataset, ResultReceipt
from sparkapp.consent import require_consent
from sparkapp.execution import run_segments
from sparkapp.failures import report_failure, safely, write_termination
from sparkapp.identity import AttestedPod
from sparkapp.output import conform, discard, receipt_digest, write_result
from sparkapp.pod import Pod
from sparkapp.reporting import Reporter
from sparkapp.session import open_session, require_locked
from sparkapp.views import LoadFailed, View, register_views


def main(pod: Pod | None = None) -> int:
    """Run the job of this pod. Returns 0, or the exit code of the failure's category (:data:`sparkapp.failures.EXIT_CODES`)."""
    pod = pod or AttestedPod()
    facts: dict[str, str] = {}
    try:
        job = pod.job()
        facts = {"runId": job.run_id, "jobDigest": job.digest()}
        receipt = run(pod, job)
    except Exception as error:
        failure = safely(error)
        print(f"failed: {failure.code}", flush=True)
        return report_failure(failure, facts)
    write_termination(receipt.model_dump(mode="json", by_alias=True))
    return 0


def run(pod: Pod, job: JobConfig) -> ResultReceipt:
    """Execute the job and return its receipt, which the ledger has by then.

    Raises:
        CleanRoomError: Typed, without any value of a dataset; ``QUERY_FAILED`` is in the ledger where that could be reached.
    """
    reporter = Reporter(pod, job)
    try:
        return _run(pod, job, reporter)
    except Exception as error:
        failure = safely(error)
        try:
            reporter.event("QUERY_FAILED", f"Query {job.query_id} failed: {failure.code}", error=failure)
        except CleanRoomError as unrecorded:
            failure.details["auditLost"] = unrecorded.code
        raise failure from None


def _run(pod: Pod, job: JobConfig, reporter: Reporter) -> ResultReceipt:
    # Before Spark: a run without consent should not cost anybody a JVM.
    require_consent(pod, before="it opened any dataset")
    reporter.progress(f"run {job.run_id}: attested, consent is given")
    spark_started = time.monotonic()
    spark = open_session(f"cleanroom-{job.run_id}")
    try:
        reporter.progress("Spark is up")
        views = _load(spark, pod, job, reporter)
        require_consent(pod, before="the query ran")
        require_locked(spark)
        frame = conform(
            run_segments(spark, job, views, on_segment=lambda number, of: reporter.progress(f"segment {number} of {of}")), job.datasink
        ).persist()
        rows = frame.count()
        reporter.progress("the query has run")
        require_consent(pod, before="the result was written")
        try:
            objects = write_result(frame, rows, pod, job)
        except Exception as error:
            failure = safely(error)
            reporter.event(
                "DATASET_WRITE_FAILED", f"Result of {job.query_id} not written: {failure.code}", step=job.datasink.name, error=failure
            )
            raise failure from None
        spark_seconds = time.monotonic() - spark_started
    finally:
        spark.stop()
    receipt = ResultReceipt(
        run_id=job.run_id,
        query_digest=job.query_digest,
        job_digest=job.digest(),
        dataset=job.datasink.name,
        objects=objects,
        rows=rows,
        digest=receipt_digest(objects),
        columns=tuple(name for name in job.datasink.schema_fields if name in job.datasink.allowed_fields),
        rows_read={view.dataset.view_name: view.rows for view in views},
        seconds=round(reporter.seconds(), 3),
        spark_seconds=round(spark_seconds, 3),
    )
    try:
        _confirm(reporter, job, receipt)
    except CleanRoomError:
        discard(pod, job.datasink, objects)
        raise
    reporter.progress(f"the result is written and recorded: {len(objects)} objects, digest {receipt.digest}")
    return receipt


def _load(spark: object, pod: Pod, job: JobConfig, reporter: Reporter) -> list[View]:
    def loaded(view: View) -> None:
        planned = view.plan
        reporter.event(
            "DATASET_LOAD_COMPLETED",
            f"Dataset {view.dataset.name} loaded",
            step=view.dataset.name,
            statistics={"rows": view.rows, "objects": planned.objects, "storedBytes": planned.stored_bytes},
            facts={
                "documentVersion": view.dataset.document_version,
                "documentDigest": view.dataset.document_digest,
                "manifest": planned.has_manifest,
                "missingDays": list(planned.missing_days),
            },
        )
        reporter.progress(f"dataset {view.dataset.name} is open as {view.dataset.view_name}")

    def start(dataset: JobDataset) -> None:
        reporter.progress(f"dataset {dataset.name}: opening")

    try:
        return register_views(spark, pod, job, on_start=start, on_loaded=loaded)  # type: ignore[arg-type]
    except LoadFailed as failed:
        name = failed.dataset.name
        reporter.event("DATASET_LOAD_FAILED", f"Dataset {name} not loaded: {failed.error.code}", step=name, error=failed.error)
        raise failed.error from None


def _confirm(reporter: Reporter, job: JobConfig, receipt: ResultReceipt) -> None:
    statistics = {
        "durationSec": receipt.seconds,
        "sparkSec": receipt.spark_seconds,
        "numRowsRead": float(sum(receipt.rows_read.values())),
        "numRowsWritten": float(receipt.rows),
    }
    reporter.event("DATASET_WRITE_COMPLETED", f"Dataset {receipt.dataset} written", step=receipt.dataset, facts={"digest": receipt.digest})
    reporter.event("QUERY_STATISTICS", f"Query {job.query_id}", statistics=statistics)
    reporter.event("QUERY_COMPLETED", f"Query {job.query_id} completed", statistics=statistics, receipt=receipt)
