"""Messages of the Prepare and Run diagrams: inputs and results of their workflows and activities."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cleanroom.identifiers import HexDigest, Name, Seen, canonical_json, sha256_hex
from cleanroom.messages.base import Message
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.service_report import ServiceReport

NOT_REMEMBERED = "RunNotRemembered"
"""Code of the error of an activity that does not know what a :class:`Reference` stands for."""
RunState = Literal["Preparing", "Submitting", "Running", "Concluding", "COMPLETED", "FAILED", "CANCELLED"]


class RunTicket(Message):
    """Names a run and carries its signed request. Every activity of a run receives it and verifies it against governance."""

    collaboration: str
    query: Name
    run_id: Name
    request: str
    """Compact JWS of :class:`cleanroom.statements.RunRequest`, signed by the caller."""
    seen: Seen = ""
    """What the sender has seen in governance. Every worker of the run waits until it has seen the same."""


class RunQueryInput(Message):
    """Input of ``RunQuery`` and ``Prepare``."""

    ticket: RunTicket
    caller: Name
    driver_start_seconds: int = Field(default=900, ge=1)
    run_seconds: int = Field(default=6 * 3600, ge=1)
    consent_check_seconds: int = Field(default=5, ge=1)


class CallerVerdict(Message):
    """Result of ``get_users``: the caller is registered and signed the request."""

    caller_id: str
    users: int
    """Number of active users in governance."""


class DocumentSnapshot(Message):
    """An accepted document that the run uses."""

    id: str
    version: str
    digest: HexDigest
    owner_id: str


class QuerySnapshot(Message):
    """Result of ``fetch_query``: the documents that the run uses."""

    query: DocumentSnapshot
    datasets: tuple[DocumentSnapshot, ...]
    """Inputs in order, then the output dataset."""
    seen: Seen = ""


class ApprovalVerdict(Message):
    """Result of ``validate_access_and_approvals``: user IDs of the owners and of the users who accepted the query."""

    owners: tuple[str, ...]
    approved_by: tuple[str, ...]
    runs_left: int | None = None


class ConsentVerdict(Message):
    """Result of ``check_execution_consent``: IDs of the documents with execution consent."""

    documents: tuple[str, ...]


class ReportRequest(Message):
    """Input of ``get_attestation_report``."""

    nonce: HexDigest


class SparkVerdict(Message):
    """Result of ``verify_spark``: what was verified about the Spark service."""

    host_data: HexDigest
    product: str
    checks: tuple[str, ...]
    service_key_digest: HexDigest


class VerifySparkRequest(Message):
    """Input of ``verify_spark``."""

    ticket: RunTicket
    report: ServiceReport


class PolicyRequest(Message):
    """Input of ``get_security_policy``."""

    job: JobConfig
    nonce: HexDigest


class PolicyStatement(Message):
    """The Spark service's signed statement on a job's pod policies.

    It does not contain the policies. Each verifier computes them from the job and gets the same bytes.
    """

    statement: str
    """Compact JWS over ``{driver, executor, jobDigest, nonce, profileDigest}``; ``driver`` and ``executor`` are host data."""
    driver_host_data: HexDigest
    executor_host_data: HexDigest


class ServiceProof(Message):
    """The Spark service's attestation report and its signed pod policies. Activities verify both."""

    report: ServiceReport
    policies: PolicyStatement


class VerifyPolicyRequest(Message):
    """Input of ``verify_security_policy``."""

    ticket: RunTicket
    proof: ServiceProof


class Reference(Message):
    """Stands for a run ticket or a service proof that the clean room's worker has verified before, so that it travels once."""

    digest: HexDigest
    """:func:`message_digest` of the message."""
    seen: Seen = ""


def message_digest(message: RunTicket | ServiceProof) -> str:
    """Return the SHA-256 of a message's canonical JSON. What its sender has seen decides nothing, so it does not count."""
    return sha256_hex(canonical_json(message.model_dump(mode="json", exclude={"seen"})))


class StageRequest(Message):
    """Input of ``get_key_with_skr`` and ``get_secret``: obtain the secrets of a dataset and stage them for this run."""

    ticket: RunTicket | Reference
    proof: ServiceProof | Reference
    dataset: Name


class StagedSecret(Message):
    """A run's copy of a secret in governance."""

    dataset: Name
    kind: Literal["key", "connection", "consent"]
    secret_id: str
    seen: Seen = ""


