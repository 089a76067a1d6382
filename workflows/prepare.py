"""Diagram "Prepare Phase": from a caller's request to pods' policies that may read this run's secrets, and nobody else's."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import VersioningBehavior

with workflow.unsafe.imports_passed_through():
    from activities.clean_room import CleanRoomGovernance
    from activities.clean_room_secrets import CleanRoomSecrets
    from activities.spark_service import SparkServiceActivities

    from cleanroom.identifiers import CLEAN_ROOM_QUEUE, SPARK_SERVICE_QUEUE
    from cleanroom.messages.run import (
        Grant,
        GrantRequest,
        PolicyRequest,
        Prepared,
        ReportRequest,
        RunQueryInput,
        ServiceProof,
        StagedSecret,
        StageRequest,
        VerifySparkRequest,
    )
    from cleanroom.runs.authority import service_nonce
    from cleanroom.spark.job import JobConfig, JobDataset
    from cleanroom.temporal.retries import PROPAGATION, STANDARD
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
MAX_AT_ONCE = 20
"""Secrets in flight at once: every fan-out is bounded."""


@workflow.defn(name="Prepare", versioning_behavior=VersioningBehavior.PINNED)
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
        async with self._story.told():
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
        nonce = service_nonce(ticket)
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
        policies = await story.step(
            "policy",
            workflow.execute_activity_method(
                SparkServiceActivities.get_security_policy,
                PolicyRequest(job=job, nonce=nonce),
                **STANDARD.config("signed by the attested key", task_queue=SPARK_SERVICE_QUEUE),
            ),
        )
        proof = ServiceProof(report=report, policies=policies)
        story.stage("release_keys")
        await story.step("secrets", self._propagate(input, job, proof), note=f"{len(_wanted(job))} secrets")
        story.stage("idp")
        await story.step("idp", self._configure_idp(input, proof))
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

    async def _propagate(self, input: RunQueryInput, job: JobConfig, proof: ServiceProof) -> None:
        await asyncio.gather(*(self._secret(input, proof, dataset, kind) for dataset, kind in _wanted(job)))

    async def _secret(self, input: RunQueryInput, proof: ServiceProof, dataset: JobDataset, kind: str) -> None:
        """One dataset secret: obtain it (Key Vault or governance), then set it for each pod policy."""
        request = StageRequest(ticket=input.ticket, proof=proof, dataset=dataset.name, kind=kind)  # type: ignore[arg-type]
        from_vault = dataset.access.kind == "azure-blob" and kind == "key"
        async with self._slots:
            if from_vault:
                # A role or a federated credential that has not spread yet looks like a refusal; it is waited for, boundedly.
                staged = await workflow.execute_activity_method(
                    CleanRoomSecrets.get_key_with_skr,
                    request,
                    **PROPAGATION.attempt(timedelta(seconds=60), heartbeat=timedelta(seconds=20)).config(
                        f"release key {dataset.name} v{dataset.document_version}", task_queue=CLEAN_ROOM_QUEUE
                    ),
                )
            else:
                staged = await workflow.execute_activity_method(
                    CleanRoomSecrets.get_secret, request, **STANDARD.config(f"get {kind} of {dataset.name}", task_queue=CLEAN_ROOM_QUEUE)
                )
            self._secrets.append(staged)
            for role in ROLES:
                grants = await workflow.execute_activity_method(
                    CleanRoomSecrets.set_secret,
                    GrantRequest(ticket=input.ticket, proof=proof, role=role, secret=staged),  # type: ignore[arg-type]
                    **STANDARD.config(f"set {kind} of {dataset.name} for the {role}", task_queue=CLEAN_ROOM_QUEUE),
                )
                self._grants.extend(grants.grants)

    async def _configure_idp(self, input: RunQueryInput, proof: ServiceProof) -> None:
        for role in ROLES:
            grants = await workflow.execute_activity_method(
                CleanRoomSecrets.configure_idp,
                GrantRequest(ticket=input.ticket, proof=proof, role=role),  # type: ignore[arg-type]
                **STANDARD.config(f"tokens and events for the {role}", task_queue=CLEAN_ROOM_QUEUE),
            )
            self._grants.extend(grants.grants)

    @workflow.query(description="The steps of the diagram and where each stands.")
    def timeline(self) -> tuple[str, ...]:
        return self._story.lines()


def _wanted(job: JobConfig) -> list[tuple[JobDataset, str]]:
    """Which secrets the pods need: a key where the rows are encrypted by their owner, a connection secret off Azure."""
    wanted: list[tuple[JobDataset, str]] = []
    for dataset in (*job.datasets, job.datasink):
        if dataset.key_secret_id:
            wanted.append((dataset, "key"))
        if dataset.access.kind == "aws-s3":
            wanted.append((dataset, "connection"))
    return wanted
