"""Each workflow on :mod:`tests.unit.workflows.driver`, with an input and answers with which it succeeds."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Literal

from cleanroom.attestation import AttestationEvidence
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.messages.cleanup import (
    CleanupInput,
    HeldFound,
    HeldRequest,
    JobsFound,
    RunHeld,
    RunJob,
    StatesFound,
    StatesRequest,
    WorkflowState,
)
from cleanroom.messages.publish import (
    AccessGranted,
    CleanRoomIdentity,
    CleanRoomPolicy,
    ConnectionSecret,
    Descriptor,
    EncryptionKey,
    FederationSet,
    ManagedIdentity,
    ProposedDocument,
    PublishDatasetInput,
    PublishedDataset,
    StoredSecret,
    StoreLocation,
)
from cleanroom.messages.query import (
    BallotRecorded,
    Collaborator,
    DatasetOwners,
    DraftStored,
    Notified,
    ProposalWithdrawn,
    PublishQueryInput,
    QueryDraft,
    QueryProposed,
    VerifiedDecision,
    WatchQueriesInput,
)
from cleanroom.messages.run import (
    ApprovalVerdict,
    CallerVerdict,
    ConsentVerdict,
    DocumentSnapshot,
    Grant,
    Grants,
    JobOutcome,
    PolicyStatement,
    Prepared,
    QuerySnapshot,
    Revoked,
    RunQueryInput,
    RunTicket,
    ServiceProof,
    SparkVerdict,
    StagedSecret,
    StagedSecrets,
    TrackingId,
)
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.service_report import ServiceReport
from tests.unit.spark_support import make_job
from tests.unit.workflows.driver import HELD, START, UNTIL_CANCELLED, Driver, driving
from workflows.cleanup import Cleanup
from workflows.conclude_run import ConcludeRun
from workflows.prepare import Prepare
from workflows.publish_azure_dataset import PublishAzureDataset
from workflows.publish_query import PublishQuery
from workflows.publish_s3_dataset import PublishS3Dataset
from workflows.run_query import RunQuery
from workflows.watch_queries import WatchQueries

ZERO = "0" * 64
TICKET = RunTicket(collaboration="flights", query="totals", run_id="run-1", request="signed")
RUN = RunQueryInput(ticket=TICKET, caller="fabrikam", driver_start_seconds=11, run_seconds=22, consent_check_seconds=7)
PROOF = ServiceProof(
    report=ServiceReport(evidence=AttestationEvidence(evidence="", endorsements=""), payload="{}"),
    policies=PolicyStatement(statement="s", driver_host_data="d" * 64, executor_host_data="e" * 64),
)
JOB = make_job()
SPARK = SparkVerdict(host_data="5a" * 32, product="Milan", checks=("chain", "nonce"), service_key_digest=ZERO)
SNAPSHOT = QuerySnapshot(query=DocumentSnapshot(id="totals", version="2.20", digest="1" * 64, owner_id="u-fabrikam"), datasets=())
APPROVALS = ApprovalVerdict(owners=("u-contosso",), approved_by=("u-contosso",))
PREPARED = Prepared(
    job=JOB, job_digest=JOB.digest(), proof=PROOF, secrets=(), grants=(), spark=SPARK, snapshot=SNAPSHOT, approvals=APPROVALS
)  # fmt: skip
RECEIPT = ResultReceipt(
    run_id="run-1", query_digest=ZERO, job_digest=JOB.digest(), dataset="totals", objects=(), rows=42, digest="9" * 64, columns=("region",)
)  # fmt: skip

STAGED = StagedSecret(dataset="d", kind="consent", secret_id="s")


def run_query_answers() -> dict[str, Any]:
    """Answers with which ``RunQuery`` completes."""
    return {
        "Prepare": PREPARED,
        "issue_consent_receipt": STAGED,
        "record_event": None,
        "submit_job": TrackingId(name="job-1", namespace="n", uid="u"),
        "watch_job": JobOutcome(completed=True),
        "watch_consent": UNTIL_CANCELLED,
        "collect_result": RECEIPT,
        "delete_job": True,
        "revoke_grants": Revoked(secrets=3, grants=8),
    }


def run_query(**answers: Any) -> AbstractContextManager[Driver]:
    """``RunQuery``."""
    return driving(RunQuery, RUN, run_query_answers() | answers)


def conclude_run_answers() -> dict[str, Any]:
    """Answers with which ``ConcludeRun`` completes."""
    return {"revoke_grants": Revoked(secrets=3, grants=8), "delete_job": True, "record_event": None}


def conclude_run(**answers: Any) -> AbstractContextManager[Driver]:
    """``ConcludeRun``."""
    return driving(ConcludeRun, TICKET, conclude_run_answers() | answers)


READ_AT = START + timedelta(hours=2)


def held(run_id: str, **members: Any) -> RunHeld:
    """What a run of this namespace holds two hours after its start; by default secrets and grants."""
    ticket = TICKET.model_copy(update={"run_id": run_id})
    found: dict[str, Any] = {
        "query": "totals",
        "ticket": ticket,
        "pinned": True,
        "pinned_at": START,
        "expires": START + timedelta(hours=12),
        "origin": "namespace-1",
        "held": {"secrets": 3, "secret grants": 6},
    }
    return RunHeld(run_id=run_id, **found | members)


def job(*run_ids: str) -> JobsFound:
    """The SparkApplications of these runs."""
    return JobsFound(jobs=tuple(RunJob(name=f"cr-{run}", uid="u", run_id=run, query="totals", created_at=START) for run in run_ids))


def cleanup(*runs: RunHeld, input: CleanupInput | None = None, **answers: Any) -> AbstractContextManager[Driver]:
    """``Cleanup``. Both looks find ``runs``, and Temporal says that all their workflows were terminated."""

    def look(request: HeldRequest) -> HeldFound:
        chosen = [run for run in runs if request.runs is None or run.run_id in request.runs]
        return HeldFound(read_at=READ_AT, runs=tuple(chosen))

    def states(request: StatesRequest) -> StatesFound:
        terminated = WorkflowState(state="ended", status="TERMINATED")
        return StatesFound(namespace_id="namespace-1", states=dict.fromkeys(request.runs, terminated))

    found = {
        "find_held": look,
        "describe_runs": states,
        "list_jobs": JobsFound(),
        "revoke_grants": Revoked(secrets=3, grants=6),
        "delete_unpinned_job": True,
        "delete_job": True,
        "record_event": None,
    }
    return driving(Cleanup, input or CleanupInput(collaboration="flights", apply=True), found | answers)


def prepare_answers() -> dict[str, Any]:
    """Answers with which ``Prepare`` completes."""
    return {
        "get_users": CallerVerdict(caller_id="u-fabrikam", users=3),
        "record_event": None,
        "fetch_query": SNAPSHOT,
        "validate_access_and_approvals": APPROVALS,
        "check_execution_consent": ConsentVerdict(documents=("totals",)),
        "build_job": JOB,
        "get_attestation_report": PROOF.report,
        "verify_spark": SPARK,
        "get_security_policy": PROOF.policies,
        "verify_security_policy": None,
        "get_secret": lambda request: staged(request.dataset, "key", "connection"),
        "get_key_with_skr": lambda request: staged(request.dataset, "key"),
        "set_secret": lambda request: _grants("secrets", request.secrets[0].secret_id),
        "configure_idp": _grants("events", "run"),
    }


def prepare(**answers: Any) -> AbstractContextManager[Driver]:
    """``Prepare``."""
    return driving(Prepare, RUN, prepare_answers() | answers)


def staged(dataset: str, *kinds: Literal["key", "connection"]) -> StagedSecrets:
    """The copies of a dataset's secrets."""
    return StagedSecrets(secrets=tuple(StagedSecret(dataset=dataset, kind=kind, secret_id=f"{dataset}.{kind}") for kind in kinds))


