"""The bodies of records, by kind, and the bundle as something that governance can be read from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from cleanroom.audit.chain import Bundle, Kind, Record
from cleanroom.audit.verdict import Checks
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.governance import Document
from cleanroom.identifiers import HexDigest, Name
from cleanroom.messages.run import Grant, RunState
from cleanroom.runs.reader import AcceptedDocument, Consent
from cleanroom.runs.readers import RUNS_SCOPE, accepted, runs_event_id
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

B = TypeVar("B", bound=Body)
DOCUMENT_KINDS: tuple[Kind, ...] = ("document", "key", "decision")


@dataclass(frozen=True)
class Item(Generic[B]):
    """A record with its body read."""

    record: Record
    body: B


class Material:
    """The bundle's bodies. Records whose body is not of its kind fail the check ``readable`` and are left out.

    Raises:
        ValidationError: When the first record is not readable: then nothing can be judged.
    """

    def __init__(self, bundle: Bundle, checks: Checks) -> None:
        self.export = ExportBody.model_validate(bundle.records[0].body)
        self._items: list[Item[Body]] = []
        for record in bundle.records:
            try:
                self._items.append(Item(record, BODIES[record.kind].model_validate(record.body)))
            except ValidationError as error:
                checks.add("readable", record, False, describe_validation(error))

    def all(self, kind: type[B], *kinds: Kind) -> list[Item[B]]:
        """Items whose body is a ``kind``; ``kinds`` narrows where one shape serves several."""
        found: list[Item[B]] = []
        for item in self._items:
            if isinstance(item.body, kind) and (not kinds or item.record.kind in kinds):
                found.append(Item(item.record, item.body))
        return found

    def one(self, kind: type[B], checks: Checks | None = None, *, what: str = "") -> Item[B] | None:
        """The only item of ``kind``. With ``checks``, none or several is a failed check."""
        found = self.all(kind)
        if len(found) == 1:
            return found[0]
        if checks is not None and not found:
            checks.missing(what, self.export.run_id)
        elif checks is not None:
            checks.add("complete", found[1].record, False, f"a second {what} record")
        return None

    def document(self, document_id: str) -> Item[DocumentBody] | None:
        """The record of one document."""
        return next((item for item in self.all(DocumentBody) if item.record.subject == document_id), None)

    def events(self, name: str | None = None) -> list[Item[EventBody]]:
        """Ledger entries of the run, in order; those called ``name`` alone when given."""
        return [item for item in self.all(EventBody) if item.body.scope != RUNS_SCOPE and name in (None, item.body.member("name"))]

    @property
    def begun(self) -> bool:
        """Whether the ledger says that a job may have been submitted."""
        return bool(self.events("RUN_STARTED"))

    @property
    def completed(self) -> bool:
        """Whether anybody claims that the run completed: then the evidence for it must be there."""
        return self.export.state == "COMPLETED" or bool(self.events("RUN_COMPLETED")) or bool(self.all(ReceiptBody))


class BundleReader:
    """Governance as the bundle has it: what :class:`cleanroom.runs.authority.RunAuthority` reads from, so that an auditor applies the very
    checks that the clean room applied. ``trail`` are the records that were looked at, in order."""

    def __init__(self, material: Material, signer: str, consented: frozenset[str]) -> None:
        self._material = material
        self._signer = signer
        self._consented = consented
        self.trail: list[Item[DocumentBody]] = []

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        item = self._material.document(document_id)
        if item is None:
            raise NotFound("UserDocumentNotFound", f"document {document_id!r} is not in the bundle.", details={"document": document_id})
        self.trail.append(item)
        return as_accepted(item.body)

    async def consent(self, document_id: str) -> Consent:
        if document_id in self._consented:
            return Consent(status="enabled")
        return Consent(status="disabled", code="ConsentCheckMissing", message="the bundle holds no consent check of it")

    async def active_users(self) -> frozenset[str]:
        # Who is registered is governance's word at the time, which a bundle can only repeat; the ledger's PREPARE_STARTED stands for it.
        return frozenset({self._signer})

    async def run_closed(self, run_id: str) -> bool:
        # A bundle is made when the run is over; what was given to it was given before.
        return False

    async def runs_started(self, query: str) -> frozenset[str]:
        mine = self._material.export.run_id
        starts = [
            item.body
            for item in self._material.all(EventBody)
            if item.body.scope == RUNS_SCOPE and item.body.id == runs_event_id(query) and isinstance(item.body.member("runId"), str)
        ]
        own = min((body.seqno for body in starts if body.member("runId") == mine), default=0)
        return frozenset(str(body.member("runId")) for body in starts if body.seqno < own)


def as_accepted(body: DocumentBody) -> AcceptedDocument:
    """The document of a record.

    Raises:
        CleanRoomError: when it is not accepted, or no document.
    """
    try:
        return accepted(Document.model_validate(body.document))
    except ValidationError as error:
        raise CleanRoomError("DocumentMalformed", f"document: {describe_validation(error)}.") from error
