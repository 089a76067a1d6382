"""Messages of the prepare and run phases."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cleanroom.identifiers import HexDigest, Name
from cleanroom.messages.base import Message
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.signed import ServiceReport

RunState = Literal["Preparing", "Submitting", "Running", "Concluding", "COMPLETED", "FAILED", "CANCELLED"]
PodRole = Literal["driver", "executor"]


class RunTicket(Message):
    """On whose word a run happens. Every activity that releases anything verifies it again, against governance."""

    collaboration: str
    query: Name
    run_id: Name
    request: str
    """JWS of :class:`cleanroom.statements.RunRequest` by the caller."""


class RunQueryInput(Message):
    """Start of ``RunQuery``."""

    ticket: RunTicket
    caller: Name
    driver_start_seconds: int = Field(default=900, ge=1)
    run_seconds: int = Field(default=6 * 3600, ge=1)
    consent_check_seconds: int = Field(default=5, ge=1)


class CallerVerdict(Message):
    caller_id: str
    users: int
    """How many users governance knows."""


class DocumentSnapshot(Message):
    """One accepted document as the run sees it."""

    id: str
    version: str
    digest: HexDigest
    owner_id: str


class QuerySnapshot(Message):
    query: DocumentSnapshot
    datasets: tuple[DocumentSnapshot, ...]
    """Inputs in order, then the output dataset."""


class ApprovalVerdict(Message):
    owners: tuple[str, ...]
    approved_by: tuple[str, ...]
    runs_left: int | None = None


class ConsentVerdict(Message):
    documents: tuple[str, ...]


class ReportRequest(Message):
    nonce: HexDigest


class SparkVerdict(Message):
    """That the Spark service is the code that we accept."""

    host_data: HexDigest
    product: str
    checks: tuple[str, ...]
    service_key_digest: HexDigest


class VerifySparkRequest(Message):
    ticket: RunTicket
    report: ServiceReport


class PolicyRequest(Message):
    job: JobConfig
    nonce: HexDigest


class PolicyStatement(Message):
    """The Spark service's word on a job's pod policies; their texts are not carried, because whoever relies on them computes
    them from the job, byte for byte."""

    statement: str
    """Compact JWS over ``{driver, executor, jobDigest, nonce, profileDigest}``, the first two being host data."""
    driver_host_data: HexDigest
    executor_host_data: HexDigest


class ServiceProof(Message):
    """What lets an activity convince itself that the policies it is given are the right ones."""

    report: ServiceReport
    policies: PolicyStatement


class VerifyPolicyRequest(Message):
    ticket: RunTicket
    proof: ServiceProof


class StageRequest(Message):
    """Obtain one dataset's secret and stage it for this run."""

    ticket: RunTicket
    proof: ServiceProof
    dataset: Name
    kind: Literal["key", "connection"]


class StagedSecret(Message):
    dataset: Name
    kind: Literal["key", "connection", "consent"]
    secret_id: str


class GrantRequest(Message):
    """Let the pods of one role read one staged secret, or be known to the IDP."""

    ticket: RunTicket
    proof: ServiceProof
    role: PodRole
    secret: StagedSecret | None = None


class Grant(Message):
    """One entry in a delegate policy of governance: what must be taken back at the end."""

    delegate_type: str
    delegate_id: str
    host_data: HexDigest


class Grants(Message):
    grants: tuple[Grant, ...]


class Prepared(Message):
    """Result of ``Prepare``."""

    job: JobConfig
    job_digest: HexDigest
    proof: ServiceProof
    secrets: tuple[StagedSecret, ...]
    grants: tuple[Grant, ...]
    spark: SparkVerdict
    snapshot: QuerySnapshot
    approvals: ApprovalVerdict


class ConsentReceiptRequest(Message):
    ticket: RunTicket
    proof: ServiceProof
    consent: Literal["enabled", "withdrawn"] = "enabled"
    seconds: int = Field(default=120, ge=1)


class AuditEvent(Message):
    """One step of a run, for the ledger."""

    ticket: RunTicket
    step: str
    message: str
    digests: dict[str, str] = {}
    proof: ServiceProof | None = None
    """With it, the clean room verifies the run once more and enters what follows from it, bound to an attestation report of its own."""


class SubmitRequest(Message):
    ticket: RunTicket
    job: JobConfig
    proof: ServiceProof


class TrackingId(Message):
    """Handle of a submitted job."""

    name: str
    namespace: str
    uid: str


class WatchRequest(Message):
    ticket: RunTicket
    tracking: TrackingId
    driver_start_seconds: int
    run_seconds: int


class JobOutcome(Message):
    """How a job ended, in our vocabulary; ``error`` is :meth:`cleanroom.errors.CleanRoomError.to_dict` of why it did not complete."""

    completed: bool
    error: dict[str, Any] | None = None


class ConsentWatchRequest(Message):
    ticket: RunTicket
    proof: ServiceProof
    interval_seconds: int


class ConsentWithdrawn(Message):
    document_id: str
    message: str


class CollectRequest(Message):
    ticket: RunTicket
    job_digest: HexDigest


class RevokeRequest(Message):
    ticket: RunTicket
    proof: ServiceProof | None = None


class Revoked(Message):
    secrets: int
    grants: int
    removed: tuple[Grant, ...] = ()
    """What was taken out of delegate policies by this call; what was not there any more is not listed."""


class Concluded(Message):
    """Result of ``ConcludeRun``."""

    revoked: Revoked
    job_stopped: bool
    """Whether there was still a job to stop."""


class RunFailure(Message):
    code: str
    message: str
    party: str = ""
    hint: str = ""


class RunResult(Message):
    """Result of ``RunQuery``. A failed run is a result too: the workflow fails with the same code."""

    run_id: str
    query: str
    state: RunState
    job: str = ""
    receipt: ResultReceipt | None = None
    failure: RunFailure | None = None
    stages: dict[str, float] = {}
    """Seconds spent in each stage."""
    revoked: Revoked | None = None


class RunStatus(Message):
    """Answer of the query ``status``."""

    run_id: str
    query: str
    state: RunState
    stage: str
    job: str = ""
    steps: tuple[str, ...] = ()
    failure: RunFailure | None = None