def azure_job() -> JobConfig:
    """A job with an encrypted dataset in Azure, one in S3, and an encrypted output in S3."""
    blob = {
        "kind": "azure-blob",
        "accountUrl": "https://blobs",
        "container": "orders",
        "authority": "https://login",
        "tenantId": "t",
        "clientId": "c",
        "subject": "s",
        "issuerUrl": "https://issuer",
    }
    s3 = JOB.datasets[0].model_dump(mode="json", by_alias=True)
    return make_job(
        datasets=[s3 | {"name": "azure", "access": blob, "keySecretId": "k1"}, s3],
        datasink={**s3, "name": "totals", "keySecretId": "k2"},
    )


def _grants(kind: str, name: str) -> Grants:
    return Grants(grants=tuple(Grant(delegate_type=kind, delegate_id=name, host_data=host * 64) for host in "de"))


# ---------------------------------------------------------------------- publish

IDENTITY = ManagedIdentity(name="mi", resource_id="/mi", client_id="c", principal_id="p", tenant_id="t")
POLICY = CleanRoomPolicy(host_data=("c" * 64,), claims={}, digest=ZERO)
PUBLISHED = PublishedDataset(document_id="orders", version="2.3", digest=ZERO, proposal_id="p-1", owner_id="u-contosso")
STORES = {
    "azure-blob": {"kind": "azure-blob", "container": "orders"},
    "aws-s3": {"kind": "aws-s3", "bucket": "orders", "subdirectory": "orders", "connectionSecret": "secret:s3"},
}


def publication(kind: str) -> PublishDatasetInput:
    """Input of the two workflows that publish a dataset."""
    spec = DatasetSpec.model_validate(
        {"name": "orders", "format": "csv", "access": "read", "schema": {"region": "string"}, "store": STORES[kind]}
    )
    return PublishDatasetInput(collaboration="flights", party="contosso", owner_id="u-contosso", spec=spec, authorisation="signed")


