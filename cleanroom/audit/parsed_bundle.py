"""A bundle whose record bodies are parsed, and a reader that answers governance queries from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from pydantic import ValidationError

from cleanroom.audit.bodies import BODIES, Body, DocumentBody, EventBody, ExportBody, ReceiptBody
from cleanroom.audit.chain import Bundle, Kind, Record
from cleanroom.audit.verdict import Checks
from cleanroom.documents.validation import describe_validation
from cleanroom.errors import CleanRoomError, NotFound
from cleanroom.governance import Document
from cleanroom.runs.ledger import (
    CLEAN_ROOM_SOURCE,
    RUN_PINNED,
    RUNS_SCOPE,
    PinnedRequest,
    pinned_event_id,
    read_pin,
    run_key,
    runs_event_id,
    started_key,
)
from cleanroom.runs.reader import AcceptedDocument, Consent, to_accepted_document

B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class ParsedRecord(Generic[B]):
    """A record and its parsed body."""

    record: Record
    body: B


class ParsedBundle:
    """A bundle with parsed bodies.

    Records with a malformed body fail the check ``readable`` and are skipped.

    Args:
        bundle: The bundle.
        checks: Collects the failed checks.

    Raises:
        ValidationError: The first record is malformed, so nothing can be verified.
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
        """Return the records whose body is a ``kind``; ``kinds`` selects among the record kinds that share a body type."""
        found: list[ParsedRecord[B]] = []
        for item in self._items:
            if isinstance(item.body, kind) and (not kinds or item.record.kind in kinds):
                found.append(ParsedRecord(item.record, item.body))
        return found

    def one(self, kind: type[B], checks: Checks | None = None, *, what: str = "") -> ParsedRecord[B] | None:
        """Return the only record of ``kind``, or None if it is missing or not the only one.

        Args:
            kind: The body type.
            checks: If given, a missing or duplicate record is a failed check.
            what: The record's name in that check.
        """
        found = self.all(kind)
        if len(found) == 1:
            return found[0]
        if checks is not None and not found:
            checks.missing(what, self.export.run_id)
        elif checks is not None:
            checks.add("complete", found[1].record, False, f"a second {what} record")
        return None

    def document(self, document_id: str) -> ParsedRecord[DocumentBody] | None:
        """Return the record of a document, or None."""
        return next((item for item in self.all(DocumentBody) if item.record.subject == document_id), None)

    def events(self, name: str | None = None) -> list[ParsedRecord[EventBody]]:
        """Return the run's own ledger entries in order, without those of others; if given, only those called ``name``."""
        return [
            item
            for item in self.all(EventBody)
            if item.body.scope != RUNS_SCOPE and name in (None, item.body.member("name")) and not self.of_another_request(item.body)
        ]

    def pins(self) -> list[tuple[ParsedRecord[EventBody], PinnedRequest]]:
        """Return the entries that pin the run to a request, the earliest first. Only the earliest counts."""
        run_id, found = self.export.run_id, []
        for item in self.all(EventBody):
            if item.body.scope == RUNS_SCOPE and item.body.id == pinned_event_id(run_id):
                pinned = read_pin(run_id, item.body.data, item.body.at)
                if pinned is not None:
                    found.append((item, pinned))
        return sorted(found, key=lambda pair: pair[0].body.seqno)

    @cached_property
    def pinned(self) -> PinnedRequest | None:
        """The request to which the ledger pins the run."""
        found = self.pins()
        return found[0][1] if found else None

    def of_another_request(self, body: EventBody) -> bool:
        """Return whether the clean room made an entry under this run's ID for another request than the pinned one.

        The clean room refuses such entries. Earlier versions did not, so a ledger can contain them.
        """
        if self.pinned is None or body.member("source") != CLEAN_ROOM_SOURCE or body.member("name") == RUN_PINNED:
            return False
        return bool(body.member("runId") == self.export.run_id and body.member("requestDigest") != self.pinned.digest)

    def starts(self) -> list[ParsedRecord[EventBody]]:
        """Return the entries that count started runs of the query, in order."""
        return [item for item in self.all(EventBody) if item.body.scope == RUNS_SCOPE and item.body.id == runs_event_id(self.export.query)]

    @property
    def started(self) -> bool:
        """Whether, according to the ledger, a job may have been submitted."""
        return bool(self.events("RUN_STARTED"))

    @property
    def completed(self) -> bool:
        """Whether any record says that the run completed. If so, its evidence must be complete."""
        return self.export.state == "COMPLETED" or bool(self.events("RUN_COMPLETED")) or bool(self.all(ReceiptBody))


