"""A bundle with the bodies of its records parsed, and the bundle as a source from which governance can be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import ValidationError

from cleanroom.audit.bodies import BODIES, Body, DocumentBody, EventBody, ExportBody, ReceiptBody
from cleanroom.audit.chain import Bundle, Kind, Record
from cleanroom.audit.verdict import Checks
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.governance import Document
from cleanroom.runs.ledger import RUNS_SCOPE, runs_event_id
from cleanroom.runs.reader import AcceptedDocument, Consent, to_accepted_document

B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class ParsedRecord(Generic[B]):
    """A record with its body read."""

    record: Record
    body: B


class ParsedBundle:
    """The bundle's bodies. Records whose body is not of its kind fail the check ``readable`` and are left out.

    Raises:
        ValidationError: When the first record is not readable: then nothing can be judged.
    """

    def __init__(self, bundle: Bundle, checks: Checks) -> None:
        self.export = ExportBody.model_validate(bundle.records[0].body)
        self._items: list[ParsedRecord[Body]] = []
        for record in bundle.records:
            try:
                self._items.append(ParsedRecord(record, BODIES[record.kind].model_validate(record.body)))
            except ValidationError as error:
                checks.add("readable", record, False, describe_validation(error))

    def all(self, kind: type[B], *kinds: Kind) -> list[ParsedRecord[B]]:
        """Items whose body is a ``kind``; ``kinds`` narrows where one shape serves several."""
        found: list[ParsedRecord[B]] = []
        for item in self._items:
            if isinstance(item.body, kind) and (not kinds or item.record.kind in kinds):
                found.append(ParsedRecord(item.record, item.body))
        return found

    def one(self, kind: type[B], checks: Checks | None = None, *, what: str = "") -> ParsedRecord[B] | None:
        """The only item of ``kind``. With ``checks``, none or several is a failed check."""
        found = self.all(kind)
        if len(found) == 1:
            return found[0]
        if checks is not None and not found:
            checks.missing(what, self.export.run_id)
        elif checks is not None:
            checks.add("complete", found[1].record, False, f"a second {what} record")
        return None

    def document(self, document_id: str) -> ParsedRecord[DocumentBody] | None:
        """The record of one document."""
        return next((item for item in self.all(DocumentBody) if item.record.subject == document_id), None)

    def events(self, name: str | None = None) -> list[ParsedRecord[EventBody]]:
        """Ledger entries of the run, in order; those called ``name`` alone when given."""
        return [item for item in self.all(EventBody) if item.body.scope != RUNS_SCOPE and name in (None, item.body.member("name"))]

    @property
    def started(self) -> bool:
        """Whether the ledger says that a job may have been submitted."""
        return bool(self.events("RUN_STARTED"))

    @property
    def completed(self) -> bool:
        """Whether anybody claims that the run completed: then the evidence for it must be there."""
        return self.export.state == "COMPLETED" or bool(self.events("RUN_COMPLETED")) or bool(self.all(ReceiptBody))


class BundleReader:
    """Governance as the bundle has it: what :class:`cleanroom.runs.authority.RunAuthority` reads from, so that an auditor applies the very
    checks that the clean room applied. ``trail`` are the records that were looked at, in order."""

    def __init__(self, bundle: ParsedBundle, signer: str, consented: frozenset[str]) -> None:
        self._material = bundle
        self._signer = signer
        self._consented = consented
        self.trail: list[ParsedRecord[DocumentBody]] = []

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        item = self._material.document(document_id)
        if item is None:
            raise NotFound("UserDocumentNotFound", f"document {document_id!r} is not in the bundle.", details={"document": document_id})
        self.trail.append(item)
        return accepted_document_of(item.body)

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


def accepted_document_of(body: DocumentBody) -> AcceptedDocument:
    """The document of a record.

    Raises:
        CleanRoomError: when it is not accepted, or no document.
    """
    try:
        return to_accepted_document(Document.model_validate(body.document))
    except ValidationError as error:
        raise CleanRoomError("DocumentMalformed", f"document: {describe_validation(error)}.") from error