def publish_dataset_answers() -> dict[str, Any]:
    """Answers with which a dataset is published."""
    return {
        "create_managed_identity": IDENTITY,
        "allow_access_blob": AccessGranted(roles=("r",), scope="/s"),
        "allow_access_key_vault": AccessGranted(roles=("r",), scope="/s"),
        "get_clean_room_identity": CleanRoomIdentity(issuer_url="https://issuer", subject="flights-u-contosso", audience="a"),
        "get_clean_room_policy": POLICY,
        "set_federation": FederationSet(name="f", issuer_url="https://issuer", subject="s", audience="a"),
        "set_key_with_skr": EncryptionKey(
            key_name="k", key_id="id", key_vault_url="https://vault", authority="https://maa", wrapped_key="w"
        ),
        "locate_blob_store": StoreLocation(url="https://blobs"),
        "locate_s3_store": StoreLocation(url="https://s3", region="eu-west-1"),
        "get_connection_secret": ConnectionSecret(reference="secret:s3", store="s3://orders"),
        "set_secret": lambda request: StoredSecret(kind=request.kind, secret_id=f"u-{request.kind}"),
        "generate_dataset_descriptor": Descriptor(document_id="orders", data="{}", digest=ZERO, labels={}),
        "propose_document": ProposedDocument(document_id="orders", proposal_id="p-1", version="2.2", digest=ZERO),
        "accept_document": PUBLISHED,
    }


def publish_dataset(kind: Literal["azure-blob", "aws-s3"], **answers: Any) -> AbstractContextManager[Driver]:
    """``PublishAzureDataset`` or ``PublishS3Dataset``."""
    return driving(
        PublishAzureDataset if kind == "azure-blob" else PublishS3Dataset, publication(kind), publish_dataset_answers() | answers
    )


# ---------------------------------------------------------------------- queries

OWNERS = ("u-contosso", "u-litware")
SPEC = QuerySpec(name="totals", inputs={"o": "orders"}, output="out", sql="SELECT 1")
QUERY = PublishQueryInput(
    collaboration="flights",
    proposer=Collaborator(name="fabrikam", user_id="u-fabrikam"),
    parties=tuple(Collaborator(name=name, user_id=f"u-{name}") for name in ("contosso", "fabrikam", "litware")),
    spec=SPEC,
    authorisation="signed",
    approval_seconds=14 * 86_400,
)
DRAFT = QueryDraft(
    document_id="totals", data="{}", digest="1" * 64, labels={}, card="the card", card_digest=ZERO, owners=OWNERS
)  # fmt: skip
APPROVAL_ENDS = START + timedelta(days=30)


def decided(request: Any) -> VerifiedDecision:
    """Verify a token ``approve u-contosso`` or ``reject u-litware``."""
    decision, approver = request.token.split(".")[:2]
    return VerifiedDecision(approver_id=approver, decision=decision, reason="", expires=APPROVAL_ENDS, max_runs=None, nonce="n")


def publish_query_answers() -> dict[str, Any]:
    """Answers with which owners approve a query one after the other."""
    stored = DraftStored(version="2.11", digest="1" * 64, seen="2.11")
    first = BallotRecorded(proposal_state="Open", ballots={"u-contosso": "accepted"}, seen="2.13")
    second = BallotRecorded(proposal_state="Accepted", ballots={"u-contosso": "accepted", "u-litware": "accepted"}, seen="2.14")
    return {
        "generate_query_document": DRAFT,
        "create_document": stored,
        "update_document": DraftStored(version="2.12", digest="1" * 64, seen="2.12"),
        "determine_dataset_owners": DatasetOwners(owners=OWNERS, version="2.11", digest="1" * 64, seen="2.11"),
        "propose_query": [
            QueryProposed(proposal_id=f"p-{number}", version="2.11", digest="1" * 64, seen=f"2.{20 + number}") for number in (1, 2, 3)
        ],
        "confirm_withdrawal": None,
        "withdraw_proposal": ProposalWithdrawn(seen="2.40"),
        "verify_decision": decided,
        "accept_query": [first, second],
        "reject_query": BallotRecorded(proposal_state="Rejected", ballots={"u-contosso": "rejected"}, seen="2.13"),
        "find_query_change": HELD,
        "notify": Notified(sent=True),
    }


def publish_query(input: PublishQueryInput = QUERY, *, now: datetime = START, **answers: Any) -> AbstractContextManager[Driver]:
    """``PublishQuery``. No change is seen in governance, and owners approve one after the other."""
    return driving(PublishQuery, input, publish_query_answers() | answers, now=now)


WATCH = WatchQueriesInput(collaboration="flights")


def watch_queries(**answers: Any) -> AbstractContextManager[Driver]:
    """``WatchQueries``, whose activity runs."""
    return driving(WatchQueries, WATCH, {"watch_queries": HELD} | answers)
