"""The driver's program: the order of its steps, from the measured job to the confirmed receipt."""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cleanroom.datasets.result import result_digest
from cleanroom.errors import CleanRoomError
from cleanroom.query_gate import job_catalog, verify_rendering
from cleanroom.spark.job import JobConfig, ResultReceipt
from sparkapp.config import job_from_environment
from sparkapp.consent import require_consent
from sparkapp.execution import run_segments
from sparkapp.failures import failure_code, redact_error, redact_for_floors, report_failure, write_termination
from sparkapp.launch import network_secret_file
from sparkapp.object_server import serving_objects
from sparkapp.output import compute, conform, discard, seal_receipt, write_result
from sparkapp.plan_check import PlanCheck
from sparkapp.pod import Pod
from sparkapp.reporting import Reporter
from sparkapp.session import on_cluster, open_session, require_locked
from sparkapp.suppression import hold_persons
from sparkapp.views import LoadFailed, OpenedDataset, View, complete_views, open_datasets, query_over, register_views

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def main(pod: Pod | None = None) -> int:
    """Run this pod's job. Return 0, or the exit code of the failure's category (:data:`sparkapp.failures.EXIT_CODES`)."""
    facts: dict[str, str] = {}
    # PySpark logs values that make a query fail, and clients log requests. This program prints its own messages.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pyspark")
    try:
        job = pod.job() if pod else job_from_environment()
        facts = {"runId": job.run_id, "jobDigest": job.digest()}
        receipt = run(pod, job)
    except Exception as error:
        failure = redact_error(error)
        print(f"failed: {failure_code(failure.code)}")
        return report_failure(failure, facts)
    finally:
        logging.disable(before)
    write_termination(receipt.model_dump(by_alias=True))
    return 0


def run(pod: Pod | None, job: JobConfig) -> ResultReceipt:
    """Execute the job and return its receipt after the ledger has confirmed it.

    Args:
        pod: The pod's identity; None for the attested pod.
        job: The job to run.

    Raises:
        CleanRoomError: Contains no value of a dataset. The ledger contains ``QUERY_FAILED``, if it could be reached.
    """
    # Spark's JVM takes seconds to start in its own process, so the first steps run in parallel.
    with ThreadPoolExecutor(max_workers=1) as starter:
        session = starter.submit(_start_spark, pod, job)
        try:
            reporter = Reporter(pod or _attested_pod(), job)
            try:
                receipt = _run(session, reporter)
                reporter.ended(None)
                return receipt
            except Exception as error:
                failure = redact_for_floors(error, job)
                reporter.ended(failure)
                try:
                    reporter.event("QUERY_FAILED", f"Query {job.query_id} failed: {failure.code}", error=failure)
                except CleanRoomError as unrecorded:
                    failure.details["auditLost"] = unrecorded.code
                raise failure from None
        finally:
            if session.exception() is None:
                session.result()[0].stop()


def _start_spark(pod: Pod | None, job: JobConfig) -> tuple[SparkSession, float]:
    started = time.monotonic()
    secret = network_secret_file(job, pod or _attested_pod()) if on_cluster() else None
    return open_session(f"cleanroom-{job.run_id}", network_secret=secret), time.monotonic() - started


def _attested_pod() -> Pod:
    from sparkapp.identity import AttestedPod  # takes two seconds to import, in parallel with Spark's start

    return AttestedPod()


def _run(session: Future[tuple[SparkSession, float]], reporter: Reporter) -> ResultReceipt:
    pod, job = reporter.pod, reporter.job
    with reporter.step("check the query"):
        verify_rendering(job)
    with reporter.step("check consent"):
        require_consent(pod, before="a dataset was opened")
    reporter.progress(f"run {job.run_id}: attested, consent verified")
    with reporter.step("open datasets"), _reported_load(reporter):
        datasets = open_datasets(pod, job, on_start=lambda dataset: reporter.progress(f"dataset {dataset.name}: opening"))
    with reporter.step("wait for Spark"):
        spark, start_seconds = session.result()
    reporter.progress("Spark has started")
    with serving_objects(spark, pod):
        return _run_query(spark, datasets, reporter, start_seconds)


def _run_query(spark: SparkSession, datasets: list[OpenedDataset], reporter: Reporter, start_seconds: float) -> ResultReceipt:
    pod, job = reporter.pod, reporter.job
    spark_started = time.monotonic()
    with reporter.step("load datasets"), _reported_load(reporter):
        views = register_views(spark, pod, job, datasets, on_loaded=functools.partial(_loaded, reporter))
    require_consent(pod, before="the query ran")
    require_locked(spark)
    catalog = job_catalog(job)
    check = PlanCheck(spark, catalog)
    with reporter.step("run segments"), _reported_load(reporter), query_over(views, read_all=job.has_floors()):
        frame = run_segments(spark, job, views, check, on_segment=lambda number, of: reporter.progress(f"segment {number} of {of}"))
    with reporter.step("compute result"), _reported_load(reporter):
        with query_over(views, read_all=job.has_floors()):
            held, suppression = hold_persons(spark, frame)
            result = compute(conform(held, job.datasink))
            floor = max(view.min_group_size for view in catalog.views)
            suppressed_rows = suppression.count(floor) if suppression else None
        complete_views(views, on_loaded=functools.partial(_loaded, reporter))
    reporter.progress("the query is complete")
    require_consent(pod, before="the result was written")
    try:
        with reporter.step("write result"):
            objects = write_result(result, pod, job)
    except Exception as error:
        failure = redact_for_floors(error, job)
        text = f"Result of {job.query_id} not written: {failure.code}"
        reporter.event("DATASET_WRITE_FAILED", text, step=job.datasink.name, error=failure)
        raise failure from None
    spark_seconds = start_seconds + time.monotonic() - spark_started
    receipt = ResultReceipt(
        run_id=job.run_id,
        query_digest=job.query_digest,
        job_digest=job.digest(),
        dataset=job.datasink.name,
        objects=objects,
        rows=result.rows,
        digest=result_digest(objects),
        columns=tuple(name for name in job.datasink.schema_fields if name in job.datasink.allowed_fields),
        suppressed_rows=suppressed_rows,
        rows_read={view.dataset.view_name: view.rows for view in views},
        seconds=round(reporter.seconds(), 3),
        spark_seconds=round(spark_seconds, 3),
    )
    try:
        with reporter.step("record result"):
            seal_receipt(pod, job, receipt)
            _confirm(reporter, job, receipt)
    except CleanRoomError:
        discard(pod, job, objects)
        raise
    reporter.progress(f"the result is written and in the ledger: {len(objects)} objects, digest {receipt.digest}")
    return receipt


@contextmanager
def _reported_load(reporter: Reporter) -> Iterator[None]:
    try:
        yield
    except LoadFailed as failed:
        name, error = failed.dataset.name, failed.error
        reporter.event("DATASET_LOAD_FAILED", f"Dataset {name} not loaded: {error.code}", step=name, error=error)
        raise error from None


def _loaded(reporter: Reporter, view: View) -> None:
    dataset, listing = view.dataset, view.listing
    reporter.event(
        "DATASET_LOAD_COMPLETED",
        f"Dataset {dataset.name} loaded",
        step=dataset.name,
        statistics={"rows": view.rows, "objects": len(listing.objects), "storedBytes": listing.stored_bytes()},
        facts={
            "documentVersion": dataset.document_version,
            "documentDigest": dataset.document_digest,
            "manifest": listing.has_manifest,
            "missingDays": list(listing.missing_days),
        },
    )
    reporter.progress(f"dataset {dataset.name} is open as {dataset.view_name}")


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
