"""Diagram "Prepare Phase": from a caller's request to pods' policies that may read this run's secrets, and nobody else's."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.clean_room import CleanRoomGovernance
    from activities.clean_room_secrets import CleanRoomSecrets
    from activities.spark_service import SparkServiceActivities
    from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE, canonical_json, sha256_hex
    from cleanroom.messages.run import (
        AuditEvent,
        Grant,
        GrantRequest,
        PolicyRequest,
        PolicyStatement,
        Prepared,
        ReportRequest,
        RunQueryInput,
        RunTicket,
        ServiceProof,
        SparkVerdict,
        StagedSecret,
        StageRequest,
        VerifyPolicyRequest,
        VerifySparkRequest,
    )
    from cleanroom.runs.authority import service_nonce
    from cleanroom.spark.job import JobConfig, JobDataset
    from cleanroom.spark.signed import ServiceReport
    from cleanroom.temporal.failures import error_from_failure
    from cleanroom.temporal.retries import PROPAGATION, STANDARD
    from workflows.cancellation import await_then_cancel
    from workflows.story import Story

STEPS = {
    "users": "Get users; validate the caller",
    "query": "Fetch query",
    "approvals": "Validate dataset access and query approvals",
    "consent": "Check execution consent",
    "report": "Get attestation report of the Spark service",
    "verify": "Verify Spark service",
    "policy": "Get security policy per pod role",
    "secrets": "Propagate secrets to the pods",
    "idp": "Configure IDP per policy",
}
ROLES = ("driver", "executor")
ATTESTATION_ATTEMPTS = 3
MAX_AT_ONCE = 20
"""Secrets in flight at once: every fan-out is bounded."""


@workflow.defn(name="Prepare")
class Prepare:
    """Check everything, verify the Spark service, hand the secrets to this run's pod policies."""

    @workflow.init
    def __init__(self, input: RunQueryInput) -> None:
        self._story = Story(f"Prepare run {input.ticket.run_id} of {input.ticket.query}", STEPS, kind="prepare")
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._secrets: list[StagedSecret] = []
        self._grants: list[Grant] = []

    @workflow.run
    async def run(self, input: RunQueryInput) -> Prepared:
        async with self._story.report_outcome():
            return await self._prepare(input)

    async def _prepare(self, input: RunQueryInput) -> Prepared:
        story, ticket = self._story, input.ticket
        here = CLEAN_ROOM_QUEUE
        story.stage("checks")
        await story.step(
            "users",
            workflow.execute_activity_method(
                CleanRoomGovernance.get_users, ticket, **STANDARD.config(f"caller {input.caller}", task_queue=here)
            ),
        )
        await self._audit(
            AuditEvent(ticket=ticket, step="PREPARE_STARTED", message="checks begin", digests={"request": _digest(ticket.request)})
        )
        snapshot = await story.step(
            "query",
            workflow.execute_activity_method(
                CleanRoomGovernance.fetch_query, ticket, **STANDARD.config("query and dataset documents", task_queue=here)
            ),
        )
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
        job = await workflow.execute_activity_method(
            CleanRoomGovernance.build_job, ticket, **STANDARD.config("gate, floors, job configuration", task_queue=here)
        )
        story.stage("attestation")
        proof, spark = await self._verified_service(ticket, job)
        story.stage("release_keys")
        await story.step("secrets", self._propagate(input, job, proof), note=f"{len(_wanted(job))} secrets")
        story.stage("idp")
        await story.step("idp", self._configure_idp(input, proof))
        grants = sorted((item.model_dump(mode="json") for item in self._grants), key=lambda item: sorted(item.items()))
        digests = {"grants": sha256_hex(canonical_json(grants))}
        await self._audit(AuditEvent(ticket=ticket, step="GRANTED", message=f"{len(grants)} grants", digests=digests))
        digests = {"report": proof.report.evidence.digest(), "policies": _digest(proof.policies.statement)}
        await self._audit(AuditEvent(ticket=ticket, step="PREPARED", message="pods may run", digests=digests, proof=proof))
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

    async def _verified_service(self, ticket: RunTicket, job: JobConfig) -> tuple[ServiceProof, SparkVerdict]:
        """Report, verdict, policies. A service that restarts in between has a new key and is attested again."""
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
                story.note("report", "the service restarted; attesting it again")
                continue
            return ServiceProof(report=report, policies=policies), spark
        raise AssertionError("unreachable")

    async def _policy(self, ticket: RunTicket, job: JobConfig, report: ServiceReport, nonce: str) -> PolicyStatement:
        policies = await workflow.execute_activity_method(
            SparkServiceActivities.get_security_policy,
            PolicyRequest(job=job, nonce=nonce),
            **STANDARD.config("per pod role, signed by the attested key", task_queue=SPARK_SERVICE_QUEUE),
        )
        await workflow.execute_activity_method(
            CleanRoomGovernance.verify_security_policy,
            VerifyPolicyRequest(ticket=ticket, proof=ServiceProof(report=report, policies=policies)),
            **STANDARD.config("compute the policies and compare", task_queue=CLEAN_ROOM_QUEUE),
        )
        return policies

    async def _propagate(self, input: RunQueryInput, job: JobConfig, proof: ServiceProof) -> None:
        """All secrets side by side. When one fails, or the run is cancelled, the others have ended before this does: a grant that is
        given after the run's revocation would stay."""
        branches = [asyncio.create_task(self._secret(input, proof, dataset, kind)) for dataset, kind in _wanted(job)]
        try:
            await asyncio.gather(*branches)
        finally:
            for branch in branches:
                branch.cancel()
            await asyncio.gather(*branches, return_exceptions=True)

    async def _secret(self, input: RunQueryInput, proof: ServiceProof, dataset: JobDataset, kind: str) -> None:
        """One dataset secret: obtain it (Key Vault or governance), then set it for each pod policy."""
        request = StageRequest(ticket=input.ticket, proof=proof, dataset=dataset.name, kind=kind)
        from_vault = dataset.access.kind == "azure-blob" and kind == "key"
        async with self._slots:
            if from_vault:
                # A role or a federated credential that has not spread yet looks like a refusal; it is waited for, boundedly.
                staged = await await_then_cancel(
                    workflow.execute_activity_method(
                        CleanRoomSecrets.get_key_with_skr,
                        request,
                        **PROPAGATION.attempt(timedelta(seconds=60))
                        .wait_for_completion_on_cancel()
                        .config(f"release key {dataset.name} v{dataset.document_version}", task_queue=CLEAN_ROOM_QUEUE),
                    )
                )
            else:
                staged = await await_then_cancel(
                    workflow.execute_activity_method(
                        CleanRoomSecrets.get_secret,
                        request,
                        **STANDARD.wait_for_completion_on_cancel().config(f"get {kind} of {dataset.name}", task_queue=CLEAN_ROOM_QUEUE),
                    )
                )
            self._secrets.append(staged)
            for role in ROLES:
                grants = await await_then_cancel(
                    workflow.execute_activity_method(
                        CleanRoomSecrets.set_secret,
                        GrantRequest(ticket=input.ticket, proof=proof, role=role, secret=staged),
                        **STANDARD.wait_for_completion_on_cancel().config(
                            f"set {kind} of {dataset.name} for the {role}", task_queue=CLEAN_ROOM_QUEUE
                        ),
                    )
                )
                self._grants.extend(grants.grants)

    async def _configure_idp(self, input: RunQueryInput, proof: ServiceProof) -> None:
        for role in ROLES:
            grants = await await_then_cancel(
                workflow.execute_activity_method(
                    CleanRoomSecrets.configure_idp,
                    GrantRequest(ticket=input.ticket, proof=proof, role=role),
                    **STANDARD.wait_for_completion_on_cancel().config(f"tokens and events for the {role}", task_queue=CLEAN_ROOM_QUEUE),
                )
            )
            self._grants.extend(grants.grants)

    async def _audit(self, event: AuditEvent) -> None:
        await workflow.execute_activity_method(
            CleanRoomGovernance.record_event, event, **STANDARD.config(f"audit: {event.step}", task_queue=CLEAN_ROOM_QUEUE)
        )

    @workflow.query(description="The steps of the diagram and where each stands.")
    def timeline(self) -> tuple[str, ...]:
        return self._story.lines()


def _digest(text: str) -> str:
    return sha256_hex(text.encode())


def _wanted(job: JobConfig) -> list[tuple[JobDataset, str]]:
    """Which secrets the pods need: a key where the rows are encrypted by their owner, a connection secret off Azure."""
    wanted: list[tuple[JobDataset, str]] = []
    for dataset in (*job.datasets, job.datasink):
        if dataset.key_secret_id:
            wanted.append((dataset, "key"))
        if dataset.access.kind == "aws-s3":
            wanted.append((dataset, "connection"))
    return wanted
