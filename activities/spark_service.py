"""Activities of the Clean Room Spark Service: attest the service, sign pod policies, run the job on Kubernetes.

The service releases no secret, but it does not trust its inputs either. Before it submits a job, it verifies the run with
its own identity in governance and builds the job itself.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable

from temporalio import activity

from cleanroom import tracing
from cleanroom.display_names import error_with_names
from cleanroom.errors import CleanRoomError, Refused
from cleanroom.identifiers import job_name
from cleanroom.messages.cleanup import JobsFound, JobsRequest, RunJob, UnpinnedJob
from cleanroom.messages.run import (
    JobOutcome,
    PolicyRequest,
    PolicyStatement,
    ReportRequest,
    RunTicket,
    SubmitRequest,
    TrackingId,
    WatchRequest,
)
from cleanroom.runs.assembly import assemble_job
from cleanroom.runs.authority import RunAuthority
from cleanroom.runs.reader import UserReader
from cleanroom.runs.trust import RunTrust
from cleanroom.settings import Settings
from cleanroom.spark.deadlines import Deadlines
from cleanroom.spark.outcome import progress_line
from cleanroom.spark.profile import PodProfile
from cleanroom.spark.service import SparkService
from cleanroom.spark.service_report import ServiceReport
from cleanroom.spark.status import JobStatus
from cleanroom.temporal.heartbeat import Heartbeater


class SparkServiceActivities:
    """Activities of the Run diagram that the Spark service performs."""

    def __init__(
        self,
        settings: Settings,
        service: SparkService,
        reader: UserReader,
        trust: RunTrust,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._settings = settings
        self._service = service
        self._reader = reader
        self._authority = RunAuthority(reader, settings.collaboration, now)
        self._trust = trust
        self._now = now

    @activity.defn
    async def get_attestation_report(self, request: ReportRequest) -> ServiceReport:
        """Return a fresh attestation report that binds this process's signing key to the run's nonce."""
        return await self._service.attestation_report(request.nonce)

    @activity.defn
    async def get_security_policy(self, request: PolicyRequest) -> PolicyStatement:
        """Return a statement on the job's pod policies, signed by the attested key.

        Raises:
            Refused: ``SizeNotOffered``.
        """
        trust = (await self._trust.in_force()).trust.document
        profile = PodProfile.deployed(trust.pods, self._settings, request.job.parameters.size)
        signed = await self._service.security_policy(request.job, profile, request.nonce)
        return PolicyStatement(
            statement=signed.statement,
            driver_host_data=signed.policies.driver.host_data,
            executor_host_data=signed.policies.executor.host_data,
        )

    @activity.defn
    async def submit_job(self, request: SubmitRequest) -> TrackingId:
        """Verify the run, build its job from governance's documents and submit it. Idempotent.

        Raises:
            Refused: ``JobMismatch`` when the requested job differs from the one built here; ``PodPolicyChanged`` when the
                consent receipt is not granted to the pods of the job; the codes of
                :meth:`cleanroom.runs.authority.RunAuthority.authorise`.
        """
        run, trust = await asyncio.gather(self._authority.authorise(request.ticket), self._trust.in_force())
        job = assemble_job(run, trust.environment)
        if job.digest() != request.job.digest():
            raise Refused(
                "JobMismatch",
                f"run {request.ticket.run_id!r}: the requested job differs from the one that governance's documents give.",
                details={"asked": request.job.digest(), "assembled": job.digest()},
                party="operator",
                hint="Give the clean room and the Spark service the same version. If the members have accepted another trust document, "
                "start a new run.",
            )
        await self._authority.verify_pinned(request.ticket)
        profile = PodProfile.deployed(trust.trust.document.pods, self._settings, job.parameters.size)
        # The consent receipt is granted last, and only to the pods that the clean room computed.
        granted = await self._reader.granted_host_data("secrets", job.consent_secret_id)
        submitted = await self._service.submit(job, profile, granted)
        try:
            await self._authority.require_open(run.request)
        except Refused:
            # The run was closed while the request was on its way. Its cleanup may not have found the job.
            await self._service.delete(submitted.tracking_id)
            raise
        return TrackingId(name=submitted.tracking_id, namespace=submitted.namespace, uid=submitted.uid)

    @activity.defn
    async def watch_job(self, request: WatchRequest) -> JobOutcome:
        """Watch the job until it has ended; report its state with each heartbeat. A retry resumes the watch.

        Raises:
            Refused: ``JobMismatch`` when the job belongs to another run.
        """
        ticket = request.ticket
        if request.tracking.name != job_name(ticket.collaboration, ticket.query, ticket.run_id):
            raise Refused("JobMismatch", f"run {ticket.run_id!r}: job {request.tracking.name!r} belongs to another run.")
        await self._authority.verify_pinned(ticket)
        async with Heartbeater(str) as heartbeat:

            def report(status: JobStatus) -> None:
                heartbeat.record(f"{progress_line(status)} at {dt.datetime.now(dt.UTC):%H:%M:%S}")

            deadlines = Deadlines(driver_start_seconds=request.driver_start_seconds, run_seconds=request.run_seconds)
            outcome = await self._service.watch(request.tracking.name, report, deadlines, uid=request.tracking.uid or None)
            await self._export_pod_spans(request)
        error = outcome.error()
        return JobOutcome(
            completed=error is None,
            error=error_with_names(error, self._settings.user_names).to_dict() if error is not None else None,
            may_have_completed=error is not None and outcome.may_have_completed,
        )

    async def _export_pod_spans(self, request: WatchRequest) -> None:
        """Export the spans that the run's driver printed, if this process traces."""
        if not tracing.active():
            return
        from cleanroom.spark.pod_traces import export_spans

        try:
            log = await self._service.logs(request.tracking.name)
        except CleanRoomError as error:
            activity.logger.info("the spans of the driver are not available: %s", error.code)
            return
        export_spans(log, request.ticket.collaboration, request.ticket.run_id, now=self._now())

    @activity.defn
    async def delete_job(self, ticket: RunTicket) -> bool:
        """Delete the run's job and wait until none of its pods is left. Returns False when there was no job.

        Raises:
            Refused: ``RunNotPinned``, ``RunPinnedToAnotherRequest``: the ledger does not pin the run to this ticket's request.
        """
        await self._authority.verify_pinned(ticket)
        return await self._service.delete(job_name(ticket.collaboration, ticket.query, ticket.run_id))

    @activity.defn
    async def list_jobs(self, request: JobsRequest) -> JobsFound:
        """List the SparkApplications of the collaboration's runs that have not ended. Others in the namespace are left out.

        Raises:
            Refused: ``CollaborationMismatch``.
        """
        self._require_own(request.collaboration)
        found = await self._service.jobs(request.collaboration)
        return JobsFound(
            jobs=tuple(RunJob(name=job.name, uid=job.uid, run_id=job.run_id, query=job.query, created_at=job.created_at) for job in found)
        )

    @activity.defn
    async def delete_unpinned_job(self, request: UnpinnedJob) -> bool:
        """Delete a SparkApplication of a run to which the ledger pins no request: this service has not submitted it.

        Raises:
            Refused: ``CollaborationMismatch``; ``RunPinned``; ``JobMismatch`` when the name is not that of the run's job.
        """
        self._require_own(request.collaboration)
        job = request.job
        if job.name != job_name(request.collaboration, job.query, job.run_id):
            raise Refused("JobMismatch", f"run {job.run_id!r}: job {job.name!r} belongs to another run.")
        if await self._reader.pinned_request(job.run_id) is not None:
            raise Refused("RunPinned", f"run {job.run_id!r}: the ledger knows this run, so its own cleanup deletes its job.")
        return await self._service.delete(job.name, uid=job.uid)

    def _require_own(self, collaboration: str) -> None:
        own = self._settings.collaboration
        if collaboration != own:
            raise Refused("CollaborationMismatch", f"cleanup: this process serves {own!r}, not {collaboration!r}.")
