"""The bodies of a bundle's records: one model per kind of record."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from pydantic import AwareDatetime, Field

from cleanroom.audit.chain import Kind
from cleanroom.identifiers import HexDigest, Name
from cleanroom.messages.run import Grant, RunState
from cleanroom.models import CamelModel
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.service_report import ServiceReport


class Body(CamelModel):
    """The body of a record."""

    def wire(self) -> dict[str, Any]:
        """Return the body as JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ExportBody(Body):
    """The first record: what was exported, when and by whom. If ``sealed_by`` is set, that user's signature is required."""

    collaboration: str
    run_id: Name
    query: Name
    state: RunState
    exported_at: AwareDatetime
    exported_by: str
    sealed_by: str | None = None


class RequestBody(Body):
    """The caller's run request, a signed statement (JWS)."""

    request: str


class OutcomeBody(Body):
    """How the run ended, according to Temporal."""

    workflow_id: str
    temporal_run_id: str
    state: RunState
    started_at: AwareDatetime
    closed_at: AwareDatetime
    failure: dict[str, Any] | None = None
    steps: dict[str, AwareDatetime] = {}
    """Last completion time of every activity, by name."""


class DocumentBody(Body):
    """A document from governance with its votes, and the digest of its ``data`` (docs/facts/governance-service.md)."""

    document: dict[str, Any]
    digest: HexDigest


class TrustBody(Body):
    """The trust document that the job names: a member document from governance with its votes, and the digest of its ``data``."""

    document: dict[str, Any]
    digest: HexDigest


class PolicyBody(Body):
    """The contract's clean room policy at the time of the export: allowed values by claim."""

    policy: dict[str, list[Any]]


class ConsentBody(Body):
    """A consent check: its time, its documents and its result."""

    step: str
    at: AwareDatetime
    documents: tuple[str, ...]
    status: str
    message: str = ""


class ReportBody(Body):
    """The Spark service's report with its nonce, and the time and result of the clean room's verification."""

    report: ServiceReport
    nonce: HexDigest
    at: AwareDatetime
    verdict: dict[str, Any] = {}


class JobBody(Body):
    """The job that the pods were measured against."""

    job: JobConfig
    digest: HexDigest


class PoliciesBody(Body):
    """The host data of the pod policies, with the attested service's signed statement (JWS)."""

    statement: str
    driver: HexDigest
    executor: HexDigest


class GrantBody(Body):
    """A grant of the run. ``held`` says whether the delegate policy still contained it at the time of the export."""

    delegate_type: str
    delegate_id: str
    host_data: HexDigest
    held: bool

    def key(self) -> tuple[str, str, str]:
        """Return the members that identify the grant."""
        return self.delegate_type, self.delegate_id, self.host_data


class RevocationBody(Body):
    """The grants that the run revoked, and when."""

    at: AwareDatetime
    secrets: int
    grants: int
    removed: tuple[Grant, ...] = ()


class ReceiptBody(Body):
    """The result receipt of the run."""

    receipt: ResultReceipt


class EventBody(Body):
    """An entry of the ledger."""

    scope: str
    id: str
    seqno: int
    timestamp: str = Field(pattern=r"^[0-9]{1,13}$")
    data: Any = None

    @property
    def at(self) -> dt.datetime:
        """The time of the entry by the sender's clock."""
        return dt.datetime.fromtimestamp(int(self.timestamp) / 1000, dt.UTC)

    def member(self, name: str) -> Any:
        """Return a member of the entry's JSON, or None."""
        return self.data.get(name) if isinstance(self.data, dict) else None


BODIES: Mapping[Kind, type[Body]] = {
    "export": ExportBody,
    "request": RequestBody,
    "outcome": OutcomeBody,
    "document": DocumentBody,
    "key": DocumentBody,
    "decision": DocumentBody,
    "deputy": DocumentBody,
    "clean-room-policy": PolicyBody,
    "trust": TrustBody,
    "consent": ConsentBody,
    "report": ReportBody,
    "job": JobBody,
    "policies": PoliciesBody,
    "grant": GrantBody,
    "revocation": RevocationBody,
    "receipt": ReceiptBody,
    "event": EventBody,
}

DOCUMENT_KINDS: tuple[Kind, ...] = ("document", "key", "decision", "deputy")
"""Kinds whose body is a governance document (:class:`DocumentBody`)."""