class BundleReader:
    """Reads documents and consent from a bundle instead of governance.

    :class:`cleanroom.runs.authority.RunAuthority` reads from it, so an auditor applies the same checks as the clean
    room. ``trail`` lists the records that were read, in order.

    Args:
        bundle: The bundle.
        signer: The signer of the run request.
        consented: IDs of the documents with a positive consent check.
    """

    def __init__(self, bundle: ParsedBundle, signer: str, consented: frozenset[str]) -> None:
        self._bundle = bundle
        self._signer = signer
        self._consented = consented
        self.trail: list[ParsedRecord[DocumentBody]] = []

    async def accepted_document(self, document_id: str) -> AcceptedDocument:
        """Return an accepted document from the bundle.

        Raises:
            NotFound: ``UserDocumentNotFound``.
        """
        item = self._bundle.document(document_id)
        if item is None:
            raise NotFound("UserDocumentNotFound", f"document {document_id!r} is not in the bundle.", details={"document": document_id})
        self.trail.append(item)
        return accepted_document_of(item.body)

    async def consent(self, document_id: str) -> Consent:
        """Return the consent that the bundle proves for a document.

        A user who has retired a key switched the consent of the key document off. The bundle then contains the retirement.
        """
        found = self._bundle.document(document_id)
        if found is not None and found.record.kind == "key":
            user_id = found.body.document.get("proposerId")
            retired = any(
                item.record.subject.startswith(f"{document_id}.") and item.body.document.get("proposerId") == user_id
                for item in self._bundle.all(DocumentBody, "key")
            )
            return Consent(status="disabled" if retired else "enabled")
        if document_id in self._consented:
            return Consent(status="enabled")
        return Consent(status="disabled", code="ConsentCheckMissing", message="the bundle does not contain a consent check of it")

    async def active_users(self) -> frozenset[str]:
        """Return the signer of the run request."""
        # A bundle cannot prove which users were active. The ledger's PREPARE_STARTED shows that governance accepted the signer.
        return frozenset({self._signer})

    async def pinned_request(self, run_id: str) -> PinnedRequest | None:
        """Return the request to which the bundle's earliest entry pins the run."""
        return self._bundle.pinned if run_id == self._bundle.export.run_id else None

    async def run_closed(self, run_id: str) -> bool:
        """Return False."""
        # The bundle was exported after the run, so a closed run does not contradict its grants.
        return False

    async def runs_started(self, query: str) -> frozenset[str]:
        """Return what identifies the runs of ``query`` that the ledger shows before this run."""
        pinned = self._bundle.pinned
        own_key = run_key(self._bundle.export.run_id, pinned.digest if pinned is not None else "")
        starts = [(item.body.seqno, started_key(item.body.data)) for item in self._bundle.starts()]
        own = min((seqno for seqno, key in starts if key == own_key), default=0)
        return frozenset(key for seqno, key in starts if key is not None and seqno < own)


def accepted_document_of(body: DocumentBody) -> AcceptedDocument:
    """Return the accepted document of a record.

    Raises:
        CleanRoomError: The document is malformed or not accepted.
    """
    try:
        return to_accepted_document(Document.model_validate(body.document))
    except ValidationError as error:
        raise CleanRoomError("DocumentMalformed", f"document: {describe_validation(error)}.") from error
