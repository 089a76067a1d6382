"""The bodies of a bundle's records: one model per kind of record."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from cleanroom.audit.chain import Kind
from cleanroom.identifiers import HexDigest, Name
from cleanroom.messages.run import Grant, RunState
from cleanroom.spark.job import JobConfig, ResultReceipt
from cleanroom.spark.signed import ServiceReport


class Body(BaseModel):
    """What a record holds."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")

    def wire(self) -> dict[str, Any]:
        """The body as JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ExportBody(Body):
    """The first record: of what, when and by whom. ``sealed_by`` promises the signature of that user."""

    collaboration: str
    run_id: Name
    query: Name
    state: RunState
    exported_at: AwareDatetime
    exported_by: str
    sealed_by: str | None = None


class RequestBody(Body):
    """The caller's signed run request (JWS)."""

    request: str


class OutcomeBody(Body):
    """How the run ended, as Temporal tells it."""

    workflow_id: str
    temporal_run_id: str
    state: RunState
    started_at: AwareDatetime
    closed_at: AwareDatetime
    failure: dict[str, Any] | None = None
    steps: dict[str, AwareDatetime] = {}
    """Activity name to the instant at which it was (last) completed."""


class DocumentBody(Body):
    """A document as governance holds it, votes included (spec/governance.md 4.2), and the digest of its ``data``."""

    document: dict[str, Any]
    digest: HexDigest


class PolicyBody(Body):
    """The contract's clean room policy as governance held it at the export: claim to allowed values."""

    policy: dict[str, list[Any]]


class ConsentBody(Body):
    """One consent check: when, of what, with which answer."""

    step: str
    at: AwareDatetime
    documents: tuple[str, ...]
    status: str
    message: str = ""


class ReportBody(Body):
    """The Spark service's report, the nonce it answers, when the clean room judged it and what it found."""

    report: ServiceReport
    nonce: HexDigest
    at: AwareDatetime
    verdict: dict[str, Any] = {}


class JobBody(Body):
    """The job that the pods were measured against."""

    job: JobConfig
    digest: HexDigest


class PoliciesBody(Body):
    """The pod policies' host data with the attested service's signed statement (JWS)."""

    statement: str
    driver: HexDigest
    executor: HexDigest


class GrantBody(Body):
    """One grant of the run. ``held``: whether the delegate policy still held it at the export."""

    delegate_type: str
    delegate_id: str
    host_data: HexDigest
    held: bool

    def key(self) -> tuple[str, str, str]:
        return self.delegate_type, self.delegate_id, self.host_data


class RevocationBody(Body):
    """What the run took back, and when."""

    at: AwareDatetime
    secrets: int
    grants: int
    removed: tuple[Grant, ...] = ()


class ReceiptBody(Body):
    """The result's receipt as the run delivered it."""

    receipt: ResultReceipt


class EventBody(Body):
    """One ledger entry."""

    scope: str
    id: str
    seqno: int
    timestamp: str = Field(pattern=r"^[0-9]{1,13}$")
    data: Any = None

    @property
    def at(self) -> dt.datetime:
        """The sender's clock."""
        return dt.datetime.fromtimestamp(int(self.timestamp) / 1000, dt.UTC)

    def member(self, name: str) -> Any:
        """A member of the entry's JSON, None where there is none."""
        return self.data.get(name) if isinstance(self.data, dict) else None


BODIES: Mapping[Kind, type[Body]] = {
    "export": ExportBody,
    "request": RequestBody,
    "outcome": OutcomeBody,
    "document": DocumentBody,
    "key": DocumentBody,
    "decision": DocumentBody,
    "clean-room-policy": PolicyBody,
    "consent": ConsentBody,
    "report": ReportBody,
    "job": JobBody,
    "policies": PoliciesBody,
    "grant": GrantBody,
    "revocation": RevocationBody,
    "receipt": ReceiptBody,
    "event": EventBody,
}

DOCUMENT_KINDS: tuple[Kind, ...] = ("document", "key", "decision")
"""Kinds whose body is a governance document (:class:`DocumentBody`)."""