class StagedSecrets(Message):
    """Result of ``get_key_with_skr`` and ``get_secret``."""

    secrets: tuple[StagedSecret, ...]
    seen: Seen = ""


class GrantRequest(Message):
    """Input of ``set_secret``: grant staged secrets to the run's pods."""

    ticket: RunTicket | Reference
    proof: ServiceProof | Reference
    secrets: tuple[StagedSecret, ...] = Field(min_length=1)


class ConfigureIdpRequest(Message):
    """Input of ``configure_idp``."""

    ticket: RunTicket
    proof: ServiceProof


class Grant(Message):
    """One entry in a delegate policy of governance. The end of the run revokes it."""

    delegate_type: str
    delegate_id: str
    host_data: HexDigest


class Grants(Message):
    """Result of ``set_secret`` and ``configure_idp``: one grant per pod role and delegate policy."""

    grants: tuple[Grant, ...]
    seen: Seen = ""


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
    seen: Seen = ""


class ConsentReceiptRequest(Message):
    """Input of ``issue_consent_receipt``."""

    ticket: RunTicket
    proof: ServiceProof


class AuditEvent(Message):
    """Input of ``record_event``: one step of a run, for the ledger."""

    ticket: RunTicket
    step: str
    message: str = ""
    """The orchestrator's words. They are in no entry that the clean room attests."""
    digests: dict[str, str] = {}
    """As ``message``."""
    proof: ServiceProof | None = None
    """For ``PREPARED`` only: the clean room verifies the run again, and attests what it derives and nothing else."""


class SubmitRequest(Message):
    """Input of ``submit_job``. The Spark service builds the job itself and compares it with ``job``."""

    ticket: RunTicket
    job: JobConfig


class TrackingId(Message):
    """Result of ``submit_job``: the SparkApplication in Kubernetes."""

    name: str
    namespace: str
    uid: str


class WatchRequest(Message):
    """Input of ``watch_job``."""

    ticket: RunTicket
    tracking: TrackingId
    driver_start_seconds: int
    run_seconds: int


class JobOutcome(Message):
    """Result of ``watch_job``. ``error`` is :meth:`cleanroom.errors.CleanRoomError.to_dict`, for a job that did not complete."""

    completed: bool
    error: dict[str, Any] | None = None
    may_have_completed: bool = False
    """Whether the driver may have written its result receipt although the job failed. If so, the ledger decides."""


class ConsentWatchRequest(Message):
    """Input of ``watch_consent``."""

    ticket: RunTicket
    proof: ServiceProof
    interval_seconds: int
    """Pause between two checks. The activity limits it to an eighth of the consent receipt's lifetime."""


class ConsentWithdrawn(Message):
    """Result of ``watch_consent``, which returns only when consent to a document was withdrawn."""

    document_id: str
    message: str


class CollectRequest(Message):
    """Input of ``collect_result``, which derives the run's job itself and compares its digest with ``job_digest``."""

    ticket: RunTicket
    job_digest: HexDigest


class RevokeRequest(Message):
    """Input of ``revoke_grants``."""

    ticket: RunTicket


class Revoked(Message):
    """Result of ``revoke_grants``: how many secrets were overwritten and how many grants were removed."""

    secrets: int
    grants: int
    removed: tuple[Grant, ...] = ()
    """The grants that this call removed. Grants that were absent already are not listed."""
    closed: bool = True
    """Whether the run is closed in the ledger. False when the ticket's request is not the run: then nothing was undone."""
    seen: Seen = ""


class Concluded(Message):
    """Result of ``ConcludeRun``."""

    revoked: Revoked
    job_stopped: bool
    """Whether a job existed and was deleted."""


class RunFailure(Message):
    """Why a run failed, in the vocabulary of :mod:`cleanroom.errors`."""

    code: str
    message: str
    party: str = ""
    hint: str = ""


class RunResult(Message):
    """Result of ``RunQuery``, and answer of its query ``outcome``. A failed workflow fails with the code in ``failure``."""

    run_id: str
    query: str
    state: RunState
    job: str = ""
    receipt: ResultReceipt | None = None
    failure: RunFailure | None = None
    stages: dict[str, float] = {}
    """Duration of each step, in seconds."""
    revoked: Revoked | None = None


class RunStatus(Message):
    """Answer of the query ``status`` of ``RunQuery``."""

    run_id: str
    query: str
    state: RunState
    stage: str
    job: str = ""
    steps: tuple[str, ...] = ()
    failure: RunFailure | None = None
