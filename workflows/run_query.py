"""Workflow of the Run diagram: prepare, submit, watch, collect the result, and clean up however the run ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.clean_room import CleanRoomGovernance
    from activities.clean_room_secrets import CleanRoomSecrets
    from activities.spark_service import SparkServiceActivities
    from cleanroom.errors import CleanRoomError, Refused
    from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE, prepare_workflow_id
    from cleanroom.messages.run import (
        AuditEvent,
        CollectRequest,
        ConsentReceiptRequest,
        ConsentWatchRequest,
        JobOutcome,
        Prepared,
        Revoked,
        RevokeRequest,
        RunFailure,
        RunQueryInput,
        RunResult,
        RunState,
        RunStatus,
        SubmitRequest,
        TrackingId,
        WatchRequest,
    )
    from cleanroom.spark.job import ResultReceipt
    from cleanroom.temporal import attributes, metrics
    from cleanroom.temporal.failures import application_error, error_from_failure
    from cleanroom.temporal.markdown import code
    from cleanroom.temporal.retries import CLEANUP, STANDARD, WATCH
    from workflows.cancellation import ENDS, await_then_cancel, shielded
    from workflows.prepare import Prepare
    from workflows.story import Story, failure_summary

T = TypeVar("T")

CONSENT_WATCH_STOP = timedelta(seconds=10)
"""How long a run waits for its consent watch to stop. All grants are revoked by then, so nothing depends on it."""
PREPARE_DETAILS = (
    "Checks the caller, the query, every owner's approval and consent, and the Spark service's attestation report. Then grants each "
    "dataset's secret to the pods of this run only. The run waits for it, and revokes all grants when it ends."
)

STEPS = {
    "prepare": "Prepare phase",
    "consent": "Check consent again, issue the consent receipt",
    "submit": "Submit job",
    "watch": "Pods get secrets, mount datasets, check consent, execute",
    "result": "Collect the result receipt",
    "revoke": "Revoke every grant of this run",
}


@workflow.defn(name="RunQuery", versioning_behavior=VersioningBehavior.PINNED)
class RunQuery:
    """Run an approved query once: from the caller's signed request to the result receipt.

    Every end that runs this code, whether success, failure or cancellation, stops the job and revokes all grants of the run.
    """

    @workflow.init
    def __init__(self, input: RunQueryInput) -> None:
        self._input = input
        run_id = input.ticket.run_id
        self._story = Story(f"Run {run_id} of {input.ticket.query} for {input.caller}", STEPS, kind="run")
        self._story.footer = (
            f"Follow it with {code(f'cleanroom run watch {run_id}')}. Stop it with {code(f'cleanroom run cancel {run_id}')}."
        )
        self._state: RunState = "Preparing"
        self._prepared: Prepared | None = None
        self._tracking: TrackingId | None = None
        self._failure: RunFailure | None = None
        self._receipt: ResultReceipt | None = None
        self._revoked: Revoked | None = None
        self._consent_watch: asyncio.Task[Any] | None = None

    @workflow.run
    async def run(self, input: RunQueryInput) -> RunResult:
        """Execute the Run diagram, then clean up."""
        error: BaseException | None = None
        try:
            self._receipt = await self._execute()
        except ENDS as caught:
            error = caught
            self._failure = _failure_of(error)
        state: RunState = "COMPLETED" if error is None else "CANCELLED" if is_cancelled_exception(error) else "FAILED"
        await shielded(self._clean_up(state))
        self._state = state
        self._story.outcome(self._failure.code if self._failure else state)
        self._story.footer = self._summary()
        self._story.show()
        if error is None:
            return self._result()
        if is_cancelled_exception(error):
            raise error
        raise application_error(error_from_failure(error)) from None

    async def _execute(self) -> ResultReceipt:
        story = self._story
        story.stage("prepare")
        prepared = self._prepared = await story.step("prepare", self._prepare())
        self._state = "Submitting"
        used = [item.name for item in (*prepared.job.datasets, prepared.job.datasink)]
        story.stage("submit", (attributes.DATASETS, used))
        await story.step("consent", self._consent_receipt(prepared))
        digests = {"job": prepared.job_digest}
        await self._audit("RUN_STARTED", "query execution started", digests | {"query": prepared.snapshot.query.digest})
        tracking = self._tracking = await story.step("submit", self._submit(prepared))
        await self._audit("SUBMITTED", f"job {tracking.name}", digests)
        self._state = "Running"
        story.stage("watch")
        outcome = await story.step("watch", self._watch(prepared, tracking))
        if outcome.error is not None and not outcome.may_have_completed:
            raise CleanRoomError.from_dict(outcome.error)
        self._state = "Concluding"
        story.stage("conclude")
        try:
            return await story.step("result", self._collect(prepared))
        except ActivityError as error:
            known = error_from_failure(error)
            # Of a job that failed, a missing receipt confirms the failure.
            if outcome.error is not None and known.code == "CompletionEvidenceMissing":
                raise CleanRoomError.from_dict(outcome.error) from None
            raise

    async def _collect(self, prepared: Prepared) -> ResultReceipt:
        return await workflow.execute_activity_method(
            CleanRoomGovernance.collect_result,
            CollectRequest(ticket=self._input.ticket, job_digest=prepared.job_digest),
            **STANDARD.config("result receipt from the ledger", task_queue=CLEAN_ROOM_QUEUE),
        )

    async def _prepare(self) -> Prepared:
        input, ticket = self._input, self._input.ticket
        return await await_then_cancel(
            workflow.execute_child_workflow(
                Prepare.run,
                input,
                id=prepare_workflow_id(ticket.collaboration, ticket.run_id),
                static_summary=f"prepare run {ticket.run_id} of query {ticket.query}",
                static_details=PREPARE_DETAILS,
                search_attributes=attributes.start_attributes(
                    collaboration=ticket.collaboration, kind="prepare", query=ticket.query, proposer=input.caller
                ),
                execution_timeout=timedelta(hours=1),
            )
        )

    async def _submit(self, prepared: Prepared) -> TrackingId:
        return await await_then_cancel(
            workflow.execute_activity_method(
                SparkServiceActivities.submit_job,
                SubmitRequest(ticket=self._input.ticket, job=prepared.job),
                **STANDARD.wait_for_completion_on_cancel().config("SparkApplication", task_queue=SPARK_SERVICE_QUEUE),
            )
        )

    async def _consent_receipt(self, prepared: Prepared) -> None:
        await await_then_cancel(
            workflow.execute_activity_method(
                CleanRoomSecrets.issue_consent_receipt,
                ConsentReceiptRequest(ticket=self._input.ticket, proof=prepared.proof),
                **STANDARD.wait_for_completion_on_cancel().config("for the pods of this run", task_queue=CLEAN_ROOM_QUEUE),
            )
        )

    async def _watch(self, prepared: Prepared, tracking: TrackingId) -> JobOutcome:
        """Watch the job and the consent in parallel. The first of them that ends decides.

        Raises:
            Refused: ``ConsentWithdrawn``.
        """
        input = self._input
        job = asyncio.create_task(
            workflow.execute_activity_method(
                SparkServiceActivities.watch_job,
                WatchRequest(
                    ticket=input.ticket,
                    tracking=tracking,
                    driver_start_seconds=input.driver_start_seconds,
                    run_seconds=input.run_seconds,
                ),
                **WATCH.config(f"status of {tracking.name} until it ends", task_queue=SPARK_SERVICE_QUEUE),
            )
        )
        consent = asyncio.create_task(
            workflow.execute_activity_method(
                CleanRoomSecrets.watch_consent,
                ConsentWatchRequest(ticket=input.ticket, proof=prepared.proof, interval_seconds=input.consent_check_seconds),
                **WATCH.wait_for_completion_on_cancel().config("consent of every approver", task_queue=CLEAN_ROOM_QUEUE),
            )
        )
        self._consent_watch = consent
        try:
            await workflow.wait([job, consent], return_when=asyncio.FIRST_COMPLETED)
            if job.done():
                return job.result()
            withdrawn = consent.result()
            metrics.CONSENT_WITHDRAWN.add(workflow.metric_meter())
            raise Refused(
                "ConsentWithdrawn",
                f"Consent to {withdrawn.document_id!r} was withdrawn while the query ran: {withdrawn.message}",
                hint=f"The approver who withdrew it can enable it again: `cleanroom consent on {withdrawn.document_id}`.",
            )
        finally:
            for task in (job, consent):
                task.cancel()

    # ------------------------------------------------------------------ the end

    async def _clean_up(self, state: RunState) -> None:
        """Stop the job if it may still run, revoke every grant, record the end. A failed step does not stop the next one."""
        ticket = self._input.ticket
        self._story.stage("cleanup")
        if self._state in ("Submitting", "Running"):
            await self._attempt(
                workflow.execute_activity_method(
                    SparkServiceActivities.delete_job, ticket, **CLEANUP.config("stop the job", task_queue=SPARK_SERVICE_QUEUE)
                )
            )
        self._revoked = await self._attempt(
            self._story.step(
                "revoke",
                workflow.execute_activity_method(
                    CleanRoomSecrets.revoke_grants,
                    RevokeRequest(ticket=ticket),
                    **CLEANUP.config("secrets, ID tokens, event writers", task_queue=CLEAN_ROOM_QUEUE),
                ),
            )
        )
        digests = {"job": self._prepared.job_digest} if self._prepared else {}
        if self._revoked is not None and self._revoked.closed:
            counts = f"{self._revoked.secrets} secrets, {self._revoked.grants} grants"
            await self._attempt(self._audit("REVOKED", counts, digests))
        if self._prepared is not None or (self._revoked is not None and self._revoked.closed):
            digests |= {"result": self._receipt.digest} if self._receipt else {}
            await self._attempt(self._audit(f"RUN_{state}", self._failure.code if self._failure else "result delivered", digests))
        await self._consent_watch_stopped()

    async def _consent_watch_stopped(self) -> None:
        """Wait until the consent watch, which was cancelled, has stopped: a run that has ended must not show a running activity."""
        watch = self._consent_watch
        if watch is None or watch.done():
            return
        try:
            await workflow.wait_condition(watch.done, timeout=CONSENT_WATCH_STOP, timeout_summary="the consent watch stops")
        except TimeoutError:
            workflow.logger.warning("the consent watch has not stopped; it stops with its next heartbeat")

    async def _attempt(self, work: Awaitable[T]) -> T | None:
        """Await a cleanup step. When it fails, show the failure and return None, so that the next step can run."""
        try:
            return await work
        except Exception as error:
            failure = error_from_failure(error)
            self._story.footer = f"cleanup: {failure.code}"
            if self._failure is None:
                self._failure = RunFailure(code="CleanupFailed", message=failure.message, party="operator")
            workflow.logger.warning("cleanup step failed: %s", failure.code)
            metrics.CLEANUP_FAILURES.add(workflow.metric_meter(), code=metrics.bounded("code", failure.code))
            return None

    async def _audit(self, step: str, message: str, digests: dict[str, str]) -> None:
        await workflow.execute_activity_method(
            CleanRoomGovernance.record_event,
            AuditEvent(ticket=self._input.ticket, step=step, message=message, digests=digests),
            **STANDARD.config(f"audit: {step}", task_queue=CLEAN_ROOM_QUEUE),
        )

    def _summary(self) -> str:
        """Return the final summary as Markdown: the failure with the responsible party and the next step, or the result."""
        state, failure, receipt = self._state, self._failure, self._receipt
        if failure is not None:
            error = CleanRoomError(failure.code, failure.message, party=failure.party or None, hint=failure.hint or None)
            return failure_summary(state, error)
        if receipt is None:
            return f"**{state}**"
        command = f"cleanroom run result {self._input.ticket.run_id}"
        left_out = f"; privacy floors left out {receipt.suppressed_rows} more rows" if receipt.suppressed_rows else ""
        return (
            f"**{state}**: {receipt.rows} rows in {code(receipt.dataset)}, digest {code(receipt.digest[:16])}{left_out}\n\n"
            f"The receiver opens the result with {code(f'{command} --dataset FILE')}. {code(command)} shows the result receipt."
        )

    def _result(self) -> RunResult:
        return RunResult(
            run_id=self._input.ticket.run_id,
            query=self._input.ticket.query,
            state=self._state,
            job=self._tracking.name if self._tracking else "",
            receipt=self._receipt,
            failure=self._failure,
            stages=self._story.seconds,
            revoked=self._revoked,
        )

    @workflow.query(description="State, stage and steps of this run.")
    def status(self) -> RunStatus:
        """Return state, stage and steps."""
        return RunStatus(
            run_id=self._input.ticket.run_id,
            query=self._input.ticket.query,
            state=self._state,
            stage=self._story.current_stage,
            job=self._tracking.name if self._tracking else "",
            steps=self._story.lines(),
            failure=self._failure,
        )

    @workflow.query(description="The result so far: receipt, failure, duration of each step, revoked grants.")
    def outcome(self) -> RunResult:
        """Return the result so far."""
        return self._result()


def _failure_of(error: BaseException) -> RunFailure:
    known = error_from_failure(error)
    cancelled = is_cancelled_exception(error)
    return RunFailure(
        code="RunCancelled" if cancelled else known.code,
        message="The run was cancelled." if cancelled else known.message,
        party=known.party or "",
        hint=known.hint or "",
    )
