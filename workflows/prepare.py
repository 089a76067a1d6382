"""Workflow of the Prepare diagram: verify the run and the Spark service, then grant the run's secrets to its own pods.

The diagram repeats "Set Secret" and "Configure IDP" per pod policy. Here one activity grants to the policies of both roles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.clean_room import CleanRoomGovernance
    from activities.clean_room_secrets import CleanRoomSecrets
    from activities.spark_service import SparkServiceActivities
    from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE, canonical_json, sha256_hex
    from cleanroom.messages.run import (
        NOT_REMEMBERED,
        ApprovalVerdict,
        AuditEvent,
        ConfigureIdpRequest,
        Grant,
        GrantRequest,
        Grants,
        PolicyRequest,
        PolicyStatement,
        Prepared,
        QuerySnapshot,
        Reference,
        ReportRequest,
        RunQueryInput,
        RunTicket,
        ServiceProof,
        SparkVerdict,
        StagedSecret,
        StagedSecrets,
        StageRequest,
        VerifyPolicyRequest,
        VerifySparkRequest,
        message_digest,
    )
    from cleanroom.runs.authority import service_nonce
    from cleanroom.runs.second_look import CONCURRENT_DATASETS
    from cleanroom.spark.job import JobConfig, JobDataset
    from cleanroom.spark.service_report import ServiceReport
    from cleanroom.temporal.failures import error_from_failure
    from cleanroom.temporal.retries import PROPAGATION, STANDARD
    from workflows.cancellation import ENDS, await_then_cancel
    from workflows.story import Story

T = TypeVar("T")
Ticket = RunTicket | Reference
Proof = ServiceProof | Reference


class Evidence:
    """The run's ticket and proof, and the references that stand for them. They are larger than all the rest of a dataset's history."""

    def __init__(self, ticket: RunTicket, proof: ServiceProof) -> None:
        self.ticket, self.proof = ticket, proof
        self.references = Reference(digest=message_digest(ticket)), Reference(digest=message_digest(proof))


STEPS = {
    "users": "Get users, validate the caller",
    "query": "Fetch query",
    "approvals": "Validate dataset access and query approvals",
    "consent": "Check execution consent",
    "report": "Get attestation report of the Spark service",
    "verify": "Verify Spark service",
    "policy": "Get security policy of each pod role",
    "secrets": "Get secrets and set them for the pods",
    "idp": "Configure IDP for the pods",
}
ATTESTATION_ATTEMPTS = 3


@workflow.defn(name="Prepare", versioning_behavior=VersioningBehavior.PINNED)
class Prepare:
    """Verify the run and the Spark service, then grant the run's secrets to its pod policies."""

    @workflow.init
    def __init__(self, input: RunQueryInput) -> None:
        self._story = Story(f"Prepare run {input.ticket.run_id} of {input.ticket.query}", STEPS, kind="prepare")
        self._slots = asyncio.Semaphore(CONCURRENT_DATASETS)
        self._secrets: list[StagedSecret] = []
        self._grants: list[Grant] = []

    @workflow.run
    async def run(self, input: RunQueryInput) -> Prepared:
        """Execute the Prepare diagram."""
        async with self._story.report_outcome():
            return await self._prepare(input)

    async def _prepare(self, input: RunQueryInput) -> Prepared:
        story, ticket = self._story, input.ticket
        story.stage("checks")
        snapshot, approvals = await self._checks(input)
        job = await workflow.execute_activity_method(
            CleanRoomGovernance.build_job,
            ticket,
            **STANDARD.config("query gate, privacy floors, job configuration", task_queue=CLEAN_ROOM_QUEUE),
        )
        story.stage("attestation")
        proof, spark = await self._verified_service(ticket, job)
        story.stage("release_keys")
        await story.step("secrets", self._propagate(input, job, proof), note=f"{len(_with_secrets(job))} datasets")
        story.stage("idp")
        await story.step("idp", self._configure_idp(input, proof))
        grants = sorted((item.model_dump(mode="json") for item in self._grants), key=lambda item: sorted(item.items()))
        digests = {"grants": sha256_hex(canonical_json(grants))}
        await self._audit(AuditEvent(ticket=ticket, step="GRANTED", message=f"{len(grants)} grants", digests=digests))
        await self._audit(AuditEvent(ticket=ticket, step="PREPARED", proof=proof))
        return Prepared(
            job=job,
            job_digest=job.digest(),
            proof=proof,
            secrets=tuple(sorted(self._secrets, key=lambda item: item.secret_id)),
            grants=tuple(self._grants),
            spark=spark,
            snapshot=snapshot,
            approvals=approvals,
        )

    async def _checks(self, input: RunQueryInput) -> tuple[QuerySnapshot, ApprovalVerdict]:
        """Check the caller, the query, the approvals and the consent, one step each."""
        story, ticket, here = self._story, input.ticket, CLEAN_ROOM_QUEUE
        await story.step(
            "users",
            workflow.execute_activity_method(
                CleanRoomGovernance.get_users, ticket, **STANDARD.config(f"caller {input.caller}", task_queue=here)
            ),
        )
        snapshot = await story.step("query", self._query(ticket))
        approvals = await story.step(
            "approvals",
            workflow.execute_activity_method(
                CleanRoomGovernance.validate_access_and_approvals,
                ticket,
                **STANDARD.config("owners of every input and of the output", task_queue=here),
            ),
        )
        await story.step(
            "consent",
            workflow.execute_activity_method(
                CleanRoomGovernance.check_execution_consent, ticket, **STANDARD.config("query and every dataset", task_queue=here)
            ),
        )
        return snapshot, approvals

    async def _query(self, ticket: RunTicket) -> QuerySnapshot:
        """Record the start, which pins the run to its request, and fetch the query."""
        # To pin the run, the clean room reads the query and the caller's right to it. So this may fail as fetch_query does.
        await self._audit(AuditEvent(ticket=ticket, step="PREPARE_STARTED", message="checks started"))
        return await workflow.execute_activity_method(
            CleanRoomGovernance.fetch_query, ticket, **STANDARD.config("query and dataset documents", task_queue=CLEAN_ROOM_QUEUE)
        )

    async def _verified_service(self, ticket: RunTicket, job: JobConfig) -> tuple[ServiceProof, SparkVerdict]:
        """Get and verify the service's report and pod policies. After a restart the service has a new key, so attest it again."""
        story, here, nonce = self._story, CLEAN_ROOM_QUEUE, service_nonce(ticket)
        for attempt in range(1, ATTESTATION_ATTEMPTS + 1):
            report = await story.step(
                "report",
                workflow.execute_activity_method(
                    SparkServiceActivities.get_attestation_report,
                    ReportRequest(nonce=nonce),
                    **STANDARD.config("fresh nonce", task_queue=SPARK_SERVICE_QUEUE),
                ),
            )
            spark = await story.step(
                "verify",
                workflow.execute_activity_method(
                    CleanRoomGovernance.verify_spark,
                    VerifySparkRequest(ticket=ticket, report=report),
                    **STANDARD.config("signature, chain, host data, nonce", task_queue=here),
                ),
            )
            story.note("verify", f"{spark.product}, host data {spark.host_data[:12]}, {len(spark.checks)} checks")
            try:
                policies = await story.step("policy", self._policy(ticket, job, report, nonce))
            except ActivityError as error:
                if error_from_failure(error).code != "PolicySignatureInvalid" or attempt == ATTESTATION_ATTEMPTS:
                    raise
                story.note("report", "the service restarted, attesting it again")
                continue
            return ServiceProof(report=report, policies=policies), spark
        raise AssertionError("unreachable")

    async def _policy(self, ticket: RunTicket, job: JobConfig, report: ServiceReport, nonce: str) -> PolicyStatement:
        policies = await workflow.execute_activity_method(
            SparkServiceActivities.get_security_policy,
            PolicyRequest(job=job, nonce=nonce),
            **STANDARD.config("signed by the attested key", task_queue=SPARK_SERVICE_QUEUE),
        )
        await workflow.execute_activity_method(
            CleanRoomGovernance.verify_security_policy,
            VerifyPolicyRequest(ticket=ticket, proof=ServiceProof(report=report, policies=policies)),
            **STANDARD.config("compute the policies and compare them", task_queue=CLEAN_ROOM_QUEUE),
        )
        return policies

    async def _propagate(self, input: RunQueryInput, job: JobConfig, proof: ServiceProof) -> None:
        """Stage and grant all secrets, datasets in parallel.

        When one fails or the run is cancelled, wait until the others have ended. Otherwise a grant could be made after the
        run's revocation, and would stay.
        """
        evidence = Evidence(input.ticket, proof)
        branches = [asyncio.create_task(self._secrets_of(evidence, dataset)) for dataset in _with_secrets(job)]
        try:
            await asyncio.gather(*branches)
        except ENDS:
            for branch in branches:
                branch.cancel()
            await asyncio.gather(*branches, return_exceptions=True)
            raise

    async def _secrets_of(self, evidence: Evidence, dataset: JobDataset) -> None:
        """Obtain the secrets of one dataset from Key Vault or governance, then grant the run's copies to the pods of both roles."""
        to_end = STANDARD.wait_for_completion_on_cancel()
        if dataset.access.kind == "azure-blob":
            # A role or federated credential that is not propagated yet looks like a refusal. Retry until the deadline.
            read = CleanRoomSecrets.get_key_with_skr
            options = PROPAGATION.attempt(timedelta(seconds=60)).wait_for_completion_on_cancel()
        else:
            read, options = CleanRoomSecrets.get_secret, to_end
        summary = f"secrets of {dataset.name}, version {dataset.document_version}"

        async def stage(ticket: Ticket, proof: Proof) -> StagedSecrets:
            request = StageRequest(ticket=ticket, proof=proof, dataset=dataset.name)
            return await workflow.execute_activity_method(read, request, **options.config(summary, task_queue=CLEAN_ROOM_QUEUE))

        async def grant(ticket: Ticket, proof: Proof) -> Grants:
            request = GrantRequest(ticket=ticket, proof=proof, secrets=staged.secrets)
            return await workflow.execute_activity_method(
                CleanRoomSecrets.set_secret, request, **to_end.config(f"grant {dataset.name}", task_queue=CLEAN_ROOM_QUEUE)
            )

        async with self._slots:
            staged = await self._by_reference(stage, evidence)
            self._secrets.extend(staged.secrets)
            granted = await self._by_reference(grant, evidence)
            self._grants.extend(granted.grants)

    async def _by_reference(self, start: Callable[[Ticket, Proof], Coroutine[Any, Any, T]], evidence: Evidence) -> T:
        """Start an activity with references to the ticket and the proof. A worker that does not know them gets them in full."""
        try:
            return await await_then_cancel(start(*evidence.references))
        except ActivityError as error:
            if error_from_failure(error).code != NOT_REMEMBERED:
                raise
        return await await_then_cancel(start(evidence.ticket, evidence.proof))

    async def _configure_idp(self, input: RunQueryInput, proof: ServiceProof) -> None:
        granted = await await_then_cancel(
            workflow.execute_activity_method(
                CleanRoomSecrets.configure_idp,
                ConfigureIdpRequest(ticket=input.ticket, proof=proof),
                **STANDARD.wait_for_completion_on_cancel().config(
                    "ID tokens and events for driver and executor", task_queue=CLEAN_ROOM_QUEUE
                ),
            )
        )
        self._grants.extend(granted.grants)

    async def _audit(self, event: AuditEvent) -> None:
        await workflow.execute_activity_method(
            CleanRoomGovernance.record_event, event, **STANDARD.config(f"audit: {event.step}", task_queue=CLEAN_ROOM_QUEUE)
        )

    @workflow.query(description="The steps of the diagram and the state of each.")
    def timeline(self) -> tuple[str, ...]:
        """Return the steps as lines."""
        return self._story.lines()


def _with_secrets(job: JobConfig) -> list[JobDataset]:
    """Return the datasets for which pods need a secret: a key for client-side encryption, or a connection secret for S3."""
    return [dataset for dataset in (*job.datasets, job.datasink) if dataset.key_secret_id or dataset.access.kind == "aws-s3"]
