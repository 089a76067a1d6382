"""Diagram "Run Phase": prepare, submit, watch, conclude; and undo every grant on every way out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception

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
    from cleanroom.temporal import attributes
    from cleanroom.temporal.failures import application_error, error_from_failure
    from cleanroom.temporal.markdown import code
    from cleanroom.temporal.retries import CLEANUP, STANDARD, WATCH
    from workflows.cancellation import await_then_cancel, shielded
    from workflows.prepare import Prepare
    from workflows.story import Story, failure_summary

T = TypeVar("T")

WATCHERS_END = timedelta(seconds=10)
"""How long a run waits for its watchers to stop; their grants are gone by then, so nothing depends on it."""
PREPARE_DETAILS = (
    "Checks the caller, the query, every owner's approval and consent, verifies the Spark service by its attestation report, and hands "
    "each dataset's secret to this run's pod policies alone. The run waits for it; what it granted is revoked when the run ends."
)

STEPS = {
    "prepare": "Prepare phase",
    "consent": "Check consent again; issue the consent receipt",
    "submit": "Submit job",
    "watch": "Pods get secrets, mount datasets, check consent, execute",
    "result": "Collect the result's evidence",
    "revoke": "Revoke every grant of this run",
}


@workflow.defn(name="RunQuery")
class RunQuery:
    """One run of an approved query, from the caller's signed request to the receipt."""

    @workflow.init
    def __init__(self, input: RunQueryInput) -> None:
        self._input = input
        run_id = input.ticket.run_id
        self._story = Story(f"Run {run_id} of {input.ticket.query} for {input.caller}", STEPS, kind="run")
        self._story.footer = (
            f"While it runs: follow it with {code(f'cleanroom run watch {run_id}')}, stop it with {code(f'cleanroom run cancel {run_id}')}."
        )
        self._state: RunState = "Preparing"
        self._prepared: Prepared | None = None
        self._tracking: TrackingId | None = None
        self._failure: RunFailure | None = None
        self._receipt: ResultReceipt | None = None
        self._seconds: dict[str, float] = {}
        self._watchers: list[asyncio.Task[Any]] = []

    @workflow.run
    async def run(self, input: RunQueryInput) -> RunResult:
        error: BaseException | None = None
        try:
            self._receipt = await self._execute()
        except (Exception, asyncio.CancelledError) as caught:
            # Whatever happened, the grants are taken back before it is told.
            error = caught
        state: RunState = "COMPLETED"
        if error is not None:
            cancelled = is_cancelled_exception(error)
            state = "CANCELLED" if cancelled else "FAILED"
            known = error_from_failure(error)
            code = "RunCancelled" if cancelled else known.code
            message = "The run was cancelled." if cancelled else known.message
            self._failure = RunFailure(code=code, message=message, party=known.party or "", hint=known.hint or "")
        await shielded(self._conclude(state))
        self._state = state
        self._story.outcome(state if self._failure is None else self._failure.code)
        result = self._result(state)
        self._story.footer = self._ending(state)
        self._story.show()
        if error is not None:
            if is_cancelled_exception(error):
                raise error
            raise application_error(error_from_failure(error)) from None
        return result

    async def _execute(self) -> ResultReceipt:
        input, story, ticket = self._input, self._story, self._input.ticket
        story.stage("prepare")
        prepared = await self._timed(
            "prepare",
            await_then_cancel(
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
            ),
        )
        self._prepared = prepared
        self._state = "Submitting"
        used = sorted({item.name for item in (*prepared.job.datasets, prepared.job.datasink)})
        story.stage("submit", (attributes.DATASETS, used))
        await self._timed("consent", self._consent_receipt(prepared))
        await self._audit("RUN_STARTED", "query execution starts", {"job": prepared.job_digest, "query": prepared.snapshot.query.digest})
        tracking = await self._timed(
            "submit",
            await_then_cancel(
                workflow.execute_activity_method(
                    SparkServiceActivities.submit_job,
                    SubmitRequest(ticket=ticket, job=prepared.job, proof=prepared.proof),
                    **STANDARD.wait_for_completion_on_cancel().config("SparkApplication", task_queue=SPARK_SERVICE_QUEUE),
                )
            ),
        )
        self._tracking = tracking
        await self._audit("SUBMITTED", f"job {tracking.name}", {"job": prepared.job_digest})
        self._state = "Running"
        story.stage("watch")
        outcome = await self._timed("watch", self._watch(prepared, tracking))
        if outcome.error is not None:
            raise CleanRoomError.from_dict(outcome.error)
        self._state = "Concluding"
        story.stage("conclude")
        return await self._timed(
            "result",
            workflow.execute_activity_method(
                CleanRoomGovernance.collect_result,
                CollectRequest(ticket=ticket, job_digest=prepared.job_digest),
                **STANDARD.config("receipt from the ledger", task_queue=CLEAN_ROOM_QUEUE),
            ),
        )

    async def _consent_receipt(self, prepared: Prepared) -> None:
        await await_then_cancel(
            workflow.execute_activity_method(
                CleanRoomSecrets.issue_consent_receipt,
                ConsentReceiptRequest(ticket=self._input.ticket, proof=prepared.proof),
                **STANDARD.wait_for_completion_on_cancel().config("for this run's pods only", task_queue=CLEAN_ROOM_QUEUE),
            )
        )

    async def _watch(self, prepared: Prepared, tracking: TrackingId) -> JobOutcome:
        """Watch the job and the consent side by side; whichever speaks first decides."""
        input = self._input
        job = asyncio.create_task(
            _settled(
                workflow.execute_activity_method(
                    SparkServiceActivities.watch_job,
                    WatchRequest(
                        ticket=input.ticket,
                        tracking=tracking,
                        driver_start_seconds=input.driver_start_seconds,
                        run_seconds=input.run_seconds,
                    ),
                    **WATCH.config(f"status of {tracking.name} until complete", task_queue=SPARK_SERVICE_QUEUE),
                )
            )
        )
        consent_config = WATCH.config("consent of every approver", task_queue=CLEAN_ROOM_QUEUE)
        consent_config["cancellation_type"] = workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
        consent = asyncio.create_task(
            _settled(
                workflow.execute_activity_method(
                    CleanRoomSecrets.watch_consent,
                    ConsentWatchRequest(ticket=input.ticket, proof=prepared.proof, interval_seconds=input.consent_check_seconds),
                    **consent_config,
                )
            )
        )
        self._watchers = [consent]
        try:
            await workflow.wait([job, consent], return_when=asyncio.FIRST_COMPLETED)
            if job.done():
                outcome: JobOutcome = job.result()
                return outcome
            withdrawn = consent.result()
            raise Refused(
                "ConsentWithdrawn",
                f"Consent of {withdrawn.document_id!r} was withdrawn while the query ran: {withdrawn.message}",
                hint="The approver who withdrew it can enable it again (`cleanroom consent on`).",
            )
        finally:
            for task in (job, consent):
                task.cancel()

    async def _conclude(self, state: RunState) -> None:
        """Stop the job if it may still run, take back every grant, tell the ledger. Bounded by the cleanup timing."""
        prepared, ticket = self._prepared, self._input.ticket
        self._story.stage("cleanup")
        if state != "COMPLETED" and self._state in ("Submitting", "Running"):
            await self._quietly(
                workflow.execute_activity_method(
                    SparkServiceActivities.delete_job, ticket, **CLEANUP.config("stop the job", task_queue=SPARK_SERVICE_QUEUE)
                )
            )
        revoked = await self._quietly(
            self._timed(
                "revoke",
                workflow.execute_activity_method(
                    CleanRoomSecrets.revoke_grants,
                    RevokeRequest(ticket=ticket, proof=prepared.proof if prepared else None),
                    **CLEANUP.config("secrets, IDP subjects, event writers", task_queue=CLEAN_ROOM_QUEUE),
                ),
            )
        )
        self._revoked = revoked
        if revoked is not None:
            told = f"{revoked.secrets} secrets, {revoked.grants} grants"
            await self._quietly(self._audit("REVOKED", told, {"job": prepared.job_digest} if prepared else {}))
        if prepared is not None or revoked is not None:
            digests = ({"job": prepared.job_digest} if prepared else {}) | ({"result": self._receipt.digest} if self._receipt else {})
            await self._quietly(self._audit(f"RUN_{state}", self._failure.code if self._failure else "result delivered", digests))
        await self._watchers_ended()

    async def _watchers_ended(self) -> None:
        """Wait until the consent watch has stopped, which it was asked to before the result was collected: it keeps the receipt of this
        run alive, and a run that has ended must not look as if something of it still runs."""

        def ended() -> bool:
            return all(task.done() for task in self._watchers)

        if not ended():
            try:
                await workflow.wait_condition(ended, timeout=WATCHERS_END, timeout_summary="the consent watch stops")
            except TimeoutError:
                workflow.logger.warning("the consent watch has not stopped; it ends with its next heartbeat")

    async def _quietly(self, work: Awaitable[T]) -> T | None:
        """Cleanup goes on past a failed step; what failed is shown."""
        try:
            return await work
        except Exception as error:
            failure = error_from_failure(error)
            self._story.footer = f"cleanup: {failure.code}"
            if self._failure is None:
                self._failure = RunFailure(code="CleanupFailed", message=failure.message, party="operator")
            workflow.logger.warning("cleanup step failed: %s", failure.code)
            return None

    async def _audit(self, step: str, message: str, digests: dict[str, str]) -> None:
        await workflow.execute_activity_method(
            CleanRoomGovernance.record_event,
            AuditEvent(ticket=self._input.ticket, step=step, message=message, digests=digests),
            **STANDARD.config(f"audit: {step}", task_queue=CLEAN_ROOM_QUEUE),
        )

    async def _timed(self, key: str, work: Awaitable[T]) -> T:
        started: datetime = workflow.now()
        try:
            return await self._story.step(key, work)
        finally:
            self._seconds[key] = (workflow.now() - started).total_seconds()

    def _ending(self, state: RunState) -> str:
        """How it ended, in the words of who is woken up by it: what, who must act, what to do; or what came out."""
        if self._failure is not None:
            failure = self._failure
            return failure_summary(
                state, CleanRoomError(failure.code, failure.message, party=failure.party or None, hint=failure.hint or None)
            )
        if self._receipt is None:
            return f"**{state}**"
        receipt = self._receipt
        opens = code(f"cleanroom run result {self._input.ticket.run_id} --dataset FILE")
        return (
            f"**{state}**: {receipt.rows} rows in {code(receipt.dataset)}, digest {code(receipt.digest[:16])}\n\n"
            f"Its receiver opens it with {opens}; without {code('--dataset')} everybody sees the receipt."
        )

    def _result(self, state: RunState) -> RunResult:
        return RunResult(
            run_id=self._input.ticket.run_id,
            query=self._input.ticket.query,
            state=state,
            job=self._tracking.name if self._tracking else "",
            receipt=self._receipt,
            failure=self._failure,
            stages=self._seconds,
            revoked=getattr(self, "_revoked", None),
        )

    @workflow.query(description="State, stage and steps of this run.")
    def status(self) -> RunStatus:
        return RunStatus(
            run_id=self._input.ticket.run_id,
            query=self._input.ticket.query,
            state=self._state,
            stage=self._story.current_stage,
            job=self._tracking.name if self._tracking else "",
            steps=self._story.lines(),
            failure=self._failure,
        )

    @workflow.query(description="The result so far: receipt, failure, seconds of each stage, what was revoked.")
    def outcome(self) -> RunResult:
        return self._result(self._state)


async def _settled(work: Awaitable[T]) -> T:
    return await work
